"""How far does clicking go? From unlabelled drawn scenes to an adapter in the studio, without its page.

    python benchmarks/studio.py                       # ten scenes, names that the base model hardly knows
    python benchmarks/studio.py --images 5 --steps 50

A person is played who sees the truth, and clicks in the middle of the largest error with the class that belongs there;
if that makes the labels no better, it is taken back, and a dab of the brush is put there. What is not labelled at last
is "all else". Then the adapter is trained on these labels, and scored on other scenes by the truth.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from clicks import middle
from PIL import Image

from ssprompt_hf.data.loading import load_segmentation_dataset
from ssprompt_hf.metrics.confusion import confusion_matrix, scores_from_confusion
from ssprompt_hf.studio.app import SSPromptStudio

PARTS = {
    "drivable surface": ("drivable surface",),
    "greenery": ("greenery", "lawn"),
    "firmament": ("firmament",),
    "motor vehicle": ("motor vehicle",),
}
"""Classes that are labelled, and what they are of the data set's; the rest is `REST`."""

REST, THINGS = "all else", ("motor vehicle",)


def act(studio: SSPromptStudio, **event) -> dict:
    """What the page sends; raises for what could not be done."""
    view = studio.act({"who": "benchmark", "event": event})
    if view["error"]:
        raise RuntimeError(view["error"])
    return view


def label(studio: SSPromptStudio, name: str, truth: np.ndarray, most: int) -> tuple[int, float]:
    """How many strokes a photograph took, and the share of pixels that are right then."""
    strokes, valid = 0, truth != 255

    def right() -> float:
        return float((studio.project.read_labels(name).classes == truth)[valid].mean())

    for _ in range(most):
        wrong = (studio.project.read_labels(name).classes != truth) & valid
        errors = [(*middle(wrong & (truth == number)), number) for number in range(len(PARTS))]
        distance, (x, y), number = max(errors)
        if distance < 5:
            break
        before = right()
        act(studio, do="finish")
        act(studio, do="choose", class_id=number)
        act(studio, do="click", x=x, y=y)
        strokes += 1
        if right() < before + 0.002:
            act(studio, do="undo")
            act(studio, do="brush", line=[[x, y]], radius=max(1, int(0.8 * distance)))
            strokes += 2
    act(studio, do="choose", class_id=len(PARTS))
    act(studio, do="fill")
    return strokes + 1, right()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Prints, and returns, mean IoU on other scenes in percent, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="seem-lite")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--strokes", type=int, default=12, help="places at most that are clicked on in an image")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--others", type=int, default=20, help="scenes to score on")
    options = parser.parse_args(arguments)
    scenes = load_segmentation_dataset(dataset="street-scenes/clear/custom", split="test")
    table = np.full(256, len(PARTS), np.uint8)
    table[255] = 255
    for number, names in enumerate(PARTS.values()):
        table[[scenes.classes.names.index(name) for name in names]] = number
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "street")
        folder.mkdir()
        for index in range(options.images):
            Image.fromarray(scenes[index]["image"]).save(folder / f"street_{index:02d}.png")
        studio, start = SSPromptStudio(folder, options.base_model), time.time()
        for name in (*PARTS, REST):
            act(studio, do="add_class", name=name, thing=name in THINGS)
        results = []
        for position in range(options.images):
            view = act(studio, do="next") if position else act(studio, do="look")
            name = view["current"]["name"]
            truth = table[scenes[studio.project.images.index(name)]["label"]]
            results.append(label(studio, name, truth, options.strokes))
        strokes, accuracies = zip(*results)
        print(f"{sum(strokes)} strokes in {options.images} images, {time.time() - start:.0f} s of the computer")
        print(f"pixels that are right in the labels: {100 * np.mean(accuracies):.1f} %")
        start = time.time()
        studio.train(options.steps)
        progress = studio.job.wait()
        if progress.state != "done":
            raise RuntimeError(progress.message)
        print(f"training: {time.time() - start:.0f} s")
        names = [*PARTS, REST]
        means = {}
        for state in ("before", "after"):
            counts = 0
            for index in range(options.images, options.images + options.others):
                found = studio.assistant.predict(scenes[index]["image"], zero_shot=state == "before").class_indices
                counts = counts + confusion_matrix(found, table[scenes[index]["label"]], len(names))
            scores = scores_from_confusion(counts, names)
            means[state] = 100 * scores["mean_iou"]
            told = ", ".join(f"{name} {100 * iou:.1f}" for name, iou in scores["per_class_iou"].items())
            print(f"{state}: mean IoU {means[state]:.1f} on {options.others} other scenes ({told})")
    return means


if __name__ == "__main__":
    main()
