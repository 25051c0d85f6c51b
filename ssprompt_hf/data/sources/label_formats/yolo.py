"""YOLO segmentation: a text file of outlines for each image, and a `data.yaml` of class names and splits.

Source: https://docs.ultralytics.com/datasets/segment/.
"""

import os
from pathlib import Path
from typing import Any

import yaml

from ....errors import ClassListError, LabelFormatError, NoImagesError
from ...classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
from ...splits import SPLIT_ALIASES
from ..folder import IMAGE_SUFFIXES
from ..shapes import shape
from .labelled_folder import FolderView, LabelledFolder
from .split_names import WHOLE, split_of

NAME = "YOLO segmentation"
LOOKS_FOR = "data.yaml with names, or classes.txt, and labels/*.txt"

SPLITS = [name for group in SPLIT_ALIASES for name in group]


def detect(folder: FolderView) -> str | None:
    """The YAML file; or a text file of outlines in a folder called labels, where there is none."""
    for path in _yaml_files(folder):
        data = _read_yaml(path)
        if "names" in data and {"train", "val", "test", "path", "nc"} & data.keys():
            return folder.name_of(path)
    texts = [path for path in folder.ending(".txt") if "labels" in path.parent.relative_to(folder.path).parts]
    text = next((path for path in texts if _is_label(path)), None)
    return text and folder.name_of(text)


def read(folder: FolderView) -> LabelledFolder:
    """
    Outlines are in units of the image's sides. They are drawn in their order, the last on top, with the pixels on
    their border, as Ultralytics draws them. Each is an object. An image without text file, or with an empty one, shows
    none.

    Raises:
        LabelFormatError: a line is no outline; boxes are none.
        ClassListError: no class names, or an outline of a class that has none.
        NoImagesError: no image is there.
    """
    config_file = next((p for p in _yaml_files(folder) if "names" in _read_yaml(p)), None)
    data = {} if config_file is None else _read_yaml(config_file)
    classes = _classes(folder, data, config_file)
    splits: dict[str, list[dict[str, Any]]] = {}
    empty = 0
    for split, images in _images(folder, data, config_file).items():
        for image in images:
            shapes = _shapes(_label_file(image, folder.path), classes)
            empty += not shapes
            splits.setdefault(split, []).append(folder.row(image, shapes))
    problems = [f"{empty} images have no outline"] if empty else []
    return folder.drawn(NAME, classes, splits, problems)


def _yaml_files(folder: FolderView) -> list[Path]:
    files = sorted(path for path in folder.path.glob("*.y*ml") if path.is_file())
    return sorted(files, key=lambda path: path.name != "data.yaml")


