"""COCO instances: one JSON file of images, categories and annotations, as CVAT, Roboflow and Label Studio export it.

Source: https://cocodataset.org/#format-data.
"""

from pathlib import Path
from typing import Any

from ....errors import LabelFormatError
from ...classes import IGNORE_INDEX, MAX_ID, ClassInfo, SegmentationClasses
from ..shapes import SHAPES_COLUMN, shape
from .categories import join_categories
from .labelled_folder import FolderView, LabelledFolder, missing_images, pixel_size
from .split_names import split_of

NAME = "COCO instances"
LOOKS_FOR = "a JSON file with images, annotations and categories"


def detect(folder: FolderView) -> str | None:
    """The JSON files, if there are any."""
    files = [path for path, _ in _documents(folder)]
    return ", ".join(folder.name_of(path) for path in files) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Polygons and run-length codes, compressed and not. All categories are things, unless their `isthing` says no.
    Categories of one name are one class, whatever their numbers in each file; what several files of a split say of an
    image belongs together.

    Shapes may overlap, and the file does not say which lies on top: smaller ones lie on larger ones, and groups
    (`iscrowd`) below all. CVAT writes `iscrowd` for whatever was painted with a brush; these are single objects.

    Raises:
        LabelFormatError: the file is not of this form; names the entry.
        ClassListError: two categories of a file have one name.
        NoImagesError: none of its images is there.
    """
    documents = _documents(folder)
    classes, indices, problems = _classes(documents)
    found: dict[str, dict[Path, list[dict[str, Any]]]] = {}
    sizes: dict[Path, tuple[int, int]] = {}
    ids: dict[tuple[str, Path], Any] = {}
    for (path, data), index_of in zip(documents, indices):
        split = split_of(path, folder.path)
        near = (path.parent, folder.path / "images" / split, folder.path / split, folder.path / "images")
        near = [place for place in near if place.is_dir()]
        names, size_of, shapes, left_out = _entries(path, data, index_of)
        places = {image_id: folder.image(name, near, split) for image_id, name in names.items()}
        named: dict[Path | None, set[str]] = {}
        for image_id, image in places.items():
            named.setdefault(image, set()).add(names[image_id])
        rows = found.setdefault(split, {})
        others = {image: list(drawn) for image, drawn in rows.items()}
        missing = []
        for image_id, name in names.items():
            image = places[image_id]
            if image is None or len(named[image]) > 1:  # images of two folders, of which one file is there
                missing.append(name)
                continue
            size = size_of[image_id]
            if size is not None and sizes.setdefault(image, size) != size:
                raise LabelFormatError(
                    f"{path}: {name} has {size[1]}x{size[0]} pixels, elsewhere {sizes[image][1]}x{sizes[image][0]}. "
                    "Export the annotations again."
                )
            ids.setdefault((split, image), image_id)
            # a copy of a file says the same again
            rows.setdefault(image, []).extend(one for one in shapes[image_id] if one not in others.get(image, ()))
        problems += missing_images(path.name, missing, len(names))
        if left_out:
            problems.append(f"{path.name}: {left_out} annotations have a box and no outline; they are left out")
        empty = sum(not drawn for drawn in shapes.values())
        if empty:
            problems.append(f"{path.name}: {empty} of {len(names)} images have no annotation")
    splits = {
        split: [
            folder.row(image, _ordered(shapes), sizes.get(image)) | {"image_id": ids[split, image]}
            for image, shapes in rows.items()
        ]
        for split, rows in found.items()
    }
    if any(splits.values()) and not any(row[SHAPES_COLUMN] for rows in splits.values() for row in rows):
        raise LabelFormatError(
            f"{folder.path}: the annotations of {documents[0][0].name} have no outlines. Boxes alone do not say which "
            "pixels are an object's: export polygons or masks."
        )
    return folder.drawn(NAME, classes, splits, problems)


def _documents(folder: FolderView) -> list[tuple[Path, Any]]:
    """Of several kinds in one folder, such as captions and keypoints, those of instances."""
    found = folder.documents.get("coco", [])
    chosen = [(path, data) for path, data in found if path.name.startswith("instances")]
    return chosen or [
        (path, data)
        for path, data in found
        if any(isinstance(one, dict) and "segmentation" in one for one in data["annotations"][:100])
    ]


def _entries(
    path: Path, data: dict[str, Any], index_of: dict[Any, int]
) -> tuple[dict[Any, str], dict[Any, tuple[int, int] | None], dict[Any, list[dict[str, Any]]], int]:
    """By image id: file name, size (H, W) if known, shapes with their areas; and how many annotations have none."""
    names, sizes, shapes = {}, {}, {}
    left_out, number = 0, 0
    entry = "an image"
    try:
        for number, image in enumerate(data["images"]):
            entry = f"image {image.get('id', number)}"
            names[image["id"]], shapes[image["id"]] = str(image["file_name"]), []
            sizes[image["id"]] = pixel_size(image["height"], image["width"]) if image.get("height") else None
        for number, annotation in enumerate(data["annotations"]):
            entry = f"annotation {number}"
            entry = f"annotation {annotation.get('id', number)}"
            one = _shape(annotation, index_of)
            if one is None:
                left_out += 1
            else:
                shapes[annotation["image_id"]].append(one)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelFormatError(
            f"{path}: {entry} is not as COCO writes it ({type(error).__name__}: {error}). Export it again."
        ) from error
    return names, sizes, shapes, left_out


def _ordered(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bottom first, and numbered."""
    ordered = sorted(shapes, key=lambda one: (not one["crowd"], -one["area"]))
    return [
        {key: value for key, value in one.items() if key != "area"} | {"instance": number}
        for number, one in enumerate(ordered, start=1)
    ]


def _classes(
    documents: list[tuple[Path, Any]],
) -> tuple[SegmentationClasses, list[dict[Any, int]], list[str]]:
    """The class list; for each document category id -> class index; and what the user should know."""
    is_used, groups, count = False, set(), 0  # whether an annotation is of category 0
    for path, data in documents:
        try:
            is_used |= any(isinstance(one, dict) and one.get("category_id") == 0 for one in data["annotations"])
            groups |= {entry.get("supercategory") for entry in data["categories"]}
            count = max(count, len(data["categories"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise LabelFormatError(f"{path}: its categories are not as COCO writes them ({error!r}).") from error

    def is_above_all(entry: dict[str, Any]) -> bool:
        # Roboflow writes the name of the project as a category that is above all others and has no annotation
        return entry.get("id") == 0 and not is_used and entry.get("name") in groups and count > 1

    kept, indices, problems = join_categories(
        [(path, [entry for entry in data["categories"] if not is_above_all(entry)]) for path, data in documents]
    )
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
    return SegmentationClasses(infos, tuple({IGNORE_INDEX} - ids)), indices, problems


def _shape(annotation: dict[str, Any], index_of: dict) -> dict[str, Any] | None:
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
