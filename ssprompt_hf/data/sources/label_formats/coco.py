"""COCO instances: one JSON file of images, categories and annotations, as CVAT, Roboflow and Label Studio export it.

Source: https://cocodataset.org/#format-data.
"""

from pathlib import Path
from typing import Any

from ....errors import LabelFormatError
from ...classes import IGNORE_INDEX, MAX_ID, ClassInfo, SegmentationClasses
from ..shapes import SHAPES_COLUMN, shape
from .labelled_folder import FolderView, LabelledFolder, missing_images, split_of

NAME = "COCO instances"
LOOKS_FOR = "a JSON file with images, annotations and categories"


def detect(folder: FolderView) -> str | None:
    """The JSON files, if there are any."""
    files = [path for path, _ in _documents(folder)]
    return ", ".join(folder.name_of(path) for path in files) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Polygons and run-length codes, compressed and not. All categories are things, unless their `isthing` says no.

    Shapes may overlap, and the file does not say which lies on top: smaller ones lie on larger ones, and groups
    (`iscrowd`) below all. CVAT writes `iscrowd` for whatever was painted with a brush; these are single objects.

    Raises:
        LabelFormatError: the file is not of this form; names the entry.
        NoImagesError: none of its images is there.
    """
    documents = _documents(folder)
    classes, index_of = _classes(documents)
    splits: dict[str, list[dict[str, Any]]] = {}
    problems: list[str] = []
    for path, data in documents:
        split = split_of(path, folder.path)
        near = (path.parent, folder.path / "images" / split, folder.path / split, folder.path / "images")
        names, shapes, sizes = {}, {}, {}
        entry = "an image"
        try:
            for image in data["images"]:
                names[image["id"]], shapes[image["id"]] = image["file_name"], []
                sizes[image["id"]] = (image["height"], image["width"]) if image.get("height") else None
            left_out = 0
            for number, annotation in enumerate(data["annotations"]):
                entry = f"annotation {annotation.get('id', number)}"
                one = _shape(annotation, index_of, sizes.get(annotation["image_id"]))
                if one is None:
                    left_out += 1
                else:
                    shapes[annotation["image_id"]].append(one)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LabelFormatError(
                f"{path}: {entry} is not as COCO writes it ({type(error).__name__}: {error}). Export it again."
            ) from error
        missing = []
        for image_id, name in names.items():
            image = folder.image(name, [place for place in near if place.is_dir()])
            if image is None:
                missing.append(str(name))
                continue
            ordered = sorted(shapes[image_id], key=lambda one: (not one["crowd"], -one.pop("area")))
            for instance, one in enumerate(ordered, start=1):
                one["instance"] = instance
            splits.setdefault(split, []).append(folder.row(image, ordered, sizes[image_id]))
        problems += missing_images(path.name, missing, len(names))
        if left_out:
            problems.append(f"{path.name}: {left_out} annotations have a box and no outline; they are left out")
        empty = sum(not found for found in shapes.values())
        if empty:
            problems.append(f"{path.name}: {empty} of {len(names)} images have no annotation")
    if splits and not any(row[SHAPES_COLUMN] for rows in splits.values() for row in rows):
        raise LabelFormatError(
            f"{folder.path}: the annotations of {documents[0][0].name} have no outlines. Boxes alone do not say which "
            "pixels are an object's: export polygons or masks."
        )
    return folder.drawn(NAME, classes, splits, problems)


def _documents(folder: FolderView) -> list[tuple[Path, Any]]:
    """Of several kinds in one folder, such as captions and keypoints, those of instances."""
    found = folder.documents.get("coco", [])
    chosen = [(path, data) for path, data in found if path.name.startswith("instances")]
    return chosen or [pair for pair in found if any("segmentation" in one for one in pair[1]["annotations"][:100])]


def _classes(documents: list[tuple[Path, Any]]) -> tuple[SegmentationClasses, dict[Any, int]]:
    """The class list, and category id -> class index."""
    categories: dict[Any, dict] = {}
    used = set()
    for path, data in documents:
        try:
            categories |= {entry["id"]: entry for entry in data["categories"]}
            used |= {one["category_id"] for one in data["annotations"]}
        except (KeyError, TypeError) as error:
            raise LabelFormatError(f"{path}: its categories are not as COCO writes them ({error!r}).") from error
    groups = {entry.get("supercategory") for entry in categories.values()}
    # Roboflow writes the name of the project as a category that is above all others and has no annotation
    kept = [
        entry
        for key, entry in categories.items()
        if not (key not in used and key == 0 and entry.get("name") in groups and len(categories) > 1)
    ]
    plain = all(isinstance(entry["id"], int) and 0 <= entry["id"] <= MAX_ID for entry in kept)
    infos = tuple(
        ClassInfo(
            str(entry.get("name", "")).strip(),
            entry["id"] if plain else number,
            bool(entry.get("isthing", 1)),
        )
        for number, entry in enumerate(kept, start=0 if plain else 1)
    )
    ids = {info.id for info in infos}
    classes = SegmentationClasses(infos, tuple({IGNORE_INDEX} - ids))
    return classes, {entry["id"]: index for index, entry in enumerate(kept)}


def _shape(annotation: dict[str, Any], index_of: dict, size: tuple[int, int] | None) -> dict[str, Any] | None:
    """None for an annotation without outline."""
    mask = annotation.get("segmentation")
    if not mask:
        return None
    class_index = index_of[annotation["category_id"]]
    crowd = bool(annotation.get("iscrowd", 0))
    attributes = annotation.get("attributes")
    if crowd and isinstance(attributes, dict) and "occluded" in attributes:
        crowd = bool(attributes.get("is_crowd", False))
    if isinstance(mask, dict):
        if isinstance(mask["counts"], list):
            counts = [int(count) for count in mask["counts"]]
            area = sum(counts[1::2])
        else:
            counts, area = str(mask["counts"]), 0
        height, width = (int(length) for length in mask["size"])
        one = shape("coco rle", {"size": [height, width], "counts": counts}, class_index, crowd=crowd)
    else:
        polygons = [[float(value) for value in points] for points in mask]
        for points in polygons:
            if len(points) < 6 or len(points) % 2:
                raise ValueError(f"an outline of {len(points)} numbers; it needs three points of x and y, or more")
        area = sum(polygon_area(points) for points in polygons)
        one = shape("polygons", polygons, class_index, crowd=crowd)
    return one | {"area": float(annotation.get("area") or area)}


def polygon_area(points: list[float]) -> float:
    """Of an outline, x and y by turns, by the shoelace formula."""
    x, y = points[::2], points[1::2]
    return abs(sum(a * d - c * b for a, b, c, d in zip(x, y, x[1:] + x[:1], y[1:] + y[:1]))) / 2
