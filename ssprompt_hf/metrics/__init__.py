"""Metrics with streaming state. Those for `evaluate`, which is slow to import, are imported when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .cityscapes_ap import CityscapesScores
from .coco_ap import CocoScores
from .confusion import confusion_matrix, scores_from_confusion
from .panoptic_quality import PanopticScores

if TYPE_CHECKING:
    from .evaluate_modules import CityscapesAP, CocoAP, PanopticQuality
    from .mean_iou import MeanIoU

_MODULES = {
    "CityscapesAP": "evaluate_modules",
    "CocoAP": "evaluate_modules",
    "MeanIoU": "mean_iou",
    "PanopticQuality": "evaluate_modules",
}

__all__ = [
    "CityscapesAP",
    "CityscapesScores",
    "CocoAP",
    "CocoScores",
    "MeanIoU",
    "PanopticQuality",
    "PanopticScores",
    "confusion_matrix",
    "scores_from_confusion",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
