"""What the readers of all label formats share: the folder that is looked at, and what was found in it."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ....errors import DatasetError, LabelFormatError, NoImagesError
from ....utils.files import regular_files
from ...classes import CLASS_FILE_NAMES, IGNORE_INDEX, MAX_ID, ClassInfo, SegmentationClasses
from ..folder import IMAGE_SUFFIXES, some
from ..label_files import LabelFormat
from ..shapes import SHAPE_FEATURES, SHAPES_COLUMN, SIZE_COLUMN, DrawnShapes
from .named_images import NamedImages
from .split_names import WHOLE

BACKGROUND_NAMES = ("background", "_background_", "__background__")
COVERED = 0.99
"""Images of which shapes cover less have pixels that belong to no shape; the rest are seams between outlines."""

PROBED_IMAGES = 50
DOCUMENTS_PER_FOLDER = 3
NO_ANNOTATIONS = ("metadata.json", "notes.json", "package.json", "metrics.json", *CLASS_FILE_NAMES)

ANNOTATION_WORDS = ("images", "annotations", "categories", "shapes", "imagePath", "original_width")


@dataclass
class LabelledFolder:
    """
    What a reader found.

    Args:
        format: name of the label format.
        classes: the class list.
        labels: reads the label of a row.
        splits: rows by split, or by `WHOLE`: each a dict of `image` (path, or `{"path", "bytes"}`), `file_name`, what
            `labels` needs, and in COCO's formats the `image_id`.
        features: types of the columns that `labels` needs.
        problems: what the user should know, a line each.
        evidence: by what the format was recognised.
    """

    format: str
    classes: SegmentationClasses
    labels: LabelFormat
    splits: dict[str, list[dict[str, Any]]]
    features: dict[str, Any] = field(default_factory=lambda: dict(SHAPE_FEATURES))
    problems: list[str] = field(default_factory=list)
    evidence: str = ""


class FolderView:
    """
    A folder that readers look at; what is below it is listed, and its annotation files are parsed, once.

    Args:
        path: of the folder.
        classes: the class list that the user gave, if any.
        unlabelled: what pixels without any shape are: `"background"`, or `"ignore"`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        classes: SegmentationClasses | None = None,
        unlabelled: str = "background",
    ):
        if unlabelled not in ("background", "ignore"):
            raise DatasetError(f"`unlabelled` must be 'background' or 'ignore', not {unlabelled!r}.")
        self.path, self.classes, self.unlabelled = Path(os.path.abspath(path)), classes, unlabelled
        self._parsed: dict[Path, Any] = {}
        self.unreadable: dict[Path, LabelFormatError] = {}
        """JSON files that are damaged, or written in a dialect with comments, and do not look like annotations."""

    @cached_property
    def files(self) -> list[Path]:
        """All files, sorted."""
        return sorted(regular_files(self.path)[0])

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these endings in lower case."""
        return [path for path in self.files if path.name.lower().endswith(suffixes)]

    @cached_property
    def documents(self) -> dict[str, list[tuple[Path, Any]]]:
        """JSON files of annotations by their kind, parsed: the first few of every folder, which tell what it holds.

        Raises:
            LabelFormatError: as of `parsed`.
        """
        found: dict[str, list[tuple[Path, Any]]] = {}
        seen: dict[Path, int] = {}
        for path in self.ending(".json"):
            seen[path.parent] = seen.get(path.parent, 0) + 1
            if path.name in NO_ANNOTATIONS:
                continue
            # files that annotate whole data sets are few in a folder, those of single images many
            if seen[path.parent] > DOCUMENTS_PER_FOLDER and path.with_suffix("").name in self._image_stems:
                continue
            data = self.parsed(path)
            kind = kind_of(data)
            if kind is not None:
                found.setdefault(kind, []).append((path, data))
        return found

    def parsed(self, path: Path) -> Any:
        """
        What a JSON file holds; None for one of `unreadable`.

        Raises:
            LabelFormatError: one that looks like annotations, or is called like an image, is no JSON.
        """
        if path not in self._parsed and path not in self.unreadable:
            try:
                self._parsed[path] = read_json(path)
            except LabelFormatError as error:
                if path.stem in self._image_stems or looks_like_annotations(path):
                    raise
                self.unreadable[path] = error
        return self._parsed.get(path)

    @cached_property
    def _image_stems(self) -> set[str]:
        return {path.stem for path in self.image_files}

    @cached_property
    def image_files(self) -> list[Path]:
        """The files with the ending of an image."""
        return self.ending(*IMAGE_SUFFIXES)

    @cached_property
    def _named(self) -> NamedImages:
        return NamedImages(self.path, self.image_files)

    def image(self, name: str, near: Sequence[Path] = (), split: str = WHOLE) -> Path | None:
        """The image that an annotation names: see `NamedImages.find`."""
        return self._named.find(name, near, split)

    def name_of(self, path: Path) -> str:
        """What an image is called in the data set: its path below the folder."""
        return path.relative_to(self.path).as_posix() if path.is_relative_to(self.path) else path.as_posix()

    def row(self, image: Path, shapes: Iterable[dict[str, Any]], size: Sequence[int] | None = None) -> dict[str, Any]:
        """The row of an image with shapes, bottom first, annotated at `size` (H, W)."""
        return {
            "image": str(image.absolute()),
            "file_name": self.name_of(image),
            SHAPES_COLUMN: [json.dumps(shape) for shape in shapes],
            SIZE_COLUMN: [int(length) for length in size or ()],
        }

    def sorted_splits(
        self, name: str, splits: dict[str, list[dict[str, Any]]], problems: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """Those with rows, in the order of their files' names. What is in none is the training data of the others,
        unless the others have it already: a file that was divided often stays beside its parts.

        Args:
            name: of the format.
            splits: rows by split.
            problems: what is left out is added to them.

        Raises:
            NoImagesError: no image of any row.
        """
        splits = {split: sorted(rows, key=lambda row: row["file_name"]) for split, rows in splits.items() if rows}
        if not splits:
            raise NoImagesError(f"{self.path}: {name}, but no image. {'. '.join(problems)}".rstrip())
        if WHOLE in splits and len(splits) > 1:
            whole = splits.pop(WHOLE)
            known = {row["file_name"] for rows in splits.values() for row in rows}
            rest = [row for row in whole if row["file_name"] not in known]
            if len(rest) < len(whole):
                problems.append(
                    f"{len(whole) - len(rest)} images are both in a split ({', '.join(splits)}) and in a file that "
                    "names none; what this file says of them is left out"
                )
            if rest:
                rows = rest + splits.get("train", [])
                splits["train"] = sorted(rows, key=lambda row: row["file_name"])
        return splits

    def drawn(
        self,
        name: str,
        classes: SegmentationClasses,
        splits: dict[str, list[dict[str, Any]]],
        problems: Sequence[str] = (),
    ) -> LabelledFolder:
        """
        What was found, for a format of shapes whose class indices are those of `classes`.

        Pixels without shape are of a class called background, which is added as the last one if no class is and the
        shapes of one of the first images leave some; where a class list was given, its classes are those that count.

        What several rows of a split say of an image belongs together, the last on top.

        Raises:
            NoImagesError: no image of any row.
            LabelFormatError: an image was annotated with two sizes.
        """
        problems = list(problems)
        splits = {split: _one_row_an_image(rows) for split, rows in splits.items()}
        splits = self.sorted_splits(name, splits, problems)
        if self.classes is not None:
            classes = self._given(classes, splits)
        position = {class_name.lower(): index for index, class_name in enumerate(classes.names)}
        background = next((position[key] for key in BACKGROUND_NAMES if key in position), None)
        if self.unlabelled == "ignore":
            background = None
        elif background is None and self._leaves_pixels(classes, splits):
            free = 0 if 0 not in classes.ids else max(classes.ids) + 1
            added = ClassInfo("background", free if free <= MAX_ID else _free_id(classes.ids))
            ignored = tuple(number for number in classes.ignore_ids if number != added.id)
            classes = SegmentationClasses((*classes.classes, added), ignored, classes.ignore_color)
            background = len(classes) - 1
        labels = DrawnShapes(classes, IGNORE_INDEX if background is None else background)
        return LabelledFolder(name, classes, labels, splits, problems=problems)

    def _given(self, found: SegmentationClasses, splits: dict[str, list[dict]]) -> SegmentationClasses:
        """The user's classes; shapes get their indices, by name, and those of other classes are ignored."""
        index_of = {name: index for index, name in enumerate(self.classes.names)}
        if not index_of.keys() & set(found.names):
            raise DatasetError(
                f"{self.path}: none of its classes {some(found.names, 8)} is in the class list that was given: "
                f"{some(self.classes.names, 8)}."
            )
        indices = [index_of.get(name, IGNORE_INDEX) for name in found.names] + [IGNORE_INDEX] * 256
        for row in (row for rows in splits.values() for row in rows):
            shapes = [json.loads(text) for text in row[SHAPES_COLUMN]]
            row[SHAPES_COLUMN] = [json.dumps(one | {"class": indices[one["class"]]}) for one in shapes]
        return self.classes

    def _leaves_pixels(self, classes: SegmentationClasses, splits: dict[str, list[dict]]) -> bool:
        """Whether one of the first images has pixels without shape, or with none but those of ignored classes."""
        # 254 is no class in a list of fewer; in a full one nothing can be added
        if len(classes) >= IGNORE_INDEX:
            return False
        labels = DrawnShapes(classes, len(classes))
        rows = sorted((row for rows in splits.values() for row in rows), key=lambda row: row["file_name"])
        for row in rows[:PROBED_IMAGES]:
            values = row | {"image": row["image"] if isinstance(row["image"], dict) else as_image(row["image"])}
            try:
                label = labels.read(values, lambda _, row=row: row["file_name"], instances=False)[0]
            except DatasetError:
                continue  # whoever reads this image is told
            if np.count_nonzero(label == len(classes)) > (1 - COVERED) * label.size:
                return True
        return False


