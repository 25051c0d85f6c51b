"""PASCAL Context: 59 classes over the images of PASCAL VOC 2010.

Names, their order and the ids among the 459 labels: `59_labels.txt` and `labels.txt` of
https://cs.stanford.edu/~roozbeh/pascal-context (Mottaghi et al., 2014). Things are the 20 classes of PASCAL VOC,
colours those of its development kit.

59-class PNGs come in two orders. The official `59_context_labels` has the 20 classes of VOC first, then the others;
the files that https://github.com/zhanghang1989/detail-api and MMSegmentation's converter make
(`SegmentationClassContext`) have all classes in the alphabetical order of the 459 labels. In both, 0 is background.
The order is told by, first, the option `class_order`, then a class list beside the folders, then the folder's name;
the 459-class files leave no doubt, and are read where they are.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from ...errors import UnreadableFileError
from ...utils.files import read_text
from ..classes import IGNORE_INDEX, ClassInfo, IdTable, SegmentationClasses
from ..sources.label_files import IdMaps, Maps, Where
from .layouts import DatasetInfo, Files, Layout

LABEL_IDS = {
    "aeroplane": 2,
    "bicycle": 23,
    "bird": 25,
    "boat": 31,
    "bottle": 34,
    "bus": 45,
    "car": 59,
    "cat": 65,
    "chair": 72,
    "cow": 98,
    "dining table": 397,
    "dog": 113,
    "horse": 207,
    "motorbike": 258,
    "person": 284,
    "potted plant": 308,
    "sheep": 347,
    "sofa": 368,
    "train": 416,
    "tv monitor": 427,
    "bag": 9,
    "bed": 18,
    "bench": 22,
    "book": 33,
    "building": 44,
    "cabinet": 46,
    "ceiling": 68,
    "clothes": 80,
    "computer": 85,
    "cup": 104,
    "door": 115,
    "fence": 144,
    "floor": 158,
    "flower": 159,
    "food": 162,
    "grass": 187,
    "ground": 189,
    "keyboard": 220,
    "light": 232,
    "mountain": 259,
    "mouse": 260,
    "curtain": 105,
    "platform": 296,
    "sign": 355,
    "plate": 295,
    "road": 324,
    "rock": 326,
    "shelves": 349,
    "sidewalk": 354,
    "sky": 360,
    "snow": 366,
    "bedclothes": 19,
    "track": 415,
    "tree": 420,
    "truck": 424,
    "wall": 440,
    "water": 445,
    "window": 454,
    "wood": 458,
}
"""Name -> id in the 459-class label maps, in the order of `59_labels.txt`."""

NUM_LABELS = 459
ORDERS = ("official", "alphabetical")
CLASS_FILES = ("59_labels.txt", "classes-59.txt")


def _voc_color(index: int) -> tuple[int, int, int]:
    """The development kit's colour map: the bits of the index, in threes, from the highest of each channel on."""
    color = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            color[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple(color)


CLASSES = SegmentationClasses(
    tuple(ClassInfo(name, number, number <= 20, _voc_color(number)) for number, name in enumerate(LABEL_IDS, start=1)),
    ignore_ids=(0, IGNORE_INDEX),
    ignore_color=(0, 0, 0),
)
"""Ids are those of `59_context_labels`."""

_ALPHABETICAL = sorted(LABEL_IDS, key=LABEL_IDS.get)
ALPHABETICAL_CLASSES = CLASSES.with_ids([_ALPHABETICAL.index(name) + 1 for name in LABEL_IDS], (0, IGNORE_INDEX))
"""The same classes as the files in alphabetical order number them."""


_ID_TABLE = IdTable(
    {class_id: index for index, class_id in enumerate(LABEL_IDS.values())},
    sorted({*range(NUM_LABELS + 1)} - {*LABEL_IDS.values()}),
)


@dataclass(frozen=True)
class LabelMaps:
    """`.mat` files with a map of the 459 labels, `LabelMap`; labels that are none of the 59 classes are ignored."""

    columns: tuple[str, ...] = ("label",)
    has_instances: bool = False

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        try:
            label = scipy.io.loadmat(source, variable_names=["LabelMap"])["LabelMap"]
        except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MatReadError, zlib.error) as error:
            raise UnreadableFileError(f"{source}: no LabelMap can be read from it ({error!r}).") from error
        return _ID_TABLE.encode(np.asarray(label), source), None


def _listed_order(root: Path) -> str | None:
    """The order of the class list that lies beside the folders, if there is one that tells."""
    for name in CLASS_FILES:
        if (root / name).is_file():
            lines = read_text(root / name).splitlines()
            names = [line.split(":")[-1].strip() for line in lines if line.strip()]
            # the orders part at the second class
            position = {name: names.index(name) for name in ("bicycle", "bag") if name in names}
            if len(position) == 2:
                return "official" if position["bicycle"] < position["bag"] else "alphabetical"
    return None


def _layouts(task: str, split: str, condition: str | None, class_order: str | None = None) -> list[Layout]:
    lists = tuple(f"{folder}{split}.txt" for folder in ("ImageSets/SegmentationContext/", "ImageSets/Main/", ""))

    def layout(labels: str, ending: str, label_format, applies=None) -> Layout:
        return Layout(
            labels,
            Files(("JPEGImages",), ".jpg"),
            {"label": Files((labels,), ending)},
            label_format,
            CLASSES,
            lists=lists,
            all_labelled=split != "val",
            applies=applies,
        )

    layouts = [layout("trainval", ".mat", lambda _: LabelMaps())] if class_order is None else []
    for folder, usual in (("59_context_labels", "official"), ("SegmentationClassContext", "alphabetical")):
        for order, classes in (("official", CLASSES), ("alphabetical", ALPHABETICAL_CLASSES)):

            def applies(root: Path, order: str = order, usual: str = usual) -> bool:
                return order == (class_order or _listed_order(root) or usual)

            layouts.append(layout(folder, ".png", lambda _, classes=classes: IdMaps(classes), applies))
    return layouts


INFO = DatasetInfo(
    name="pascal_context",
    title="PASCAL Context",
    url="https://cs.stanford.edu/~roozbeh/pascal-context (labels) and http://host.robots.ox.ac.uk/pascal/VOC/voc2010",
    licence="labels: free for research, no terms stated; images: terms of PASCAL VOC 2010, that is of Flickr",
    tree="""VOC2010/
  JPEGImages/<image>.jpg
  trainval/<image>.mat                         459-class label maps
  59_context_labels/<image>.png                official 59-class PNGs, in place of trainval
  SegmentationClassContext/<image>.png         MMSegmentation's, in alphabetical order, in place of trainval
  ImageSets/{SegmentationContext,Main}/{train,val}.txt, or {train,val}.txt""",
    tasks=("semantic",),
    splits=("train", "val", "trainval"),
    layouts=_layouts,
    options={"class_order": ORDERS},
    roots=("VOCdevkit/VOC2010", "VOC2010"),
)
