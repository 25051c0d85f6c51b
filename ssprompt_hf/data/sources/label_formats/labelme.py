"""LabelMe: a JSON file of shapes beside each image.

Source: https://github.com/wkentaro/labelme (`label_file.py`, `utils/shape.py`).
"""

import base64
import binascii
from collections import Counter
from pathlib import Path
from typing import Any

from ....errors import LabelFormatError
from ...classes import IGNORE_INDEX
from ..shapes import shape
from .labelled_folder import FolderView, LabelledFolder, kind_of, missing_images, pixel_size
from .named_classes import named_classes
from .split_names import split_of

NAME = "LabelMe"
LOOKS_FOR = "a JSON file with shapes and imagePath for each image"

IGNORED = "__ignore__"
LINE_WIDTH, POINT_RADIUS = 10, 5

LEAST_POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1, "mask": 1}
"""The shapes that have a mask, and of how many points they are at least."""


def detect(folder: FolderView) -> str | None:
    """The first JSON file, if there is one."""
    found = folder.documents.get("labelme")
    return found and folder.name_of(found[0][0])


def read(folder: FolderView) -> LabelledFolder:
    """
    Polygons, rectangles, circles, lines, points and painted masks, drawn as LabelMe draws them: in their order, the
    last on top. Shapes of other kinds have no mask and are left out. Shapes of one label and one `group_id` are one
    object, every other shape is one of its own. Shapes called `__ignore__` are ignored pixels. A `labels.txt` gives
    the order of the classes, which else is alphabetical.

    Raises:
        LabelFormatError: a file is not of this form.
        NoImagesError: no image is there.
    """
    documents = []
    for path in folder.ending(".json"):
        if path.parent.name == "images" and path.name == "metadata.json":
            continue
        data = folder.parsed(path)
        if kind_of(data) == "labelme":
            documents.append((path, data))
    names = {_label(path, one) for path, data in documents for one in data["shapes"]} - {IGNORED}
    classes, index_of = named_classes(folder, names)
    index_of[IGNORED] = IGNORE_INDEX
    splits: dict[str, list[dict[str, Any]]] = {}
    missing = []
    without_mask: Counter[str] = Counter()
    for path, data in documents:
        split = split_of(path.parent, folder.path)
        image = folder.image(data.get("imagePath") or path.stem, [path.parent], split)
        image = image or next((p for p in folder.image_files if p.with_suffix("") == path.with_suffix("")), None)
        size = _size(path, data)
        shapes = _shapes(path, data["shapes"], index_of)
        without_mask.update(kind for kind in map(_kind, data["shapes"]) if kind not in LEAST_POINTS)
        if image is not None:
            row = folder.row(image, shapes, size)
        elif data.get("imageData"):
            row = folder.row(path, shapes, size) | {"image": _embedded(path, data["imageData"])}
        else:
            missing.append(str(data.get("imagePath")))
            continue
        splits.setdefault(split, []).append(row)
    problems = missing_images("LabelMe", missing, len(documents))
    problems += [
        f"{n} shapes of the kind {kind!r} have no mask; they are left out" for kind, n in without_mask.items()
    ]
    known = {row["file_name"] for rows in splits.values() for row in rows}
    bare = [path for path in folder.image_files if folder.name_of(path) not in known]
    if bare:
        problems.append(f"{len(bare)} images have no JSON file and are left out, the first is {bare[0].name}")
    return folder.drawn(NAME, classes, splits, problems)


def _label(path: Path, one: Any) -> str:
    if not isinstance(one, dict) or not isinstance(one.get("label"), str) or not one["label"].strip():
        raise LabelFormatError(f"{path}: a shape has no label. Give it one in LabelMe, or remove it.")
    return one["label"].strip()


def _size(path: Path, data: dict[str, Any]) -> tuple[int, int] | None:
    height, width = data.get("imageHeight"), data.get("imageWidth")
    if not height or not width:
        return None
    try:
        return pixel_size(height, width)
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelFormatError(
            f"{path}: imageHeight and imageWidth are no size of an image ({error}). Save it again in LabelMe."
        ) from error


def _embedded(path: Path, text: str) -> dict[str, Any]:
    try:
        return {"path": None, "bytes": base64.b64decode(text)}
    except (binascii.Error, TypeError, ValueError) as error:
        raise LabelFormatError(f"{path}: its imageData is no image in base64 ({error}).") from error


def _shapes(path: Path, found: list[dict[str, Any]], index_of: dict[str, int]) -> list[dict[str, Any]]:
    shapes: list[dict[str, Any]] = []
    groups: dict[tuple, int] = {}
    for number, one in enumerate(found, start=1):
        label = _label(path, one)
        if _kind(one) not in LEAST_POINTS:
            continue
        group = (label, number if one.get("group_id") is None else f"group {one['group_id']}")
        instance = groups.setdefault(group, len(groups) + 1)
        try:
            shapes.append(_shape(one) | {"class": index_of[label], "instance": instance})
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise LabelFormatError(
                f"{path}: shape {number} ({label}) is not as LabelMe writes it ({error}). Draw it again, or remove it."
            ) from error
    return shapes


def _kind(one: dict[str, Any]) -> str:
    return str(one.get("shape_type") or "polygon")


def _shape(one: dict[str, Any]) -> dict[str, Any]:
    points = [(float(x), float(y)) for x, y in one["points"]]
    kind = _kind(one)
    if len(points) < LEAST_POINTS[kind]:
        raise ValueError(f"a {kind} of {len(points)} points")
    if kind == "mask":
        return shape("png", one["mask"], left=int(points[0][0]), top=int(points[0][1]))
    if kind == "rectangle":
        return shape("drawing", points[:2], kind="rectangle")
    if kind in ("circle", "point"):
        x, y = points[0]
        radius = POINT_RADIUS
        if kind == "circle":
            radius = ((points[1][0] - x) ** 2 + (points[1][1] - y) ** 2) ** 0.5
        return shape("drawing", [(x - radius, y - radius), (x + radius, y + radius)], kind="ellipse")
    if kind in ("line", "linestrip"):
        return shape("drawing", points, kind="line", width=LINE_WIDTH)
    return shape("drawing", points, kind="polygon")
