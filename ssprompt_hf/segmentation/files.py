"""Masks as files: PNGs of ids and COCO's annotations."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..data.classes import Color
from ..errors import SSPromptError
from ..utils.run_length import coco_rle


def save_ids(path: str | os.PathLike, ids: np.ndarray, colors: Mapping[int, Color]) -> None:
    """
    Write ids as a PNG: of 8 bits with a palette, or of 16 bits, which have none, if an id is above 255.

    Args:
        path: ends in `.png`.
        ids: integer (H, W), 0 to 65535.
        colors: RGB of the ids; others are black, and 255, as a rule "no class", is white.

    Raises:
        SSPromptError: another ending; other formats, JPEG above all, may change ids.
    """
    if os.path.splitext(path)[1].lower() != ".png":
        raise SSPromptError(f"{os.fspath(path)}: ids are kept only by PNG; let the name end in .png")
    if ids.max(initial=0) > 255:
        Image.fromarray(ids.astype(np.uint16)).save(path)
        return
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[255] = 255
    for number, color in colors.items():
        if number < 256:
            palette[number] = color
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(palette.tobytes())
    image.save(path)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of a mask, bool (H, W), the last two behind it; None if it is empty."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class CocoDataset:
    """Images, masks and categories as the JSON of COCO has them; masks are run-length codes."""

    def __init__(self):
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.categories: dict[int, str] = {}

    def add(self, file_name: str, size: tuple[int, int], annotations: list[dict[str, Any]]) -> None:
        """An image of a size (width, height) with what [`coco_annotation`] has made of its masks."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "width": size[0], "height": size[1]})
        for annotation in annotations:
            self.annotations.append({"id": len(self.annotations) + 1, "image_id": number, **annotation})

    def to_dict(self) -> dict[str, Any]:
        """The content of the file."""
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def coco_annotation(mask: np.ndarray, category_id: int, score: float | None) -> dict[str, Any]:
    """
    A mask as COCO has it.

    Args:
        mask: bool (H, W), not empty.
        category_id: of its class.
        score: left out if it is None.
    """
    left, top, right, bottom = bounding_box(mask)
    annotation = {
        "category_id": category_id,
        "segmentation": coco_rle(mask),
        "bbox": [left, top, right - left, bottom - top],
        "area": int(np.count_nonzero(mask)),
        "iscrowd": 0,
    }
    return annotation if score is None else annotation | {"score": score}
