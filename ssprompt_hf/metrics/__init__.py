"""Metrics with streaming state. They are imported when asked for, as `evaluate` is slow to import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .confusion import confusion_matrix, scores_from_confusion

if TYPE_CHECKING:
    from .cityscapes_ap import CityscapesAP
    from .coco_ap import CocoAP
    from .mean_iou import MeanIoU
    from .panoptic_quality import PanopticQuality

__all__ = ["CityscapesAP", "CocoAP", "MeanIoU", "PanopticQuality", "confusion_matrix", "scores_from_confusion"]

_MODULES = {
    "CityscapesAP": "cityscapes_ap",
    "CocoAP": "coco_ap",
    "MeanIoU": "mean_iou",
    "PanopticQuality": "panoptic_quality",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
