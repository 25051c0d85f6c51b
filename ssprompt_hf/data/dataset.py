"""The one form in which training and evaluation see every data set."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import datasets
import numpy as np

from ..errors import NoImagesError
from .classes import SegmentationClasses
from .image_files import check_size, image_size, read_image
from .label_files import LabelFormat


class SegmentationSource(Protocol):
    """Where the rows of a `SegmentationDataset` come from. Must survive pickling, for loader workers.

    A source may have a `table`, a `datasets.Dataset` with the undecoded columns, and `decode(values)`, which does for
    the values of one of its rows what `read` does for its number.
    """

    file_names: Sequence[str]
    """One name a row; unique, and the same whenever the data set is opened."""

    def read(self, row: int) -> dict[str, Any]:
        """`image`, `label` and perhaps `instance`, as `SegmentationDataset` describes them."""

    def read_label(self, row: int) -> np.ndarray:
        """The `label` of `read(row)`, without decoding the image."""

    def fingerprint(self) -> str:
        """A text that changes when labels may have changed."""


class SegmentationDataset(datasets.Dataset):
    """Images with label maps: a `datasets.Dataset` that reads its files when a row is asked for.

    `dataset[i]` is a dict of `image` (uint8 (H, W, 3), RGB), `label` (uint8 (H, W), class index, 255 ignored),
    `instance` (int32 (H, W), numbers of objects; only if the data set has them) and `file_name` (str). Pixels of a
    thing whose instance is 0 are a group of objects nobody told apart ("crowd"): no target, and ignored by metrics.
    Every read checks what it reads. Slices give dicts of lists. What `select` returns is of this class; what the other
    methods of `datasets.Dataset` return (`shuffle`, ...) decodes its rows alike, but is a plain `datasets.Dataset`.

    Args:
        classes: the class list.
        source: reads single rows.
        name: what the data set is called in messages and adapter files.
        rows: the rows of `source` to show, in order; all when None.

    Raises:
        NoImagesError: there is no row.
    """

    def __init__(
        self,
        classes: SegmentationClasses,
        source: SegmentationSource,
        name: str,
        rows: Sequence[int] | None = None,
    ):
        self.classes = classes
        self.source = source
        self.name = name
        self.rows: Sequence[int] = range(len(source.file_names)) if rows is None else list(rows)
        if not len(self.rows):
            raise NoImagesError(f"{name}: no images.")
        table = getattr(source, "table", None)
        if table is None:
            table = datasets.Dataset.from_dict({"row": range(len(source.file_names)), "file_name": source.file_names})
        if rows is not None:
            table = table.select(self.rows)
        super().__init__(table.data, table.info, table.split, table._indices, table._fingerprint)
        # what `set_transform` does, but for a digest of the whole source, which may hold gigabytes of images
        self._format_type, self._format_kwargs = "custom", {"transform": _Decode(source)}

    def __repr__(self) -> str:
        return f"SegmentationDataset({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, (int, np.integer)):
            return super().__getitem__(key)
        row = self.rows[key]
        return self.source.read(row) | {"file_name": self.source.file_names[row]}

    def __getitems__(self, keys: Iterable[int]) -> list[dict[str, Any]]:
        return [self[int(key)] for key in keys]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def read_label(self, index: int) -> np.ndarray:
        """uint8 (H, W): `self[index]["label"]`, without decoding the image."""
        return self.source.read_label(self.rows[index])

    @property
    def file_names(self) -> list[str]:
        """One unique name an image."""
        return [self.source.file_names[row] for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the labels' identity, the class ids and the rows; computed at every call."""
        content = [self.source.fingerprint(), self.classes.ids, list(self.classes.ignore_ids), list(self.rows)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]

    def select(self, indices: Iterable[int], **unused: Any) -> "SegmentationDataset":
        """The images at `indices`, in that order. Further options of `datasets.Dataset.select` change nothing here.

        Raises:
            NoImagesError: `indices` is empty.
            IndexError: an index is outside the data set.
        """
        return SegmentationDataset(self.classes, self.source, self.name, [self.rows[int(index)] for index in indices])


class _Decode:
    """The format of a `SegmentationDataset`'s table: undecoded columns -> images and maps."""

    def __init__(self, source: SegmentationSource):
        self.source = source

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        rows = [dict(zip(batch, values)) for values in zip(*batch.values())]
        table = getattr(self.source, "table", None)
        if not set(["row"] if table is None else table.column_names) <= set(batch):
            return batch  # some columns alone, which `datasets` asks for as they are
        read = (lambda values: self.source.read(values["row"])) if table is None else self.source.decode
        examples = [{**({"file_name": v["file_name"]} if "file_name" in v else {}), **read(v)} for v in rows]
        return {key: [example[key] for example in examples] for key in examples[0]}


class ColumnSource:
    """Rows of a `datasets.Dataset` with an image column and label columns.

    Args:
        dataset: the table.
        labels: how its label columns are to be read.
        image_column: a `datasets.Image` column.
        file_name_column: texts; without it a row is named like `train[12]`.
        instances: hand out instance maps, where the labels have them.
        identity: whatever else than the label files says what the labels are; part of the fingerprint.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        labels: LabelFormat,
        image_column: str = "image",
        file_name_column: str | None = None,
        instances: bool = True,
        identity: str = "",
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
        self.table_fingerprint = dataset._fingerprint
        table = dataset.with_format(None).select_columns(wanted)
        for column in wanted:
            if isinstance(table.features[column], datasets.Image) and table.features[column].decode:
                # undecoded, so that a damaged file can be named and a label be read alone
                table = table.cast_column(column, datasets.Image(decode=False))
        self.table = table

    def read(self, row: int) -> dict[str, Any]:
        return self.decode(self.table[row], self.file_names[row])

    def decode(self, values: dict[str, Any], name: str | None = None) -> dict[str, Any]:
        """`read` for the values of a row; `name` is what to call the image."""
        name = str(values.get(self.file_name_column, "a row")) if name is None else name
        image = read_image(values[self.image_column], _where(values, self.image_column, name))
        label, instance = self._maps(values, name, image.shape[:2], self.instances)
        return {"image": image, "label": label} | ({} if instance is None else {"instance": instance})

    def read_label(self, row: int) -> np.ndarray:
        values, name = self.table[row], self.file_names[row]
        size = image_size(values[self.image_column], _where(values, self.image_column, name))
        return self._maps(values, name, size, False)[0]

    def fingerprint(self) -> str:
        """Names, sizes and times of local label files; the fingerprint `datasets` keeps, for anything else."""
        column = self.labels.columns[0]
        first = self.table[0][column]
        if not isinstance(first, (dict, str)) or (isinstance(first, dict) and first["bytes"] is not None):
            return self.table_fingerprint
        digest = hashlib.sha256(f"{self.labels.columns}{self.identity}".encode())
        for value in self.table.select_columns([column])[column][:]:
            path = value["path"] if isinstance(value, dict) else value
            status = os.stat(path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _maps(self, values: dict[str, Any], name: str, size: tuple[int, int], instances: bool):
        def where(column: str) -> str:
            return _where(values, column, name)

        label, instance = self.labels.read(values, where, instances)
        check_size(label.shape, size, where(self.labels.columns[0]), name)
        if instances and instance is not None:
            check_size(instance.shape, size, where(self.labels.columns[-1]), name)
        return label, instance if instances else None


def _where(values: dict[str, Any], column: str, name: str) -> str:
    """The path of a value, or what else to call it."""
    value = values[column]
    if isinstance(value, str):
        return value
    path = value["path"] if isinstance(value, dict) and value.get("bytes") is None else None
    return path or f"{column} of {name}"
