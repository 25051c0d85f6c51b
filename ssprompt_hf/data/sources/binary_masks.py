"""Masks of one class: 0 and 255, or 0 and 1."""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from transformers.utils import logging

from ..classes import ClassInfo, SegmentationClasses
from .image_files import read_map

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

MASKS_TO_LOOK_AT = 200


def binary_classes(classes: SegmentationClasses, tables: Iterable["datasets.Dataset"]) -> SegmentationClasses:
    """
    The class list that fits the masks of a folder.

    A list of one name that does not say what is ignored belongs to masks that show one thing and nothing else. Where
    the masks hold only 0 and 255, or 0 and 1, the larger number is that class, and 0 a class of its own called
    background: else all pixels would be of the class or ignored, from which nothing can be learned. Masks of nothing
    but 0 show the class everywhere.

    Args:
        classes: as it stands in the class file.
        tables: of all splits, which together say what the numbers mean; with undecoded or decoded images in the
            column `label`. Not looked at where the class list is no such list.

    Raises:
        UnreadableFileError: a mask cannot be read.
    """
    if len(classes) != 1 or classes.ids != [0] or not classes.ignore_is_assumed or classes.by_color:
        return classes
    import datasets

    numbers: set[int] = set()
    for table in tables:
        labels = table.select_columns("label").cast_column("label", datasets.Image(decode=False))
        for row in range(min(len(labels), MASKS_TO_LOOK_AT)):
            value = labels[row]["label"]
            numbers |= set(np.unique(read_map(value, str(value["path"]))).tolist())
            if not numbers <= {0, 1, 255} or {1, 255} <= numbers:
                return classes
    if not numbers & {1, 255}:
        return classes
    name, marked = classes.names[0], 1 if 1 in numbers else 255
    logger.warning_once(f"masks of 0 and {marked}: {marked} is {name!r}, and 0 is read as another class, background")
    infos = (dataclasses.replace(classes.classes[0], id=marked), ClassInfo("background", 0))
    return SegmentationClasses(infos, () if marked == 255 else (255,))
