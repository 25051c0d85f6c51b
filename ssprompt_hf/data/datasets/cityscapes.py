"""Cityscapes: 19 classes of street scenes.

Classes, ids and colours: `cityscapesscripts/helpers/labels.py` of https://github.com/mcordts/cityscapesScripts
(Cordts et al., 2016).
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ...errors import LabelFormatError, LabelIdError
from ..classes import IGNORE_INDEX, ClassInfo, SegmentationClasses
from ..sources.image_files import read_map
from ..sources.label_files import IdMaps, Maps, Where, keep_things
from ..sources.panoptic_files import PanopticSegments, category_by_name
from .layouts import DatasetInfo, Files, Layout

CLASSES = SegmentationClasses(
    (
        ClassInfo("road", 7, False, (128, 64, 128)),
        ClassInfo("sidewalk", 8, False, (244, 35, 232)),
        ClassInfo("building", 11, False, (70, 70, 70)),
        ClassInfo("wall", 12, False, (102, 102, 156)),
        ClassInfo("fence", 13, False, (190, 153, 153)),
        ClassInfo("pole", 17, False, (153, 153, 153)),
        ClassInfo("traffic light", 19, False, (250, 170, 30)),
        ClassInfo("traffic sign", 20, False, (220, 220, 0)),
        ClassInfo("vegetation", 21, False, (107, 142, 35)),
        ClassInfo("terrain", 22, False, (152, 251, 152)),
        ClassInfo("sky", 23, False, (70, 130, 180)),
        ClassInfo("person", 24, True, (220, 20, 60)),
        ClassInfo("rider", 25, True, (255, 0, 0)),
        ClassInfo("car", 26, True, (0, 0, 142)),
        ClassInfo("truck", 27, True, (0, 0, 70)),
        ClassInfo("bus", 28, True, (0, 60, 100)),
        ClassInfo("train", 31, True, (0, 80, 100)),
        ClassInfo("motorcycle", 32, True, (0, 0, 230)),
        ClassInfo("bicycle", 33, True, (119, 11, 32)),
    ),
    ignore_ids=(*range(7), 9, 10, 14, 15, 16, 18, 29, 30, IGNORE_INDEX),
    ignore_color=(0, 0, 0),
)
"""Ids are those of `labelIds.png`; class indices are the train ids."""

TRAIN_ID_CLASSES = CLASSES.with_ids(range(len(CLASSES)))
"""The same classes as `labelTrainIds.png` numbers them."""

IGNORED_IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "parking": 9,
    "rail track": 10,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "polegroup": 18,
    "caravan": 29,
    "trailer": 30,
    "license plate": None,
}
"""Ids of the labels that no benchmark counts; a license plate is not drawn and shows the vehicle that bears it."""

IGNORED_THINGS = {"caravan", "trailer"}
"""Ignored as classes, yet told apart: the instance-level script does not take them for void."""


@dataclass(frozen=True)
class InstanceIds:
    """`instanceIds.png`: 1000 times the label id plus a number where objects are told apart, else the label id.

    A thing's pixels with a bare label id are a group of objects: they keep the class, and their instance is 0. Objects
    of ignored classes keep their numbers, see `IGNORED_THINGS`.

    Args:
        classes: the class list, with the ids of `labelIds.png`.
    """

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label",)
    has_instances: bool = True

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        numbers = read_map(values["label"], source)
        if numbers.ndim != 2 or numbers.dtype.kind not in "ui":
            raise LabelFormatError(f"{source}: expected a 16-bit map; found shape {numbers.shape}, {numbers.dtype}.")
        numbers = numbers.astype(np.int32)
        label = self.classes.encode(np.where(numbers < 1000, numbers, numbers // 1000), source)
        if not instances:
            return label, None
        objects = np.where(numbers < 1000, 0, numbers)
        return label, np.where(label == IGNORE_INDEX, objects, keep_things(label, objects, self.classes))


@dataclass(frozen=True)
class Polygons:
    """`polygons.json`, drawn one polygon over the other in the order of the file, as the official tools draw them.

    Args:
        classes: the class list, with the ids of `labelIds.png`.
    """

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label",)
    has_instances: bool = True

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        try:
            with open(source, encoding="utf-8") as file:
                annotation = json.load(file)
            size, objects = (annotation["imgWidth"], annotation["imgHeight"]), annotation["objects"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LabelFormatError(f"{source}: not a Cityscapes polygon file ({error!r}).") from error
        told_apart = {self.classes.names[index] for index in self.classes.thing_indices} | IGNORED_THINGS
        ids = dict(zip(self.classes.names, self.classes.ids)) | IGNORED_IDS
        label, instance = Image.new("L", size), Image.new("I", size)
        draw_label, draw_instance = ImageDraw.Draw(label), ImageDraw.Draw(instance)
        for number, entry in enumerate(objects, start=1):
            name = entry["label"]
            is_group = name not in ids and name.endswith("group")
            if is_group:
                name = name[: -len("group")]
            if name not in ids:
                raise LabelIdError(f"{source}: polygon {number} has the label {entry['label']!r}, which is unknown.")
            if entry.get("deleted") or ids[name] is None:
                continue
            polygon = [tuple(point) for point in entry["polygon"]]
            draw_label.polygon(polygon, fill=ids[name])
            draw_instance.polygon(polygon, fill=number if name in told_apart and not is_group else 0)
        return self.classes.encode(np.asarray(label), source), np.asarray(instance) if instances else None


def _layouts(task: str, split: str, condition: str | None) -> list[Layout]:
    images = Files((f"leftImg8bit/{split}",), "_leftImg8bit.png")

    def files(ending: str) -> dict[str, Files]:
        return {"label": Files((f"gtFine/{split}",), f"_gtFine_{ending}")}

    polygons = Layout("polygons", images, files("polygons.json"), Polygons, CLASSES)
    if task == "semantic":
        return [
            Layout("labelIds", images, files("labelIds.png"), IdMaps, CLASSES),
            Layout("labelTrainIds", images, files("labelTrainIds.png"), lambda _: IdMaps(TRAIN_ID_CLASSES), CLASSES),
            Layout("instanceIds", images, files("instanceIds.png"), InstanceIds, CLASSES),
            polygons,
        ]
    panoptic = [
        Layout(
            f"panoptic{suffix}",
            images,
            {"label": Files((f"gtFine/cityscapes_panoptic_{split}{suffix}",), "_gtFine_panoptic.png")},
            PanopticSegments,
            CLASSES,
            panoptic_json=((f"gtFine/cityscapes_panoptic_{split}{suffix}.json",),),
            category=category_by_name,
        )
        for suffix in ("", "_trainId")
    ]
    instances = Layout("instanceIds", images, files("instanceIds.png"), InstanceIds, CLASSES)
    return [*panoptic, instances, polygons] if task == "panoptic" else [instances, *panoptic, polygons]


INFO = DatasetInfo(
    name="cityscapes",
    title="Cityscapes",
    url="https://www.cityscapes-dataset.com (leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, after login)",
    licence="own terms: free for non-commercial use such as research, teaching and evaluation; no redistribution",
    tree="""cityscapes/
  leftImg8bit/{train,val}/<city>/<image>_leftImg8bit.png
  gtFine/{train,val}/<city>/<image>_gtFine_{labelIds,instanceIds}.png, <image>_gtFine_polygons.json
  gtFine/{train,val}/<city>/<image>_gtFine_labelTrainIds.png         createTrainIdLabelImgs.py, not needed
  gtFine/cityscapes_panoptic_{train,val}/, ..._{train,val}.json      createPanopticImgs.py, not needed""",
    tasks=("semantic", "instance", "panoptic"),
    splits=("train", "val"),
    layouts=_layouts,
    roots=("cityscapes", "Cityscapes"),
    archives=("leftImg8bit_trainvaltest", "gtFine_trainvaltest"),
)
