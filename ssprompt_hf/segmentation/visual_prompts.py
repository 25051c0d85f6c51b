"""What a user asks about one image, clicks, boxes, scribbles and phrases, and what a model answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import SSPromptError
from .tiles import MaskGeometry

POINTS, BOXES, SCRIBBLES, TEXT = "points", "boxes", "scribbles", "text"
KINDS = (POINTS, BOXES, SCRIBBLES, TEXT)


@dataclass(frozen=True)
class VisualPrompts:
    """
    The prompts of one image, in pixels of that image: x to the right, y down, (0, 0) in the middle of the first pixel.

    Args:
        image_size: (height, width) of the image.
        points: of O objects, float64 `(n_i, 2)` each; None without.
        labels: of O objects, int64 `(n_i,)` each: 1 for points of the object, 0 for points that are none of it.
        boxes: of O objects, float64 `(O, 4)`: left, top, right and bottom; None without.
        box_labels: int64 `(O,)`, as those of points.
        scribbles: of O objects, a list of lines, float64 `(n, 2)` each; None without.
        scribble_labels: of O objects, int64, one a line.
        text: phrases; None without.
        connected: whether of the mask of an object only the connected parts that points lie on are wanted.
    """

    image_size: tuple[int, int]
    points: list[np.ndarray] | None = None
    labels: list[np.ndarray] | None = None
    boxes: np.ndarray | None = None
    box_labels: np.ndarray | None = None
    scribbles: list[list[np.ndarray]] | None = None
    scribble_labels: list[np.ndarray] | None = None
    text: list[str] | None = None
    connected: bool = False

    @property
    def kinds(self) -> list[str]:
        """Those of `KINDS` that there are."""
        return [kind for kind in KINDS if getattr(self, kind) is not None]

    @property
    def num_objects(self) -> int:
        """O, of the points, boxes and scribbles."""
        return max((len(value) for value in (self.points, self.boxes, self.scribbles) if value is not None), default=0)

    def object(self, index: int) -> "VisualPrompts":
        """The points, box and scribbles of one object."""

        def one(values):
            return None if values is None else values[index : index + 1]

        return VisualPrompts(
            self.image_size,
            one(self.points),
            one(self.labels),
            one(self.boxes),
            one(self.box_labels),
            one(self.scribbles),
            one(self.scribble_labels),
        )


@dataclass(frozen=True)
class PromptAnswer:
    """
    What a model says of one object that was pointed at, or of one phrase.

    Args:
        masks: `(n, h, w)`, logits or probabilities at their own resolution; n may be 0.
        scores: `(n,)` float.
        geometry: how they become masks of the image.
        are_logits: which of the two.
        object_index: of the object in the prompts; None for a phrase, and for what is like the boxes (SAM 3).
        phrase: that was asked for; None for what was pointed at.
        threshold: masks with a score above it are shown, where the user gives no other; None for all, as of what was
            pointed at.
    """

    masks: Tensor
    scores: Tensor
    geometry: MaskGeometry
    are_logits: bool = True
    object_index: int | None = None
    phrase: str | None = None
    threshold: float | None = None


def read_prompts(
    image_size: tuple[int, int],
    points: Any = None,
    labels: Any = None,
    boxes: Any = None,
    box_labels: Any = None,
    scribbles: Any = None,
    scribble_labels: Any = None,
    text: Any = None,
    connected: bool = False,
) -> VisualPrompts:
    """
    Prompts as users write them: in lists, tuples, arrays or tensors.

    Args:
        image_size: (height, width) of the image.
        points: `(x, y)`, one click; a list of them, the clicks on one object; or a list of such lists, one an object.
        labels: one number a point, nested as they are: 1 (on the object, the default) or 0 (not on it).
        boxes: `(left, top, right, bottom)`, or a list of them, one an object.
        box_labels: one number a box.
        scribbles: a line, that is a list of `(x, y)`; a list of lines, of one object; or a list of such lists.
        scribble_labels: one number a line.
        text: a phrase, or a list of phrases.
        connected: keep only the connected parts of a mask that points on its object lie on: this car, and none of
            those that look like it. A mask that no point lies on stays as it is.

    Raises:
        SSPromptError: there are none; a prompt of another form, or outside the image; labels that do not fit;
            different numbers of objects.
    """
    given = {"labels": (labels, points, "points"), "box_labels": (box_labels, boxes, "boxes")}
    given["scribble_labels"] = (scribble_labels, scribbles, "scribbles")
    for name, (own, prompts, of) in given.items():
        if own is not None and prompts is None:
            raise SSPromptError(f"{name} were given without {of}")
    if connected and points is None:
        raise SSPromptError("connected keeps the parts of a mask that points lie on, but there are no points")
    point_sets = label_sets = lines = line_labels = None
    if points is not None:
        point_sets = [_rows(one, 2, POINTS, image_size) for one in _nested(points, 1, 3, POINTS)]
        label_sets = _label_sets(labels, [len(one) for one in point_sets], "labels", POINTS)
    if boxes is not None:
        boxes = _rows(_nested(boxes, 1, 2, BOXES), 4, BOXES, image_size)
        wrong = (boxes[:, 0] > boxes[:, 2]) | (boxes[:, 1] > boxes[:, 3])
        if wrong.any():
            raise SSPromptError(f"the box {_numbers(boxes[wrong][0])} must be left, top, right, bottom")
        (box_labels,) = _label_sets(box_labels, [len(boxes)], "box_labels", BOXES)
    if scribbles is not None:
        nested = _nested(scribbles, 2, 4, SCRIBBLES)
        if not all(isinstance(one, list) for one in nested):
            raise SSPromptError(f"scribbles is {scribbles!r}; each object must have a list of lines")
        lines = [[_rows(line, 2, SCRIBBLES, image_size) for line in one] for one in nested]
        line_labels = _label_sets(scribble_labels, [len(one) for one in lines], "scribble_labels", SCRIBBLES)
    prompts = VisualPrompts(
        tuple(image_size), point_sets, label_sets, boxes, box_labels, lines, line_labels, _phrases(text), connected
    )
    if not prompts.kinds:
        raise SSPromptError(f"there is nothing to look for: give {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    counts = {kind: len(getattr(prompts, kind)) for kind in prompts.kinds if kind != TEXT}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{kind} of {count}" for kind, count in counts.items())
        raise SSPromptError(f"there are {told} objects: give each object its prompts, or ask in several calls")
    return prompts


def _plain(value: Any) -> Any:
    """Lists and numbers of lists, tuples, arrays and tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _nested(value: Any, least: int, most: int, name: str) -> list:
    """`value` in as many lists as the deepest form has."""
    value = inner = _plain(value)
    depth = 0
    while isinstance(inner, list) and inner:
        depth, inner = depth + 1, inner[0]
    if not least <= depth <= most or isinstance(inner, list):
        raise SSPromptError(f"{name} is {value!r}, nested {depth} deep: it must be nested {least} to {most} deep")
    for _ in range(most - depth):
        value = [value]
    return value


