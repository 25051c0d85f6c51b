"""Rows of a table of the `datasets` library, with images and labels in its columns."""

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
from transformers.utils import logging

from ...errors import UnreadableFileError
from ..datasets_compat import table_fingerprint
from .image_files import check_size, file_bits, image_size, read_image
from .label_files import LabelFormat

logger = logging.get_logger(__name__)

MAX_DEEP_IMAGES = 64
"""So many images of more than 8 bits are looked at to know their range."""


class ColumnSource:
    """Rows of a `datasets.Dataset` with an image column and label columns.

    Args:
        dataset: the table.
        labels: how its label columns are to be read.
        image_column: a `datasets.Image` column.
        file_name_column: texts; without it a row is named like `train[12]`.
        instances: hand out instance maps, where the labels have them.
        identity: whatever else than the label files says what the labels are; part of the fingerprint.
        coco_image_ids: see `SegmentationSource`; not kept if one is None or is there twice.
        semantic_ids: see `SegmentationSource`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        labels: LabelFormat,
        image_column: str = "image",
        file_name_column: str | None = None,
        instances: bool = True,
        identity: str = "",
        coco_image_ids: Sequence[Any] | None = None,
        semantic_ids: Sequence[int] | None = None,
    ):
        self.labels, self.image_column, self.identity = labels, image_column, identity
        self.file_name_column = file_name_column
        self.instances = instances and labels.has_instances
        if file_name_column is not None:
            self.file_names = [str(name) for name in dataset.with_format(None)[file_name_column][:]]
        else:
            self.file_names = [f"{dataset.split or 'row'}[{row}]" for row in range(len(dataset))]
        wanted = [image_column, *labels.columns]
        wanted += [column for column in [file_name_column] if column is not None and column not in wanted]
        self.table_fingerprint = table_fingerprint(dataset)
        table = dataset.with_format(None).select_columns(wanted)
        for column in wanted:
            if isinstance(table.features[column], datasets.Image) and table.features[column].decode:
                # undecoded, so that a damaged file can be named and a label be read alone
                table = table.cast_column(column, datasets.Image(decode=False))
        self.table = table
        self.bits = self._used_bits()
        self.coco_image_ids, self.semantic_ids = _unique_ids(coco_image_ids or ()), semantic_ids

    def _used_bits(self) -> int | None:
        """Of images with more than 8 bits, how many are in use in some of the first ones; None for other images."""
        found = None
        for row in range(0, len(self.table), max(1, len(self.table) // MAX_DEEP_IMAGES)):
            value = self.table[row][self.image_column]
            try:
                bits = file_bits(value, str(row))
            except UnreadableFileError:  # whoever reads this row is told
                continue
            if bits is None and found is None:
                return None  # one look at the first image is enough for nearly all data sets
            found = max(found or 0, bits or 0)
        if found is not None:
            logger.warning_once(f"images of more than 8 bits: their values go up to {2**found - 1}, and are scaled so")
        return found

    def read(self, row: int) -> dict[str, Any]:
        """`image`, `label` and perhaps `instance`, as `SegmentationDataset` describes them."""
        return self.decode(self.table[row], self.file_names[row])

    def decode(self, values: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """`read` for the values of a row; `name` is what to call the image."""
        name = str(values.get(self.file_name_column, "a row")) if name is None else name
        image = read_image(values[self.image_column], _where(values, self.image_column, name), self.bits)
        label, instance = self._maps(values, name, image.shape[:2], self.instances)
        return {"image": image, "label": label} | ({} if instance is None else {"instance": instance})

    def read_label(self, row: int) -> np.ndarray:
        """The `label` of `read(row)`, without decoding the image."""
        return self._targets(row, False)[0]

    def read_targets(self, row: int) -> dict[str, np.ndarray]:
        """`read(row)` without the image, which is not decoded."""
        label, instance = self._targets(row, self.instances)
        return {"label": label} | ({} if instance is None else {"instance": instance})

    def _targets(self, row: int, instances: bool):
        values, name = self.table[row], self.file_names[row]
        size = image_size(values[self.image_column], _where(values, self.image_column, name))
        return self._maps(values, name, size, instances)

    def fingerprint(self) -> str:
        """Names, sizes and times of local label files; for anything else the fingerprint `datasets` keeps, and which
        columns are labels."""
        column = self.labels.columns[0]
        first = self.table[0][column]
        if not isinstance(first, (dict, str)) or (isinstance(first, dict) and first["bytes"] is not None):
            return f"{self.table_fingerprint} {self.labels.columns} {self.identity}"
        digest = hashlib.sha256(f"{self.labels.columns}{self.identity}".encode())
        for value in self.table.select_columns([column])[column][:]:
            path = value["path"] if isinstance(value, dict) else value
            status = os.stat(path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def image_ids(self, rows: Sequence[int]) -> list[str]:
        """The real paths of local image files; the table and the row, for images inside tables."""
        ids = [f"{self.table_fingerprint} {row}" for row in rows]
        first = self.table[int(rows[0])][self.image_column]
        if isinstance(first, dict) and first["bytes"] is None:  # else the column may be gigabytes
            values = self.table.select(rows).select_columns([self.image_column])[self.image_column][:]
            files = [value["path"] if value["bytes"] is None else None for value in values]
            ids = [key if file is None else os.path.realpath(file) for key, file in zip(ids, files)]
        return ids

    def _maps(self, values: dict[str, Any], name: str, size: tuple[int, int], instances: bool):
        def where(column: str) -> str:
            return _where(values, column, name)

        label, instance = self.labels.read(values, where, instances)
        check_size(label.shape, size, where(self.labels.columns[0]), name)
        if instances and instance is not None:
            check_size(instance.shape, size, where(self.labels.columns[-1]), name)
        return label, instance if instances else None


def _unique_ids(ids: Sequence[Any]) -> list[int | str] | None:
    """Whole numbers and texts that tell images apart, or None."""
    plain = all(isinstance(one, (int, str)) and not isinstance(one, bool) for one in ids)
    return list(ids) if ids and plain and len(set(ids)) == len(ids) else None


def _where(values: dict[str, Any], column: str, name: str) -> str:
    """The path of a value, or what else to call it."""
    value = values[column]
    if isinstance(value, str):
        return value
    path = value["path"] if isinstance(value, dict) and value.get("bytes") is None else None
    return path or f"{column} of {name}"
