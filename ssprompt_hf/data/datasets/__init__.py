"""Data sets known by name, in their official layouts: a module each, with its class list."""

from .catalog import KNOWN_DATASETS, describe_dataset, find_known_dataset
from .layouts import DatasetInfo, default_cache_dir
from .loading import load_known_dataset

__all__ = [
    "KNOWN_DATASETS",
    "DatasetInfo",
    "default_cache_dir",
    "describe_dataset",
    "find_known_dataset",
    "load_known_dataset",
]
