"""Which label format a folder is in."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import datasets
from transformers.utils import logging

from ....errors import DatasetError, NoImagesError
from ....utils.text import printable
from ...classes import SegmentationClasses
from ...dataset import SegmentationDataset
from ...splits import SPLIT_ALIASES, SPLIT_FLAGS, split_aliases
from ..columns import ColumnSource
from ..folder import LABEL_SUFFIXES, has_label_images
from . import coco, coco_panoptic, cvat, label_studio, labelme, pascal_voc, yolo
from .labelled_folder import FolderView, LabelledFolder, image_feature
from .split_names import WHOLE

logger = logging.get_logger(__name__)

FORMATS: tuple[ModuleType, ...] = (coco_panoptic, coco, labelme, label_studio, cvat, yolo)
"""The formats that are told apart by their annotation files, in the order in which they are looked for."""


def find_format(folder: FolderView) -> tuple[ModuleType, str] | None:
    """
    The format that a folder is in, and by what it was recognised; None for images with label images and a class list,
    which need no annotation file (`load_segmentation_folder`), and for a folder in no format known here.

    Raises:
        LabelFormatError: an annotation file is damaged; or another JSON file is, and nothing else is found.
    """
    evidence = pascal_voc.detect(folder)
    if evidence is not None:
        return pascal_voc, evidence
    has_classes = folder.classes is not None or SegmentationClasses.file_in(folder.path) is not None
    if has_classes and has_label_images(folder.path):
        return None
    found = next(((module, evidence) for module in FORMATS if (evidence := module.detect(folder))), None)
    if found is None and folder.unreadable and not has_label_images(folder.path):
        raise next(iter(folder.unreadable.values()))
    for path in folder.unreadable:
        logger.warning_once(f"{path}: not valid JSON; it does not look like annotations and is left out")
    return found


def read_labelled_folder(
    folder: str | os.PathLike, classes: SegmentationClasses | None = None, unlabelled: str = "background"
) -> LabelledFolder | None:
    """
    What the annotation files of a folder say, or None where there are none of a known format.

    Args:
        folder: what to read.
        classes: the classes that count, in their order; by default all.
        unlabelled: what pixels without any shape are: `"background"`, a class of its own unless one has that name, or
            `"ignore"`.

    Raises:
        DatasetError: the files are damaged, or have no image; the subclass and the message say which.
    """
    view = FolderView(folder, classes, unlabelled)
    found = find_format(view)
    if found is None:
        return None
    try:
        return replace(found[0].read(view), evidence=found[1])
    except UnicodeDecodeError as error:
        raise DatasetError(f"{folder}: a text file of {found[0].NAME} is not UTF-8 ({error}).") from error


def labelled_dataset(found: LabelledFolder, folder: Path, split: str) -> SegmentationDataset:
    """
    One split of what was found. What is not divided is read whole as `train`, and as `all`.

    Raises:
        NoImagesError: no such split.
    """
    name = next((name for name in split_aliases(split) if name in found.splits), None)
    if name is None and WHOLE in found.splits and split in SPLIT_ALIASES[0]:
        name = WHOLE
    if name is None:
        there = "no splits" if WHOLE in found.splits else ", ".join(found.splits)
        raise NoImagesError(f"{folder}: no split {split!r} ({found.format}); there are {there}. {SPLIT_FLAGS}")
    for problem in found.problems:
        logger.warning_once(printable(f"{folder}: {problem}"))
    rows = found.splits[name]
    columns = {"image": [_image_value(row["image"]) for row in rows], "file_name": [row["file_name"] for row in rows]}
    for column, feature in found.features.items():
        values = [row[column] for row in rows]
        columns[column] = [_image_value(value) for value in values] if _is_image(feature) else values
    features = {"image": image_feature(), "file_name": datasets.Value("string"), **found.features}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    # what annotation files say in addition to label images, such as the classes of segments
    said = [[row[column] for row in rows] for column, kind in found.features.items() if not _is_image(kind)]
    digest = hashlib.sha256(json.dumps(said).encode()).hexdigest() if len(said) < len(found.features) else ""
    source = ColumnSource(
        table,
        found.labels,
        file_name_column="file_name",
        identity=f"{found.labels} {digest}",
        coco_image_ids=[row.get("image_id") for row in rows],
    )
    return SegmentationDataset(found.classes, source, folder.resolve().name)


def _is_image(feature: object) -> bool:
    return isinstance(feature, datasets.Image)


def _image_value(value: str | dict) -> dict:
    return value if isinstance(value, dict) else {"path": value, "bytes": None}


def formats_text() -> str:
    """The formats that are known, a line each, for errors."""
    own = [
        f"  images and label images: images/ with annotations/, labels/ or masks/, or a.jpg beside "
        f"a.png or a_mask.png ({', '.join(LABEL_SUFFIXES)}), and classes.json, classes.txt or class_dict.csv",
        "  Hugging Face: Parquet, save_to_disk, or metadata.jsonl beside images",
    ]
    return "\n".join(own + [f"  {module.NAME}: {module.LOOKS_FOR}" for module in (pascal_voc, *FORMATS)])
