"""Label Studio: a JSON or JSON-MIN export with brushes, polygons and ellipses.

Source: https://labelstud.io/guide/export and https://labelstud.io/tags/.
"""

from pathlib import Path
from typing import Any

from ....errors import LabelFormatError
from ..polygons import ellipse_points
from ..shapes import shape
from .labelled_folder import FolderView, LabelledFolder, missing_images, pixel_size
from .named_classes import named_classes
from .split_names import split_of

NAME = "Label Studio"
LOOKS_FOR = "a JSON export of tasks with brush or polygon results"

KINDS = {"brushlabels": "brush", "polygonlabels": "polygon", "ellipselabels": "ellipse"}


def detect(folder: FolderView) -> str | None:
    """The JSON files, if there are any."""
    return ", ".join(folder.name_of(path) for path, _ in folder.documents.get("label_studio", [])) or None


def read(folder: FolderView) -> LabelledFolder:
    """
    Brushes (in Label Studio's own run-length code), polygons and ellipses, drawn in their order, the last on top; each
    is an object. Of several annotations of a task the last that was not cancelled counts; tasks without any are left
    out. Rectangles and key points have no mask and are left out. Of several labels of a region the first counts.

    Raises:
        LabelFormatError: an entry is not of this form, or its image was turned while it was labelled; names the task.
        NoImagesError: no image is there.
    """
    tasks: list[tuple[Path, str, str, list[dict]]] = []
    unlabelled = 0
    for path, data in folder.documents["label_studio"]:
        for number, task in enumerate(data, start=1):
            try:
                address, results = _image_and_results(task)
            except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
                raise LabelFormatError(
                    f"{path}: task {number} is not as Label Studio writes it ({error!r}). Export it again."
                ) from error
            if results is None:
                unlabelled += 1
            else:
                tasks.append((path, str(task.get("id", number)), address, results))
    names = {name for *_, results in tasks for one in results for name in _labels(one)}
    classes, index_of = named_classes(folder, names)
    splits: dict[str, list[dict[str, Any]]] = {}
    missing, left_out, further = [], 0, 0
    for path, number, address, results in tasks:
        shapes, size = [], None
        for one in results:
            labels = _labels(one)
            if not labels:
                left_out += 1
                continue
            if one.get("image_rotation"):
                raise LabelFormatError(
                    f"{path}: task {number} was labelled with its image turned by {one['image_rotation']} degrees, "
                    "and its shapes lie in the turned image. Turn the image file and label that, or remove the task."
                )
            further += len(labels) > 1
            try:
                size = pixel_size(one["original_height"], one["original_width"])
                made = _shape(one, size)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise LabelFormatError(
                    f"{path}: a result of task {number} is not as Label Studio writes it ({error!r}). Export it again."
                ) from error
            shapes.append(made | {"class": index_of[labels[0]], "instance": len(shapes) + 1})
        split = split_of(path, folder.path)
        image = folder.image(address, [path.parent, path.parent / "images"], split)
        if image is None:
            missing.append(address)
        else:
            splits.setdefault(split, []).append(folder.row(image, shapes, size))
    problems = missing_images("the export", missing, len(tasks))
    if unlabelled:
        problems.append(f"{unlabelled} tasks have no annotation and are left out")
    if left_out:
        problems.append(f"{left_out} rectangles, key points or choices have no mask; they are left out")
    if further:
        problems.append(f"{further} regions have more than one label; the first of each counts")
    return folder.drawn(NAME, classes, splits, problems)


def _image_and_results(task: dict[str, Any]) -> tuple[str, list[dict] | None]:
    """The image's address, and the results of the task's annotation; None where it has none."""
    if "data" in task:
        values = task["data"]
        annotations = [a for a in task.get("annotations", task.get("completions", [])) if not a.get("was_cancelled")]
        results = annotations[-1]["result"] if annotations else None
    else:
        values = task
        lists = [value for value in task.values() if isinstance(value, list)]
        results = [one for value in lists for one in value if isinstance(one, dict) and "original_width" in one]
        results = [one if "value" in one else one | {"value": one} for one in results]
    texts = [value for key, value in values.items() if isinstance(value, str) and key in ("image", "img", "photo")]
    texts += [value for value in values.values() if isinstance(value, str) and _looks_like_image(value)]
    for one in results or ():
        labels = _labels(one) if isinstance(one, dict) else None
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ValueError("a result without a list of labels" if labels else "a result that is no object of JSON")
    return next(iter(texts)), results


def _looks_like_image(text: str) -> bool:
    return (
        text.split("?d=")[-1]
        .split("?")[0]
        .lower()
        .endswith((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
    )


def _labels(one: dict[str, Any]) -> list[str]:
    value = one.get("value", {})
    return next((value[key] for key in KINDS if isinstance(value, dict) and value.get(key)), [])


def _shape(one: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    value = one["value"]
    kind = next(KINDS[key] for key in KINDS if value.get(key))
    height, width = size
    if kind == "brush":
        if value.get("format", "rle") != "rle":
            raise ValueError(f"a brush in the format {value['format']!r}")
        code = [int(number) for number in value["rle"]]
        if not all(0 <= number <= 255 for number in code):
            raise ValueError("a brush whose code is no bytes")
        return shape("brush", code, size=list(size))
    if kind == "ellipse":
        center = (value["x"] * width / 100, value["y"] * height / 100)
        radii = (value["radiusX"] * width / 100, value["radiusY"] * height / 100)
        return shape("polygons", [ellipse_points(center, radii, value.get("rotation", 0))])
    points = [float(length) * side / 100 for point in value["points"] for length, side in zip(point, (width, height))]
    if len(points) < 6:
        raise ValueError(f"a polygon of {len(points) // 2} points")
    return shape("polygons", [points])
