"""What many cells of a table have in common: the images, and what the frozen base model says of them."""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..data.dataset import SegmentationDataset, SegmentationSource
from ..training.feature_cache import FeatureCache

KEPT_BYTES = 2**30
"""Memory for the images of one data set; drawing or decoding them takes as long as scoring a small model."""


class KeptSource:
    """
    A source that reads every row once, as long as there is room.

    Args:
        source: where rows come from.
        max_bytes: of what is kept.
    """

    def __init__(self, source: SegmentationSource, max_bytes: int = KEPT_BYTES):
        self.source, self.max_bytes = source, max_bytes
        self.file_names = source.file_names
        for name in ("table", "image_ids", "bits", "coco_image_ids", "semantic_ids"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))
        self._kept: dict[tuple[str, int], Any] = {}
        self._bytes = 0

    def _once(self, what: str, row: int, read: Callable[[int], Any]) -> Any:
        if (what, row) in self._kept:
            return self._kept[what, row]
        value = read(row)
        arrays = value.values() if isinstance(value, dict) else [value]
        size = sum(array.nbytes for array in arrays)
        if self._bytes + size <= self.max_bytes:
            self._kept[what, row] = value
            self._bytes += size
        return value

    def read(self, row: int) -> dict[str, Any]:
        return dict(self._once("example", row, self.source.read))

    def read_label(self, row: int) -> np.ndarray:
        if ("example", row) in self._kept:
            return self._kept["example", row]["label"]
        return self._once("label", row, self.source.read_label)

    def read_targets(self, row: int) -> dict[str, np.ndarray]:
        if ("example", row) in self._kept or not hasattr(self.source, "read_targets"):
            return {name: array for name, array in self.read(row).items() if name != "image"}
        return dict(self._once("targets", row, self.source.read_targets))

    def fingerprint(self) -> str:
        return self.source.fingerprint()


class SharedWork:
    """
    Data sets and feature caches of the cells that run one after the other. Of each kind only the last is held: cells
    come in an order in which those that share something are neighbours.

    Args:
        storage, directory, max_bytes: as of `FeatureCache`. Images to learn from and images to be scored on have a
            cache each, so that many of the latter leave room for the former; `"auto"` writes files for the former
            alone, as the latter are many and seen once a pass.
    """

    def __init__(self, storage: str, directory: str, max_bytes: int):
        self._cache_settings = storage, directory, max_bytes
        self._held: dict[str, tuple[Hashable, Any]] = {}

    def images(self, use: str, key: Hashable, load: Callable[[], SegmentationDataset]) -> SegmentationDataset:
        """The data set under `key`, opened once; `use` is `"train"` or `"eval"`."""

        def keep() -> SegmentationDataset:
            dataset = load()
            return SegmentationDataset(dataset.classes, KeptSource(dataset.source), dataset.name, dataset.rows)

        return self._hold(f"images {use}", key, keep)

    def cache(self, use: str, key: Hashable) -> FeatureCache:
        """The feature cache under `key`; `use` is `"train"` or `"eval"`."""
        return self._hold(f"features {use}", key, lambda: FeatureCache(*self._cache_settings))

    def _hold(self, kind: str, key: Hashable, make: Callable[[], Any]) -> Any:
        if kind not in self._held or self._held[kind][0] != key:
            _, last = self._held.pop(kind, (None, None))  # before the next one takes its memory
            if isinstance(last, FeatureCache) and last.storage == "auto":
                last.remove()  # the files that stood in for memory
            del last
            self._held[kind] = key, make()
        return self._held[kind][1]
