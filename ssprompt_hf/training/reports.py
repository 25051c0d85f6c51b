"""What runs say of their scores, for programs and for people."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.dataset import SegmentationDataset
from ..data.few_shot import label_statistics
from ..model import SSPromptModel
from ..plotting.overlays import comparison_picture
from ..plotting.tables import markdown_table
from ..utils.files import atomic_path
from .evaluator import ADAPTED, ZERO_SHOT

METRICS, PICTURE, TABLE = "metrics.json", "picture.png", "table.md"
HEADLINES = {
    "mean_iou": ("miou", "mIoU"),
    "coco_ap": ("coco_ap", "AP (COCO)"),
    "cityscapes_ap": ("cityscapes_ap", "AP (Cityscapes)"),
    "pq": ("pq", "PQ"),
}
"""The scores that stand for others: their names in short, and in tables."""


def headlines(scores: dict[str, dict], method: str) -> dict[str, float]:
    """
    `zero_shot_miou`, `ssprompt_miou` (or another method's), and the same of AP (in two definitions) and PQ where they
    were computed.
    """
    return {
        f"{title}_{short}": scores[name][key]
        for key, (short, _) in HEADLINES.items()
        for name, title in ((ZERO_SHOT, "zero_shot"), (ADAPTED, method.lower()))
        if key in scores.get(name, {})
    }


def comparison_table(metrics: Mapping[str, dict[str, Any]]) -> str:
    """
    Adapters in rows, beside each other, in Markdown: headline scores, with the zero-shot score of the same classes,
    then the IoU of each class.

    Args:
        metrics: of each adapter, by name, as `metrics.json` has them (in percent).
    """
    known = {key for one in metrics.values() for key in one["scores"][ADAPTED]}
    keys = [key for key in HEADLINES if key in known]
    header = ["adapter", "method", "images"]
    for key in keys:
        header += [f"{HEADLINES[key][1]}, zero-shot", HEADLINES[key][1]]
    rows = []
    for name, one in metrics.items():
        row = [name, one["method"], one["evaluation_images"]]
        for key in keys:
            row += [_percent(one["scores"][state].get(key)) for state in (ZERO_SHOT, ADAPTED)]
        rows.append(row)
    classes = list(next(iter(metrics.values()))["scores"][ADAPTED]["per_class_iou"])
    by_class = [
        [each, *(_percent(one["scores"][ADAPTED]["per_class_iou"][each]) for one in metrics.values())]
        for each in classes
    ]
    ious = markdown_table(["", *metrics], by_class)
    return f"{markdown_table(header, rows)}\n\nIoU of each class, %:\n\n{ious}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.1f}"


def in_percent(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores from 0 to 1, and dicts of such, in percent; tables for people round them."""
    return {
        name: {key: 100 * x for key, x in value.items()} if isinstance(value, dict) else 100 * value
        for name, value in scores.items()
    }


def write_picture(
    path: Path,
    model: SSPromptModel,
    images: SegmentationDataset,
    scores: dict[str, dict],
    image_size: int | None,
    adapter: str = "default",
) -> None:
    """Image, truth and predictions of the image that shows the most classes (of the first 32; the first such).
    `scores` holds those of the states that are shown; it is empty where nothing was scored and both are."""
    settings = {"task": "semantic", "image_size": image_size}
    statistics = label_statistics(images.select(range(min(len(images), 32))))
    example = images[int((statistics.pixel_counts > 0).sum(1).argmax())]
    predictions = {ZERO_SHOT: None, ADAPTED: None}
    for state in (ADAPTED, ZERO_SHOT):
        if state == ZERO_SHOT or state in scores or not scores:
            with model.base_model.use_adapter(adapter, zero_shot=state == ZERO_SHOT):
                predictions[state] = model.predict(example["image"], **settings).class_indices
    titles = {
        name: f"{title}, mean IoU {scores[name]['mean_iou']:.1f} over all images" if name in scores else title
        for name, title in ((ZERO_SHOT, "zero-shot"), (ADAPTED, model.peft_config[adapter].method_name))
    }
    picture = comparison_picture(example["image"], images.classes, example["label"], **predictions, titles=titles)
    with atomic_path(path) as temporary:
        picture.save(temporary)