def _one_row_an_image(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of shapes, one for each image; the objects of those that are joined are numbered on."""
    of_image: dict[str, dict[str, Any]] = {}
    for row in rows:
        first = of_image.setdefault(row["file_name"], row)
        if first is row or first[SHAPES_COLUMN] == row[SHAPES_COLUMN]:  # twice in a list
            continue
        sizes = [tuple(one[SIZE_COLUMN]) for one in (first, row) if one[SIZE_COLUMN]]
        if len(set(sizes)) > 1:
            raise LabelFormatError(
                f"{row['image']}: annotated with {sizes[0][1]}x{sizes[0][0]} pixels and with {sizes[1][1]}x"
                f"{sizes[1][0]}. Export its annotations again."
            )
        below, above = ([json.loads(text) for text in one[SHAPES_COLUMN]] for one in (first, row))
        last = max((one["instance"] for one in below), default=0)
        above = [one | {"instance": one["instance"] and one["instance"] + last} for one in above]
        of_image[row["file_name"]] = first | {
            SHAPES_COLUMN: [json.dumps(one) for one in below + above],
            SIZE_COLUMN: list(sizes[0]) if sizes else [],
        }
    return list(of_image.values())


def _free_id(ids: Sequence[int]) -> int:
    return next(number for number in range(MAX_ID) if number not in set(ids))


def as_image(path: str) -> dict[str, Any]:
    """An image file as an undecoded value of `datasets.Image`."""
    return {"path": path, "bytes": None}


def read_json(path: Path) -> Any:
    """
    Raises:
        LabelFormatError: not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # of UTF-8, and of numbers of too many digits, too
        raise LabelFormatError(
            f"{path}: not valid JSON ({error}). Export it again, or move it out of the folder if it holds no "
            "annotations."
        ) from error


def looks_like_annotations(path: Path) -> bool:
    """Whether a file that is no JSON has words of annotations in it, as one that was cut off."""
    content = path.read_bytes()
    return any(f'"{word}"'.encode() in content for word in ANNOTATION_WORDS)


def pixel_size(height: Any, width: Any) -> tuple[int, int]:
    """
    (H, W) as a tool wrote it down.

    Raises:
        TypeError, ValueError, OverflowError: no number of pixels.
    """
    size = int(height), int(width)
    if not all(1 <= length < 2**31 for length in size):
        raise ValueError(f"an image of {width} x {height} pixels")
    return size


def kind_of(data: Any) -> str | None:
    """`coco`, `panoptic`, `labelme`, `label_studio`, or None for something else."""
    if isinstance(data, dict):
        if isinstance(data.get("images"), list) and isinstance(data.get("annotations"), list):
            first = next((one for one in data["annotations"] if isinstance(one, dict)), {})
            return "panoptic" if "segments_info" in first else "coco" if "categories" in data else None
        if isinstance(data.get("shapes"), list) and {"imagePath", "imageData", "imageHeight"} & data.keys():
            return "labelme"
        return None
    if not isinstance(data, list) or not data or not isinstance(data[0], dict):
        return None
    if isinstance(data[0].get("data"), dict) and ({"annotations", "completions"} & data[0].keys()):
        return "label_studio"
    results = (one for value in data[0].values() if isinstance(value, list) for one in value)
    return "label_studio" if any(isinstance(one, dict) and "original_width" in one for one in results) else None


def missing_images(what: str, missing: Sequence[str], count: int) -> list[str]:
    """The problem that images are not there, if some are not."""
    if not missing:
        return []
    return [f"{len(missing)} of {count} images that {what} names are not there, or several fit: {some(missing)}"]


def image_feature() -> datasets.Image:
    """Of the columns that hold image files."""
    return datasets.Image(decode=False)
