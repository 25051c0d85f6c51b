"""Data sets, few-shot selection and transforms."""

from .classes import ClassInfo, SegmentationClasses
from .dataset import SegmentationDataset
from .datasets.catalog import KNOWN_DATASETS
from .few_shot import FewShotSelection, label_statistics, select_shots
from .loading import load_segmentation_dataset, load_street_scenes, wrap_dataset
from .sources.folder import load_segmentation_folder

__all__ = [
    "KNOWN_DATASETS",
    "ClassInfo",
    "FewShotSelection",
    "SegmentationClasses",
    "SegmentationDataset",
    "label_statistics",
    "load_segmentation_dataset",
    "load_segmentation_folder",
    "load_street_scenes",
    "select_shots",
    "wrap_dataset",
]
