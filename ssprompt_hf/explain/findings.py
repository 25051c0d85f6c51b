"""What the counts of `observe` say: gains and losses, confusions, images worth a look, which prompts serve a class."""

from typing import Any

import numpy as np

from .observation import STATES, Observations, Serving

LEAST_CHANGE = 5e-4
"""Of IoU: what would be written as 0.0 percent is no gain and no loss."""

LEAST_SHARE = 5e-3
"""Of a class: a prompt that gives less does not serve it."""


def class_changes(scores: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Classes from the largest gain in IoU to the largest loss.

    Args:
        scores: by state, as `scores_from_confusion` gives them with class names.

    Returns:
        `class`, and `zero_shot`, `adapted` and `gain` from 0 to 1, of the classes that have an IoU in both.
    """
    before, after = (scores[state]["per_class_iou"] for state in STATES)
    changes = [
        {"class": name, "zero_shot": before[name], "adapted": after[name], "gain": after[name] - before[name]}
        for name in before
    ]
    return sorted((change for change in changes if not np.isnan(change["gain"])), key=lambda change: -change["gain"])


def largest_confusions(
    confusions: dict[str, np.ndarray], names: list[str], by: str = "adapted", count: int = 8
) -> list[dict[str, Any]]:
    """
    The pairs of classes that most pixels are confused between.

    Args:
        confusions: by state, `(K, K + 1)`.
        names: K.
        by: the state whose largest confusions are wanted; those of the other one stand beside them.
        count: how many at most.

    Returns:
        `truth`, `predicted`, and by state the share of the truth's pixels, and `pixels`, the share of all pixels in
        the state `by`; largest number of pixels first.
    """
    wrong = confusions[by][:, : len(names)].copy()
    np.fill_diagonal(wrong, 0)
    truth_pixels = confusions[by].sum(axis=1)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:count]
    pairs = [divmod(int(pair), len(names)) for pair in largest if wrong.flat[pair] > 0]
    return [
        {
            "truth": names[truth],
            "predicted": names[predicted],
            **{state: float(confusions[state][truth, predicted] / truth_pixels[truth]) for state in STATES},
            "pixels": float(wrong[truth, predicted] / truth_pixels.sum()),
        }
        for truth, predicted in pairs
    ]


def image_scores(pixels: np.ndarray) -> np.ndarray:
    """
    Mean IoU of each image over the classes in it (float64 `(N,)`), NaN without labelled pixels.

    Args:
        pixels: `(N, K, 3)`, right, true and predicted pixels (see `Observations.images`).
    """
    right, truth, predicted = (pixels[..., part].astype(np.float64) for part in range(3))
    present = truth > 0
    iou = right / np.maximum(truth + predicted - right, 1)
    counts = present.sum(axis=1)
    return np.where(counts > 0, (iou * present).sum(axis=1) / np.maximum(counts, 1), np.nan)


def worst_images(seen: Observations, count: int) -> list[dict[str, Any]]:
    """The `count` images with the lowest mean IoU with the adapter: `image` (index), and the mean IoU by state."""
    scores = {state: image_scores(seen.images[state]) for state in STATES}
    order = [int(index) for index in np.argsort(scores["adapted"]) if not np.isnan(scores["adapted"][index])]
    return [{"image": index, **{state: float(scores[state][index]) for state in STATES}} for index in order[:count]]


def example_images(seen: Observations, changes: list[dict[str, Any]], names: list[str], count: int) -> list[dict]:
    """
    For the classes that gained most and lost most, the image in which this shows best.

    A class's errors in an image are the pixels in which truth and prediction disagree about it.

    Args:
        seen: the counts.
        changes: of `class_changes`.
        names: K.
        count: how many classes of each kind at most.

    Returns:
        those of `changes`, with `kind` (`"gained"` or `"lost"`) and `image` (index).
    """
    errors = {}
    for state in STATES:
        right, truth, predicted = (seen.images[state][..., part] for part in range(3))
        errors[state] = truth + predicted - 2 * right
    fewer = errors["zero_shot"] - errors["adapted"]
    gained = [change | {"kind": "gained"} for change in changes if change["gain"] >= LEAST_CHANGE][:count]
    lost = [change | {"kind": "lost"} for change in reversed(changes) if change["gain"] <= -LEAST_CHANGE][:count]
    for change in gained + lost:
        column = fewer[:, names.index(change["class"])]
        change["image"] = int(column.argmax() if change["kind"] == "gained" else column.argmin())
    return gained + lost


def serving_prompts(serving: Serving, names: list[str], count: int = 3) -> dict[str, list[dict[str, Any]]]:
    """
    For each class the prompts that its pixels come from.

    Args:
        serving: of one state.
        names: K.
        count: how many prompts at most.

    Returns:
        by class name, largest share first: `prompt` (index), `share` of the class's pixels (soft, see `Serving`),
        `wins` (share of its pixels in which the prompt is first) and `correct` (how much of the share is right). A
        class that is given to no pixel has none; prompts below `LEAST_SHARE` are left out.
    """
    shares = serving.class_shares()
    found: dict[str, list] = {}
    for index, name in enumerate(names):
        order = np.argsort(-shares[:, index], kind="stable")[:count]
        pixels = serving.wins[:, index].sum()
        found[name] = [
            {
                "prompt": int(prompt),
                "share": float(shares[prompt, index]),
                "wins": float(serving.wins[prompt, index] / pixels),
                "correct": float(serving.correct[prompt, index] / serving.mass[prompt, index]),
            }
            for prompt in order
            if shares[prompt, index] >= LEAST_SHARE
        ]
    return found


def prompt_roles(serving: Serving, names: list[str]) -> list[dict[str, Any]]:
    """For each prompt `class`, the one it serves most (None if nothing is left to it), what part of its mass goes
    there (`focus`), and its share of all pixels (`share`)."""
    mass = serving.mass.sum(axis=1)
    best = serving.mass.argmax(axis=1)
    everything = max(float(mass.sum()), 1.0)
    return [
        {
            "class": names[best[prompt]] if mass[prompt] > 0 else None,
            "focus": float(serving.mass[prompt, best[prompt]] / mass[prompt]) if mass[prompt] > 0 else None,
            "share": float(mass[prompt] / everything),
        }
        for prompt in range(len(mass))
    ]
