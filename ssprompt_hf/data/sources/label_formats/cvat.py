"""CVAT for images: one XML file of polygons and painted masks.

Source: https://docs.cvat.ai/docs/manual/advanced/xml_format/.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ....errors import LabelFormatError
from ..polygons import ellipse_points
from ..shapes import shape
from .labelled_folder import FolderView, LabelledFolder, missing_images, pixel_size
from .named_classes import named_classes
from .split_names import split_of

NAME = "CVAT for images"
LOOKS_FOR = "annotations.xml with <image> elements"


def detect(folder: FolderView) -> str | None:
    """The XML files, if there are any."""
    return ", ".join(folder.name_of(path) for path in _files(folder)) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Polygons, ellipses and painted masks, drawn by their `z_order` and then in their order, the last on top. Shapes of
    one label and one group are one object. Boxes, lines and points have no mask and are left out.

    Raises:
        LabelFormatError: not XML, or a shape is not of this form.
        NoImagesError: no image is there.
    """
    roots = [(path, _parse(path)) for path in _files(folder)]
    listed = [
        label.text.strip() for _, root in roots for label in root.iterfind("meta//labels/label/name") if label.text
    ]
    used = {one.get("label", "") for _, root in roots for one in _drawn(root)}
    names = list(dict.fromkeys([*listed, *sorted(used - set(listed))]))
    classes, index_of = named_classes(folder, names)
    splits: dict[str, list[dict[str, Any]]] = {}
    problems: list[str] = []
    for path, root in roots:
        missing, left_out, empty = [], 0, 0
        images = root.findall("image")
        for image in images:
            shapes, skipped = _shapes(path, image, index_of)
            size = _size(path, image)
            left_out += skipped
            empty += not shapes
            subset = (image.get("subset") or "").lower()
            split = split_of(Path(subset), folder.path) if subset else split_of(path, folder.path)
            file = folder.image(image.get("name", ""), [path.parent, path.parent / "images"], split)
            if file is None:
                missing.append(image.get("name", ""))
                continue
            splits.setdefault(split, []).append(folder.row(file, shapes, size))
        problems += missing_images(path.name, missing, len(images))
        if left_out:
            problems.append(f"{path.name}: {left_out} boxes, lines, points or tags have no mask; they are left out")
        if empty:
            problems.append(f"{path.name}: {empty} of {len(images)} images have no shape")
    return folder.drawn(NAME, classes, splits, problems)


def _files(folder: FolderView) -> list[Path]:
    """The XML files that begin as those of CVAT; Pascal VOC has one an image."""
    found = []
    for path in folder.ending(".xml")[:20]:
        with path.open(encoding="utf-8", errors="replace") as file:
            if "<annotations" in file.read(400):
                found.append(path)
    return found


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise LabelFormatError(f"{path}: not valid XML ({error}). Export it again.") from error


def _drawn(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [one for image in root.iterfind("image") for one in image if one.tag in ("polygon", "mask", "ellipse")]


def _size(path: Path, image: ElementTree.Element) -> tuple[int, int] | None:
    sides = [image.get(side) for side in ("height", "width")]
    if None in sides or "0" in sides:
        return None
    try:
        return pixel_size(*sides)
    except ValueError as error:
        raise LabelFormatError(
            f"{path}: the size of {image.get('name')} is not as CVAT writes it ({error}). Export it again."
        ) from error


def _shapes(path: Path, image: ElementTree.Element, index_of: dict[str, int]) -> tuple[list[dict[str, Any]], int]:
    """The shapes of an image, bottom first, and how many elements have no mask."""
    found, groups, skipped = [], {}, 0
    for number, one in enumerate(image, start=1):
        if one.tag not in ("polygon", "mask", "ellipse"):
            skipped += 1
            continue
        try:
            made = _shape(one)
            order = int(one.get("z_order", 0))
            class_index = index_of[one.get("label", "")]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise LabelFormatError(
                f"{path}: shape {number} of {image.get('name')} is not as CVAT writes it ({error!r}). Export it again."
            ) from error
        group = one.get("group_id") or "0"
        key = (class_index, f"group {group}") if group != "0" else (class_index, number)
        made |= {"class": class_index, "instance": groups.setdefault(key, len(groups) + 1)}
        found.append((order, made))
    return [made for _, made in sorted(found, key=lambda pair: pair[0])], skipped


def _shape(one: ElementTree.Element) -> dict[str, Any]:
    if one.tag == "mask":
        box = [int(float(one.attrib[key])) for key in ("left", "top", "width", "height")]
        return shape("row rle", [int(count) for count in one.attrib["rle"].split(",")], box=box)
    if one.tag == "ellipse":
        cx, cy, rx, ry = (float(one.attrib[key]) for key in ("cx", "cy", "rx", "ry"))
        return shape("polygons", [ellipse_points((cx, cy), (rx, ry), float(one.get("rotation", 0)))])
    points = [float(value) for pair in one.attrib["points"].split(";") for value in pair.split(",")]
    if len(points) < 6 or len(points) % 2:
        raise ValueError(f"a polygon of {len(points)} numbers")
    return shape("polygons", [points])
