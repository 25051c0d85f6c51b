"""The COCO panoptic format: a colour PNG of segment numbers for each image, and a JSON file that says what they are.

Source: Kirillov et al., "Panoptic Segmentation", and https://cocodataset.org/#format-data.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from ...errors import ClassListError, DatasetError, LabelFormatError, LabelIdError
from ..classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
from .label_files import Maps, Where, read_rgb_map

SEGMENT_FEATURES = datasets.List(
    {"id": datasets.Value("int32"), "class_index": datasets.Value("uint8"), "iscrowd": datasets.Value("bool")}
)
"""Segments of one image: number in the PNG (R + 256 G + 65536 B), class index (255 ignored), group of objects."""


class DescribedImage(NamedTuple):
    """The image that a label file belongs to: the name of its file and its `id` in the JSON file."""

    file_name: str
    image_id: int | str


def category_by_name(category: dict[str, Any], classes: SegmentationClasses) -> int | None:
    """The class of the same name; other categories are ignored."""
    return classes.names.index(category["name"]) if category["name"] in classes.names else None


def category_by_id(category: dict[str, Any], classes: SegmentationClasses) -> int | None:
    """The class of the same id; other categories are ignored."""
    return classes.ids.index(category["id"]) if category["id"] in classes.ids else None


def read_panoptic_json(
    files: Sequence[Path],
    classes: SegmentationClasses | None,
    category: Callable[[dict[str, Any], SegmentationClasses], int | None] | None,
) -> tuple[dict[str, list[dict]], SegmentationClasses, dict[str, DescribedImage]]:
    """Reads panoptic JSON files.

    Args:
        files: of the same categories.
        classes: the class list; None takes the categories as classes.
        category: which class a category is; `category_by_id` when None.

    Returns:
        label file name -> its segments (`SEGMENT_FEATURES`); the classes; label file name -> its image. Names are as
        they are written there, with folders if any.

    Raises:
        LabelFormatError: not such a JSON file, or one that gives an id of the files before another name.
        ClassListError: `categories` make no class list.
    """
    segments, partners, name_of = {}, {}, {}
    of_the_files = classes is None
    for file in files:
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            if classes is None:
                classes = classes_of_categories(data["categories"])
            for entry in data["categories"] if of_the_files else ():
                if name_of.setdefault(entry["id"], entry["name"]) != entry["name"]:
                    raise LabelFormatError(
                        f"{file}: category {entry['id']} is {entry['name']!r}, in the files before "
                        f"{name_of[entry['id']]!r}. They must have the same categories."
                    )
            index_of = {entry["id"]: (category or category_by_id)(entry, classes) for entry in data["categories"]}
            image_names = {image["id"]: str(image["file_name"]) for image in data["images"]}
            for annotation in data["annotations"]:
                name = str(annotation["file_name"])
                segments[name] = [
                    {
                        "id": _segment_number(segment["id"]),
                        "class_index": IGNORE_INDEX if (i := index_of[segment["category_id"]]) is None else i,
                        "iscrowd": bool(segment.get("iscrowd", 0)),
                    }
                    for segment in annotation["segments_info"]
                ]
                partners[name] = DescribedImage(image_names[annotation["image_id"]], annotation["image_id"])
        except DatasetError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of JSON and UTF-8, too
            raise LabelFormatError(
                f"{file}: not a panoptic JSON file with images, annotations and categories ({type(error).__name__}: "
                f"{error})."
            ) from error
    return segments, classes, partners


def _segment_number(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**24:
        raise ValueError(f"segment {value!r}, where a number of 24 bits should be")
    return value


def classes_of_categories(categories: Sequence[dict[str, Any]]) -> SegmentationClasses:
    """The classes of a COCO category list, in its order.

    The endings `-merged`, `-other` and `-stuff` of COCO's names, which say how its classes came about, are left out
    and other hyphens become spaces, for the text encoder; where two names would then be the same, both stay as they
    are.

    Raises:
        ClassListError: names or ids repeat, or are missing.
    """
    short = [_prompt(entry["name"]) for entry in categories]
    names = [name if short.count(name) == 1 else entry["name"] for name, entry in zip(short, categories)]
    if not names:
        raise ClassListError("The panoptic JSON file has no categories.")
    infos = (
        ClassInfo(name, entry["id"], bool(entry["isthing"]), tuple(entry["color"]) if "color" in entry else None)
        for name, entry in zip(names, categories)
    )
    ids = {entry["id"] for entry in categories}
    return SegmentationClasses(tuple(infos), tuple({0, IGNORE_INDEX} - ids))


def _prompt(name: str) -> str:
    for ending in ("-merged", "-other", "-stuff"):
        name = name.replace(ending, "")
    return name.replace("-", " ")


@dataclass(frozen=True)
class PanopticSegments:
    """Panoptic PNGs, with the segments of the JSON file in a column of their own.

    Args:
        classes: the class list.
    """

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label", "segments")
    has_instances: bool = True

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        numbers = read_rgb_map(values["label"], source) @ np.array([1, 256, 65536])
        segments = sorted(values["segments"], key=lambda segment: segment["id"])
        ids = np.array([0] + [segment["id"] for segment in segments])
        present, inverse = np.unique(numbers, return_inverse=True)
        position = np.searchsorted(ids, present)
        position[position == len(ids)] = 0
        unknown = present[ids[position] != present]
        if unknown.size:
            raise LabelIdError(
                f"{source}: segment {unknown[0]} is not in the JSON file ({unknown.size} such segments of "
                f"{len(present)})."
            )
        index_of = np.array([IGNORE_INDEX] + [segment["class_index"] for segment in segments], np.uint8)
        label = index_of[position][inverse].reshape(numbers.shape)
        if not instances:
            return label, None
        things = set(self.classes.thing_indices)
        object_of = np.array(
            [0] + [s["id"] * (s["class_index"] in things and not s["iscrowd"]) for s in segments], np.int32
        )
        return label, object_of[position][inverse].reshape(numbers.shape)