def _read_yaml(path: Path) -> dict[Any, Any]:
    """The entries of a YAML file; none where it holds something else, such as the settings of another program."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of dates, numbers and UTF-8
        if path.name != "data.yaml" and b"names:" not in path.read_bytes():
            return {}
        raise LabelFormatError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    return data if isinstance(data, dict) else {}


def _is_label(path: Path) -> bool:
    """Whether the first line of a text is a class and an outline."""
    with path.open(encoding="utf-8", errors="replace") as file:
        words = file.readline().split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        return False
    return len(values) >= 5 and words[0].isdecimal() and all(-1 <= value <= 2 for value in values[1:])


def _classes(folder: FolderView, data: dict[str, Any], file: Path | None) -> SegmentationClasses:
    names = data.get("names")
    if file is None:
        file = next(
            (folder.path / name for name in ("classes.txt", "labels.txt") if (folder.path / name).is_file()), None
        )
        if file is None:
            if folder.classes is None:
                raise ClassListError(f"{folder.path}: no data.yaml and no classes.txt, which name the classes.")
            names = folder.classes.names
        else:
            names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise ClassListError(f"{file}: `names` must be a list of class names, or numbers with names; found {names!r}.")
    if any(not str(key).isdecimal() for key in names):
        raise ClassListError(f"{file}: `names` must have the numbers of classes as keys, not {list(names)!r}.")
    for key, name in names.items():
        # lists in lists by YAML's aliases may be endless as text
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise ClassListError(
                f"{file}: the name of class {key} must be text, not {type(name).__name__}: write it in quotes."
            )
    numbered = sorted((int(key), str(name)) for key, name in names.items())
    infos = tuple(ClassInfo(name, number, thing=True) for number, name in numbered)
    return SegmentationClasses(infos, tuple({IGNORE_INDEX} - {info.id for info in infos}))


def _images(folder: FolderView, data: dict[str, Any], config: Path | None) -> dict[str, list[Path]]:
    """By split: as the YAML file says, where that leads to images; else as the folders are called."""
    found: dict[str, list[Path]] = {}
    for split in ("train", "val", "test"):
        for entry in data.get(split) if isinstance(data.get(split), list) else [data.get(split)]:
            if not isinstance(entry, str) or config is None:
                continue
            root = data.get("path")
            place = _place(config.parent, root if isinstance(root, str) else "", entry)
            if place is None:
                continue
            if place.suffix == ".txt":
                lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines()]
                images = [folder.image(line, [place.parent]) for line in lines if line]
                if None in images:
                    raise NoImagesError(f"{place}: lists {lines[images.index(None)]!r}, which is not there.")
                found.setdefault(split, []).extend(images)
            else:
                images = [p for p in folder.image_files if p.is_relative_to(place)]
                found.setdefault(split, []).extend(images)
    found = {split: images for split, images in found.items() if images}
    if found:
        # one folder under two names is not divided
        return {WHOLE: next(iter(found.values()))} if len({tuple(v) for v in found.values()}) == 1 else found
    for path in folder.image_files:
        if "labels" not in path.relative_to(folder.path).parts:
            found.setdefault(split_of(path.parent, folder.path), []).append(path)
    if not found:
        raise NoImagesError(f"{folder.path}: {NAME}, but no image ending in {', '.join(IMAGE_SUFFIXES)}.")
    return found


def _place(beside: Path, root: str, entry: str) -> Path | None:
    """Where an entry of the YAML file is: the paths in it are often those of another machine."""
    tail = entry.lstrip("./").replace("\\", "/")
    candidates = [beside / root / entry, beside / entry, beside / tail]
    places = (Path(os.path.normpath(path)) for path in candidates)
    return next((path for path in places if path.exists() and path.is_relative_to(beside)), None)


def _label_file(image: Path, root: Path) -> Path:
    """Beside the image, or in the folder `labels` where the image is in `images`, below `root`."""
    parts = list(image.parts)
    for position in reversed(range(len(root.parts), len(parts) - 1)):
        if parts[position].lower() == "images":
            parts[position] = "labels"
            moved = Path(*parts).with_suffix(".txt")
            return moved if moved.is_file() else image.with_suffix(".txt")
    return image.with_suffix(".txt")


def _shapes(file: Path, classes: SegmentationClasses) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    index_of = {number: index for index, number in enumerate(classes.ids)}
    shapes = []
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            class_id, values = int(words[0]), [float(word) for word in words[1:]]
        except ValueError as error:
            raise LabelFormatError(f"{file}, line {number}: not a class number and an outline ({error}).") from error
        if len(values) == 4:
            raise LabelFormatError(
                f"{file}, line {number}: a box, as for detection. Segmentation needs outlines: a class number, then x "
                "and y of three points or more."
            )
        if len(values) < 6 or len(values) % 2:
            raise LabelFormatError(
                f"{file}, line {number}: an outline of {len(values)} numbers, not of x and y pairs."
            )
        if not all(-0.5 <= value <= 1.5 for value in values):
            raise LabelFormatError(
                f"{file}, line {number}: x and y are shares of the image's sides, from 0 to 1; found {max(values):g}."
            )
        if class_id not in index_of:
            raise ClassListError(f"{file}, line {number}: class {class_id} has no name; known are {classes.ids}.")
        shapes.append(shape("relative polygons", [values], index_of[class_id], len(shapes) + 1))
    return shapes
