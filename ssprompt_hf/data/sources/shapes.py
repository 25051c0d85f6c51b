"""Labels that are lists of shapes: outlines and run-length codes, each with its class and object."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ...errors import ImageSizeError, LabelFormatError
from ...utils.run_length import rle_runs
from ..classes import IGNORE_INDEX, SegmentationClasses
from .image_files import TRANSPOSED, stored_size
from .label_files import Maps, Where
from .polygons import coco_polygon, drawn

SHAPES_COLUMN, SIZE_COLUMN = "shapes", "annotated_size"

SHAPE_FEATURES = {
    SHAPES_COLUMN: datasets.List(datasets.Value("string")),
    SIZE_COLUMN: datasets.List(datasets.Value("int32")),
}
"""Columns of a row: the shapes as JSON, bottom first; (H, W) of the image as the tool knew it, empty if it did not."""


def shape(
    form: str, data: Any, class_index: int | None = None, instance: int = 0, crowd: bool = False, **more: Any
) -> dict[str, Any]:
    """
    One shape of a label.

    Args:
        form: how the mask is given, a key of `FORMS`.
        data: the mask in this form.
        class_index: of the class; `IGNORE_INDEX` for pixels to ignore.
        instance: number of the object in its image, 0 if it is none.
        crowd: a group of objects that nobody told apart.
        more: further values of the form.

    Raises:
        ValueError: a coordinate is not finite.
    """
    outlines = data if form in ("polygons", "relative polygons") else [data] if form == "drawing" else []
    if not all(np.isfinite(np.asarray(points, np.float64)).all() for points in outlines):
        raise ValueError("a coordinate is no finite number")
    return {"form": form, "data": data, "class": class_index, "instance": instance, "crowd": crowd} | more


def _polygons(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for points in shape["data"]:
        mask |= coco_polygon(points, size)
    return mask


def _relative_polygons(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    for points in shape["data"]:
        corners = np.round(np.asarray(points, np.float64).reshape(-1, 2) * [size[1], size[0]]).astype(int)
        mask |= drawn("polygon", corners.tolist(), size)
    return mask


def _drawing(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    return drawn(shape["kind"], shape["data"], size, shape.get("width", 1))


def _coco_rle(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    height, width = shape["data"]["size"]
    if (height, width) != size:
        raise ValueError(f"its run-length code is of {width}x{height} pixels")
    [starts], [ends] = rle_runs([shape["data"]])
    return _between(starts, ends, height * width).reshape(width, height).T


def _row_rle(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Lengths of runs along the rows of a box, the first outside the mask."""
    left, top, width, height = shape["box"]
    _check_fits((height, width), size)
    total = sum(shape["data"])
    if total != width * height or min(shape["data"]) < 0:
        raise ValueError(f"its runs add up to {total} pixels, its box has {width}x{height}")
    bounds = np.cumsum([0, *shape["data"]])
    bounds = np.append(bounds, bounds[-1]) if len(bounds) % 2 == 0 else bounds
    return _placed(_between(bounds[1::2], bounds[2::2], bounds[-1]).reshape(height, width), left, top, size)


