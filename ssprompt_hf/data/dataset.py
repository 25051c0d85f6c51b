"""The one form in which training and evaluation see every data set."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from ..errors import ImageSizeError, LabelFormatError, NoImagesError, UnreadableFileError
from .classes import SegmentationClasses

if TYPE_CHECKING:
    import datasets

ORIENTATION = 0x0112  # EXIF tag; values from 5 on exchange rows and columns


class SegmentationSource(Protocol):
    """Where the rows of a `SegmentationDataset` come from. Must survive pickling, for loader workers."""

    file_names: Sequence[str]
    """One name a row; unique, and the same whenever the data set is opened."""

    def read(self, row: int) -> dict[str, Any]:
        """`image`, `label` and perhaps `instance`, as `SegmentationDataset` describes them."""

    def read_label(self, row: int) -> np.ndarray:
        """The `label` of `read(row)`, without decoding the image."""

    def fingerprint(self) -> str:
        """A text that changes when labels may have changed."""


class SegmentationDataset:
    """Map-style data set of images with label maps.

    `dataset[i]` is a dict of `image` (uint8 (H, W, 3), RGB), `label` (uint8 (H, W), class index, 255 ignored),
    `instance` (int32 (H, W), 0 where there is none; only if the data set has them) and `file_name` (str). Every read
    checks what it reads.

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

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"SegmentationDataset({self.name!r}, {len(self)} images, {len(self.classes)} classes)"

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return self.source.read(row) | {"file_name": self.source.file_names[row]}

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

    def select(self, indices: Iterable[int]) -> "SegmentationDataset":
        """The images at `indices`, in that order.

        Raises:
            NoImagesError: `indices` is empty.
            IndexError: an index is outside the data set.
        """
        return SegmentationDataset(self.classes, self.source, self.name, [self.rows[int(index)] for index in indices])


class ColumnSource:
    """Rows of a `datasets.Dataset` with an image and a label column.

    Args:
        dataset: the table.
        classes: the class list that turns label ids into indices.
        image_column: a `datasets.Image` column.
        label_column: a `datasets.Image` column, or one of two-dimensional arrays of class ids.
        instance_column: the same with instance ids.
        file_name_column: texts; without it a row is named like `train[12]`.
    """

    def __init__(
        self,
        dataset: "datasets.Dataset",
        classes: SegmentationClasses,
        image_column: str = "image",
        label_column: str = "label",
        instance_column: str | None = None,
        file_name_column: str | None = None,
    ):
        import datasets

        self.classes = classes
        self.image_column, self.label_column, self.instance_column = image_column, label_column, instance_column
        if file_name_column is not None:
            self.file_names = [str(name) for name in dataset[file_name_column]]
        else:
            self.file_names = [f"{dataset.split or 'row'}[{row}]" for row in range(len(dataset))]
        wanted = [column for column in (image_column, label_column, instance_column) if column is not None]
        self.table_fingerprint = dataset._fingerprint
        table = dataset.with_format(None).select_columns(wanted)
        for column in wanted:
            if isinstance(table.features[column], datasets.Image):
                # undecoded, so that a damaged file can be named and a label be read alone
                table = table.cast_column(column, datasets.Image(decode=False))
        self.table = table

    def read(self, row: int) -> dict[str, Any]:
        values = self.table[row]
        image = read_image(values[self.image_column], self._where(values, row, self.image_column))
        example = {"image": image, "label": self._label(values, row, image.shape[:2])}
        if self.instance_column is not None:
            where = self._where(values, row, self.instance_column)
            instance = _read_map(values[self.instance_column], where)
            if instance.ndim != 2 or instance.dtype.kind not in "bui":
                raise LabelFormatError(
                    f"{where}: an instance map is a single-channel image of integer ids; found shape "
                    f"{instance.shape}, type {instance.dtype}."
                )
            _check_size(instance.shape, image.shape[:2], where, self.file_names[row])
            example["instance"] = instance.astype(np.int32)
        return example

    def read_label(self, row: int) -> np.ndarray:
        values = self.table[row]
        size = _image_size(values[self.image_column], self._where(values, row, self.image_column))
        return self._label(values, row, size)

    def fingerprint(self) -> str:
        """Names, sizes and times of local label files; the fingerprint `datasets` keeps, for anything else."""
        labels = self.table.select_columns([self.label_column])
        first = labels[0][self.label_column]
        if not isinstance(first, dict) or first["bytes"] is not None:
            return self.table_fingerprint
        digest = hashlib.sha256()
        for value in labels[self.label_column]:
            status = os.stat(value["path"])
            digest.update(f"{value['path']}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _label(self, values: dict[str, Any], row: int, size: tuple[int, int]) -> np.ndarray:
        where = self._where(values, row, self.label_column)
        label = _read_map(values[self.label_column], where)
        _check_size(label.shape[:2], size, where, self.file_names[row])
        return self.classes.encode(label, where)

    def _where(self, values: dict[str, Any], row: int, column: str) -> str:
        value = values[column]
        path = value["path"] if isinstance(value, dict) and value["bytes"] is None else None
        return path or f"{column} of {self.file_names[row]}"


def _open(value: Any, source: str, decode: bool = True) -> Image.Image:
    """Opens, and by default decodes, an image given as `{"path": ..., "bytes": ...}`."""
    if not isinstance(value, dict):
        raise UnreadableFileError(f"{source}: expected an image file, found {type(value).__name__}.")
    try:
        image = Image.open(BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])
        if decode:
            image.load()
        return image
    # Pillow reports damaged files as OSError, broken PNG chunks as SyntaxError or ValueError
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableFileError(
            f"{source}: cannot be read as an image ({error}). Replace the file, or remove it and its partner."
        ) from error


def read_image(value: Any, source: str) -> np.ndarray:
    """uint8 (H, W, 3), RGB, turned upright as its EXIF data says."""
    image = ImageOps.exif_transpose(_open(value, source))
    if image.mode.startswith("I;16"):  # Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def _image_size(value: Any, source: str) -> tuple[int, int]:
    """(H, W) of the upright image, from the file's header."""
    with _open(value, source, decode=False) as image:
        width, height = image.size
        return (width, height) if image.getexif().get(ORIENTATION, 1) >= 5 else (height, width)


def _read_map(value: Any, source: str) -> np.ndarray:
    """The stored numbers of a label: (H, W), or (H, W, C) for colour images. Palette images give their indices."""
    if not isinstance(value, dict):
        array = np.asarray(value)
        return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    image = _open(value, source)
    if image.format == "JPEG":
        raise LabelFormatError(f"{source}: a JPEG, which changes class ids. Save labels as PNG.")
    return np.asarray(image)


def _check_size(shape: tuple[int, ...], size: tuple[int, int], source: str, image: str) -> None:
    if tuple(shape) != tuple(size):
        raise ImageSizeError(
            f"{source}: {shape[1]}x{shape[0]} pixels, but the image {image} has {size[1]}x{size[0]}. Both must have "
            "the same size; resize labels with nearest-neighbour only."
        )
