"""Data sets, few-shot selection and transforms."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
    from .dataset import SegmentationDataset, SegmentationSource, check_disjoint
    from .datasets.catalog import KNOWN_DATASETS
    from .few_shot import FewShotSelection, LabelStatistics, label_statistics, select_shots
    from .loading import load_segmentation_dataset
    from .sources.columns import ColumnSource
    from .sources.folder import load_segmentation_folder
    from .sources.hub import wrap_dataset
    from .street_scenes.dataset import load_street_scenes

# Imported on first use: a class list or a single image (`predict`) should not wait for the `datasets` library.
_EXPORTS = {
    "IGNORE_INDEX": ".classes",
    "KNOWN_DATASETS": ".datasets.catalog",
    "ClassInfo": ".classes",
    "ColumnSource": ".sources.columns",
    "FewShotSelection": ".few_shot",
    "LabelStatistics": ".few_shot",
    "SegmentationClasses": ".classes",
    "SegmentationDataset": ".dataset",
    "SegmentationSource": ".dataset",
    "check_disjoint": ".dataset",
    "label_statistics": ".few_shot",
    "load_segmentation_dataset": ".loading",
    "load_segmentation_folder": ".sources.folder",
    "load_street_scenes": ".street_scenes.dataset",
    "select_shots": ".few_shot",
    "wrap_dataset": ".sources.hub",
}

__all__ = [
    "IGNORE_INDEX",
    "KNOWN_DATASETS",
    "ClassInfo",
    "ColumnSource",
    "FewShotSelection",
    "LabelStatistics",
    "SegmentationClasses",
    "SegmentationDataset",
    "SegmentationSource",
    "check_disjoint",
    "label_statistics",
    "load_segmentation_dataset",
    "load_segmentation_folder",
    "load_street_scenes",
    "select_shots",
    "wrap_dataset",
]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
