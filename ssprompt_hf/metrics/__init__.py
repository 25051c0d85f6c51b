"""Metrics with streaming state. `MeanIoU` is imported when asked for, as `evaluate` is slow to import."""

from typing import TYPE_CHECKING, Any

from .confusion import confusion_matrix, scores_from_confusion

if TYPE_CHECKING:
    from .mean_iou import MeanIoU

__all__ = ["MeanIoU", "confusion_matrix", "scores_from_confusion"]


def __getattr__(name: str) -> Any:
    if name == "MeanIoU":
        from .mean_iou import MeanIoU

        return MeanIoU
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
