"""How label files say what class, and which object, a pixel belongs to.

A label format turns one row of a table into a label map and, where the files tell objects apart, an instance map.
Those of a single data set stand in its module; here are the ones that several share.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ...errors import LabelFormatError, LabelIdError
from ..classes import IGNORE_INDEX, IdTable, SegmentationClasses
from .image_files import open_image, read_map

Where = Callable[[str], str]
"""Column -> what to call its value in an error, usually the file's path."""

Maps = tuple[np.ndarray, np.ndarray | None]
"""uint8 (H, W) class indices, 255 ignored; int32 (H, W) numbers of objects, 0 where there is none, or None."""


class LabelFormat(Protocol):
    """Reads the label of one row. Must survive pickling."""

    columns: tuple[str, ...]
    """What `read` needs of a row."""

    has_instances: bool
    """Whether `read` finds instances."""

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        """Label and instance map of a row; without `instances` the latter may be None."""


def keep_things(label: np.ndarray, instance: np.ndarray, classes: SegmentationClasses) -> np.ndarray:
    """int32 (H, W): `instance` where `label` is a thing, else 0."""
    is_thing = np.zeros(IGNORE_INDEX + 1, bool)
    is_thing[classes.thing_indices] = True
    return np.where(is_thing[label], instance, 0).astype(np.int32)


def read_instance_map(value: Any, source: str) -> np.ndarray:
    """int32 (H, W): a single-channel map of object numbers.

    Raises:
        LabelFormatError: something else.
    """
    instance = read_map(value, source)
    if instance.ndim != 2 or instance.dtype.kind not in "bui":
        raise LabelFormatError(
            f"{source}: an instance map is a single-channel image of integer ids; found shape {instance.shape}, type "
            f"{instance.dtype}."
        )
    return instance.astype(np.int32)


def read_rgb_map(value: Any, source: str) -> np.ndarray:
    """int64 (H, W, 3): the channels of a colour image that holds numbers.

    Raises:
        LabelFormatError: something else.
    """
    pixels = read_map(value, source)
    if pixels.ndim != 3 or pixels.shape[2] < 3 or pixels.dtype != np.uint8:
        raise LabelFormatError(
            f"{source}: expected a colour PNG whose channels are numbers; found shape {pixels.shape}, type "
            f"{pixels.dtype}."
        )
    return pixels[..., :3].astype(np.int64)


@dataclass(frozen=True)
class IdMaps:
    """Label maps of class ids (or of declared colours), and perhaps separate maps of instance ids.

    Args:
        ids: turns ids into class indices.
        label_column: images, or two-dimensional arrays.
        instance_column: the same with instance ids; None if there are none.
    """

    ids: SegmentationClasses | IdTable
    label_column: str = "label"
    instance_column: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.label_column,) if self.instance_column is None else (self.label_column, self.instance_column)

    @property
    def has_instances(self) -> bool:
        return self.instance_column is not None

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where(self.label_column)
        value = values[self.label_column]
        if isinstance(self.ids, SegmentationClasses):
            label = read_label(self.ids, value, source)
        else:
            label = self.ids.encode(read_map(value, source), source)
        if not instances or self.instance_column is None:
            return label, None
        return label, read_instance_map(values[self.instance_column], where(self.instance_column))


@dataclass(frozen=True)
class ColorMaps:
    """Label maps in which every class has its colour, as colour images or as palette images of any order.

    Args:
        classes: each class with its colour; `ignore_color` is ignored.
    """

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label",)
    has_instances: bool = False

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        image = open_image(values["label"], source)
        if image.mode != "P":
            return self.classes.encode(np.asarray(image.convert("RGB")), source), None
        return _by_palette(self.classes, image, source), None


def read_label(classes: SegmentationClasses, value: Any, source: str) -> np.ndarray:
    """
    uint8 (H, W) class indices, 255 ignored, of a label image or array of numbers or of declared colours.

    A palette image is read by its numbers; by the colours of its palette where the class list is one of colours
    (`SegmentationClasses.by_color`) and knows all of these.

    Raises:
        LabelIdError: a number or colour that is neither a class nor ignored.
        LabelFormatError: neither numbers nor colours.
    """
    if isinstance(value, dict) and classes.by_color:
        image = open_image(value, source)
        if image.mode == "P":
            try:
                return _by_palette(classes, image, source)
            except LabelIdError:
                if set(np.unique(np.asarray(image)).tolist()) - {*classes.ids, *classes.ignore_ids}:
                    raise
    return classes.encode(read_map(value, source), source)


def _by_palette(classes: SegmentationClasses, image: Image.Image, source: str) -> np.ndarray:
    """uint8 (H, W): the class indices of a palette image, by the colours of its palette."""
    index_of = {color: index for index, color in enumerate(classes.colors)}
    index_of.setdefault(classes.ignore_color, IGNORE_INDEX)
    palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    table = np.full(256, -1, np.int16)
    for entry, color in enumerate(palette[:256].tolist()):
        table[entry] = index_of.get(tuple(color), -1)
    label = table[np.asarray(image)]
    if (label < 0).any():
        entry = int(np.asarray(image)[label < 0][0])
        raise LabelIdError(
            f"{source}: palette entry {entry} has the colour {tuple(palette[entry].tolist())}, which belongs to no "
            "class."
        )
    return label.astype(np.uint8)