def _rows(values: Any, columns: int, name: str, image_size: tuple[int, int]) -> np.ndarray:
    """float64 `(n, columns)` of coordinates inside the image."""
    try:
        rows = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.empty(0)
    if rows.ndim != 2 or rows.shape[1] != columns or not np.isfinite(rows).all():
        form = "(x, y)" if columns == 2 else "(left, top, right, bottom)"
        raise SSPromptError(f"{name} holds {values!r}; it must hold {form}, in pixels")
    height, width = image_size
    outside = ~((rows >= -0.5) & (rows <= np.array([width, height] * (columns // 2)))).all(axis=1)
    if outside.any():
        raise SSPromptError(
            f"{name} holds {_numbers(rows[outside][0])}, outside the image of {width}x{height} pixels: coordinates "
            "are x, y in pixels of the image"
        )
    return rows


def _label_sets(labels: Any, counts: list[int], name: str, of: str) -> list[np.ndarray]:
    """int64 of each object, one number a prompt; all 1 without labels."""
    if labels is None:
        return [np.ones(count, dtype=np.int64) for count in counts]
    given = _plain(labels)
    given = given if isinstance(given, list) else [given]
    if given and not isinstance(given[0], list):
        given = [given]
    try:
        sets = [np.asarray(one) for one in given]
        fits = [one.shape for one in sets] == [(count,) for count in counts]
        fits = fits and all(np.isin(one, (0, 1)).all() for one in sets)
    except (TypeError, ValueError):  # nested unevenly, or neither numbers nor lists
        fits = False
    if not fits:
        raise SSPromptError(
            f"{name} is {labels!r}; it must hold a number for each of {of}, nested as they are: 1 (on the object) or "
            "0 (not on it)"
        )
    return [one.astype(np.int64) for one in sets]


def _phrases(text: Any) -> list[str] | None:
    if text is None:
        return None
    phrases = [text] if isinstance(text, str) else text
    if (
        not isinstance(phrases, Iterable)
        or not (phrases := list(phrases))
        or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases)
    ):
        raise SSPromptError(f"text is {text!r}; it must be a phrase, or a list of phrases that are not empty")
    return phrases


def _numbers(row: np.ndarray) -> str:
    return f"({', '.join(f'{value:g}' for value in row)})"