def _png(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """A PNG in base64 of which `left` and `top` say where it lies."""
    image = Image.open(BytesIO(base64.b64decode(shape["data"])))
    _check_fits((image.height, image.width), size)
    mask = np.asarray(image) > 0
    return _placed(mask if mask.ndim == 2 else mask.any(-1), shape["left"], shape["top"], size)


def _brush(shape: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    if tuple(shape["size"]) != size:
        raise ValueError(f"its brush is of {shape['size'][1]}x{shape['size'][0]} pixels")
    values = label_studio_brush(shape["data"], 4 * size[0] * size[1])
    return values.reshape(*size, 4)[..., 3] > 0


DAMAGED = (
    *(ValueError, TypeError, KeyError, IndexError, OverflowError, OSError, MemoryError),
    *(SyntaxError, EOFError, Image.DecompressionBombError),  # of PNGs, by Pillow
)

FORMS: dict[str, Callable[[dict[str, Any], tuple[int, int]], np.ndarray]] = {
    "polygons": _polygons,
    "relative polygons": _relative_polygons,
    "drawing": _drawing,
    "coco rle": _coco_rle,
    "row rle": _row_rle,
    "png": _png,
    "brush": _brush,
}
"""How a mask is given, and what makes bool (H, W) of it."""


def _between(starts: np.ndarray, ends: np.ndarray, count: int) -> np.ndarray:
    """bool (count,): the pixels of these runs."""
    change = np.zeros(count + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    return np.cumsum(change[:-1]) > 0


def _check_fits(box: tuple[int, int], size: tuple[int, int]) -> None:
    """Raises `ValueError` for a part of an image (both (H, W)) that is larger than it: not a byte of it is made."""
    if box[0] > size[0] or box[1] > size[1]:
        raise ValueError(f"its box has {box[1]}x{box[0]} pixels, the image {size[1]}x{size[0]}")


def _placed(mask: np.ndarray, left: int, top: int, size: tuple[int, int]) -> np.ndarray:
    whole = np.zeros(size, bool)
    inside = mask[max(0, -top) : size[0] - top, max(0, -left) : size[1] - left]
    whole[max(0, top) : max(0, top) + inside.shape[0], max(0, left) : max(0, left) + inside.shape[1]] = inside
    return whole


def label_studio_brush(code: Sequence[int], count: int) -> np.ndarray:
    """
    The values of a brush mask of Label Studio, uint8 (`count`,): R, G, B and alpha of each pixel by turns.

    The code is a stream of bits: the number of values (32 bits), the bits of a value less one (5), and four lengths
    less one (4 each). Then, until all values are there: whether one value is repeated (1), which of the four lengths
    the count has (2), the count less one, and that value, or so many values.

    Raises:
        ValueError: the stream ends too early, or is of another number of values.

    Source: `decode_rle` of `brush.py` of https://github.com/HumanSignal/label-studio-sdk.
    """
    bits = (np.unpackbits(np.asarray(code, np.uint8)) + 48).tobytes().decode("ascii")
    position = 0

    def read(length: int) -> int:
        nonlocal position
        position += length
        if position > len(bits):
            raise ValueError("its brush code ends too early")
        return int(bits[position - length : position], 2)

    total, word = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    if total != count:
        raise ValueError(f"its brush has {total} values, where an image of its size has {count}")
    parts, done = [], 0
    while done < total:
        repeated = read(1)
        run = read(lengths[read(2)]) + 1
        if repeated:
            parts.append(np.full(run, read(word), np.uint8))
        else:
            parts.append(np.array([read(word) for _ in range(run)], np.uint8))
        done += run
    return np.concatenate(parts)[:total] if parts else np.zeros(0, np.uint8)


@dataclass(frozen=True)
class DrawnShapes:
    """
    Labels that are lists of shapes, drawn from the first to the last, so that the last lies on top.

    Shapes lie in the image as it is shown upright, which is what annotation tools show; or as it is stored, where the
    size that the tool wrote down says so. Pixels without shape are of the class `unlabelled`.

    Args:
        classes: the class list.
        unlabelled: class index, or `IGNORE_INDEX`.
        image_column: the images, whose headers tell their sizes.
    """

    classes: SegmentationClasses
    unlabelled: int = IGNORE_INDEX
    image_column: str = "image"
    columns: tuple[str, ...] = (SHAPES_COLUMN, SIZE_COLUMN)

    @property
    def has_instances(self) -> bool:
        return bool(self.classes.thing_indices)

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where(self.image_column)
        stored, orientation = stored_size(values[self.image_column], source)
        upright = stored[::-1] if orientation >= 5 else stored
        known = tuple(values[SIZE_COLUMN]) or upright
        if known not in (upright, stored):
            raise ImageSizeError(
                f"{source}: {upright[1]}x{upright[0]} pixels, but it was annotated with {known[1]}x{known[0]}. Use "
                "the image that was annotated, or export the annotations again."
            )
        label = np.full(known, self.unlabelled, np.uint8)
        instance = np.zeros(known, np.int32)
        things = set(self.classes.thing_indices)
        for number, text in enumerate(values[SHAPES_COLUMN], start=1):
            one = json.loads(text)
            try:
                mask = FORMS[one["form"]](one, known)
            except DAMAGED as error:
                raise LabelFormatError(
                    f"{source}: shape {number} of {len(values[SHAPES_COLUMN])} cannot be drawn: {error}. Export the "
                    "annotations again, or remove the shape."
                ) from error
            label[mask] = one["class"]
            instance[mask] = one["instance"] if one["class"] in things and not one["crowd"] else 0
        if known != upright:
            label, instance = (
                np.asarray(Image.fromarray(array).transpose(TRANSPOSED[orientation])) for array in (label, instance)
            )
        return label, instance if instances and things else None
