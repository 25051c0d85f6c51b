"""The one form in which training and evaluation see every data set."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

import datasets
import numpy as np
from transformers.utils import logging

from ..errors import NoImagesError
from .classes import SegmentationClasses
from .sources.image_files import check_size, image_size, read_image
from .sources.label_files import LabelFormat

logger = logging.get_logger(__name__)


class SegmentationSource(Protocol):
    """Where the rows of a `SegmentationDataset` come from. Must survive pickling, for loader workers.

    A source may have a `table`, a `datasets.Dataset` with the undecoded columns, and `decode(values)`, which does for
    the values of one of its rows what `read` does for its number; and `image_ids(rows)`, a text for each of the rows
    that is the same in all data sets that show this very image, and differs between images.
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
        """Hexadecimal digest of all that decides the label maps: the labels' identity, the ids and colours of classes
        and of ignored pixels, and the rows; computed at every call."""
        classes = self.classes
        ids_and_colors = [[info.id, info.color] for info in classes.classes]
        content = [self.source.fingerprint(), ids_and_colors, classes.ignore_ids, classes.ignore_color, self.rows]
        text = json.dumps(content, default=lambda value: list(value) if isinstance(value, range) else int(value))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def select(self, indices: Iterable[int], **unused: Any) -> "SegmentationDataset":
        """The images at `indices`, in that order. Further options of `datasets.Dataset.select` change nothing here.

        Raises:
            NoImagesError: `indices` is empty.
            IndexError: an index is outside the data set.
        """
        return SegmentationDataset(self.classes, self.source, self.name, [self.rows[int(index)] for index in indices])


def check_disjoint(train: SegmentationDataset, evaluation: SegmentationDataset) -> int:
    """Warns if images to learn from are also among those to be scored on, which makes scores too good.

    Images are the same if their files are (links followed), or for images inside tables, if they are the same row of
    the same table. For sources without such an identity, those of one type and `name`, their `file_names` decide.

    Returns:
        how many images of `train` are in `evaluation` too.
    """
    both = (train, evaluation)
    if all(hasattr(images.source, "image_ids") for images in both):
        ids = [images.source.image_ids(images.rows) for images in both]
    elif train.name == evaluation.name and type(train.source) is type(evaluation.source):
        ids = [images.file_names for images in both]
    else:
        return 0
    scored = set(ids[1])
    shared = [name for key, name in zip(ids[0], train.file_names) if key in scored]
    if shared:
        logger.warning(
            f"{len(shared)} of the {len(train)} images to learn from ({train.name}) are also among the "
            f"{len(evaluation)} images to be scored on ({evaluation.name}), the first is {shared[0]}: scores on them "
            "do not tell how well unseen images are segmented. Take them out of one of the two splits."
        )
    return len(shared)


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


def _where(values: dict[str, Any], column: str, name: str) -> str:
    """The path of a value, or what else to call it."""
    value = values[column]
    if isinstance(value, str):
        return value
    path = value["path"] if isinstance(value, dict) and value.get("bytes") is None else None
    return path or f"{column} of {name}"
