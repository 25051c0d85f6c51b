"""Mapillary Vistas v1.2 (66 classes) and v2.0 (124 classes), mapped onto the 19 classes of Cityscapes.

Layout and packing of the files: `demo.py` and the README of the data set (Neuhold et al., 2017). The archive of v2.0
holds the labels of v1.2, too, so that the version has to be chosen where both are there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DatasetError, LabelFormatError
from ..classes import IGNORE_INDEX, IdTable, SegmentationClasses
from ..sources.image_files import read_map
from ..sources.label_files import IdMaps, Maps, Where, keep_things
from .cityscapes import CLASSES
from .layouts import DatasetInfo, Files, Layout
from .mapillary_vistas_classes import OPENSEG, ROBUSTNET, V1_2, V2_0

VERSIONS = ("2.0", "1.2")
MAPPINGS = ("cityscapes", "robustnet", "openseg")
"""What a class is among Cityscapes': by Cityscapes' definitions of its classes, or as a paper has it (v1.2 only)."""


@dataclass(frozen=True)
class VistasClass:
    """One class of Mapillary Vistas; `target` is its name among Cityscapes' classes, None for an ignored one."""

    name: str
    has_instances: bool
    target: str | None


def _parse(table: str) -> tuple[VistasClass, ...]:
    lines = [re.fullmatch(r"(\S+)( \*)?(?: -> (.+))?", line) for line in table.strip().split("\n")]
    return tuple(VistasClass(line[1], line[2] is not None, line[3]) for line in lines)


VISTAS_CLASSES = {"1.2": _parse(V1_2), "2.0": _parse(V2_0)}
"""Version -> its classes by id."""


def _targets(table: str) -> dict[str, str]:
    """Name of a class -> that of Cityscapes."""
    lines = [line.split(": ") for line in table.strip().split("\n")]
    return {name: target for target, names in lines for name in names.split(", ")}


def _id_table(classes: tuple[VistasClass, ...], targets: dict[str, str | None]) -> IdTable:
    index_of = {
        number: CLASSES.names.index(target)
        for number, info in enumerate(classes)
        if (target := targets.get(info.name)) is not None
    }
    return IdTable(index_of, [*sorted({*range(len(classes))} - {*index_of}), IGNORE_INDEX])


ID_TABLES = {
    (version, "cityscapes"): _id_table(classes, {info.name: info.target for info in classes})
    for version, classes in VISTAS_CLASSES.items()
} | {
    ("1.2", name): _id_table(VISTAS_CLASSES["1.2"], _targets(table))
    for name, table in (("robustnet", ROBUSTNET), ("openseg", OPENSEG))
}
"""Version and mapping -> what turns the ids of the version's label files into class indices of Cityscapes."""


@dataclass(frozen=True)
class InstanceMaps:
    """`instances/`: 256 times the class id plus the number of the object, which counts from 0.

    Args:
        version: of the classes.
        mapping: one of `MAPPINGS`.
        classes: Cityscapes'.
    """

    version: str
    mapping: str = "cityscapes"
    classes: SegmentationClasses = CLASSES
    columns: tuple[str, ...] = ("label",)
    has_instances: bool = True

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        source = where("label")
        numbers = read_map(values["label"], source)
        if numbers.ndim != 2 or numbers.dtype.kind not in "ui":
            raise LabelFormatError(f"{source}: expected a 16-bit map; found shape {numbers.shape}, {numbers.dtype}.")
        numbers = numbers.astype(np.int32)
        label = ID_TABLES[self.version, self.mapping].encode(numbers // 256, source)
        if not instances:
            return label, None
        told_apart = np.zeros(IGNORE_INDEX + 1, bool)
        told_apart[: len(VISTAS_CLASSES[self.version])] = [c.has_instances for c in VISTAS_CLASSES[self.version]]
        # one more, as 0 means no instance and the first class's first object is number 0
        instance = np.where(told_apart[numbers // 256], numbers + 1, 0)
        return label, keep_things(label, instance, self.classes)


def _layout(labels: str, folder: str, parent: str, version: str, label_format: Callable) -> Layout:
    images, columns = Files((f"{folder}/images",), ".jpg"), {"label": Files((f"{parent}/{labels}",), ".png")}
    return Layout(labels, images, columns, label_format, CLASSES, variant=("version", version))


def _layouts(
    task: str, split: str, condition: str | None, version: str | None = None, class_mapping: str = "cityscapes"
) -> list[Layout]:
    versions = [one for one in VERSIONS if version in (None, one) and (one, class_mapping) in ID_TABLES]
    if not versions:
        raise DatasetError(
            f"Mapillary Vistas: class_mapping={class_mapping!r} is of the classes of version 1.2, not {version}. Give "
            f'version="1.2", or leave out class_mapping.'
        )
    layouts = []
    for number in versions:
        for folder in {"train": ("training", "train"), "val": ("validation", "val")}[split]:
            # v1.2 alone came without the folder of its version
            for parent in (f"{folder}/v{number}",) if number == "2.0" else (f"{folder}/v{number}", folder):
                place = folder, parent, number
                instance = _layout("instances", *place, lambda _, number=number: InstanceMaps(number, class_mapping))
                table = ID_TABLES[number, class_mapping]
                semantic = _layout("labels", *place, lambda _, table=table: IdMaps(table))
                layouts += [semantic, instance] if task == "semantic" else [instance]
    return layouts


INFO = DatasetInfo(
    name="mapillary_vistas",
    title="Mapillary Vistas",
    url="https://www.mapillary.com/dataset/vistas (after login)",
    licence="Mapillary Vistas research licence: CC BY-NC-SA with further terms; commercial licences on request",
    tree="""mapillary_vistas/
  {training,validation}/images/<image>.jpg
  {training,validation}/v2.0/{labels,instances}/<image>.png
  {training,validation}/v1.2/{labels,instances}/<image>.png      or without the folder v1.2""",
    tasks=("semantic", "instance", "panoptic"),
    splits=("train", "val"),
    layouts=_layouts,
    options={"version": VERSIONS, "class_mapping": MAPPINGS},
    roots=("mapillary_vistas", "mapillary"),
)
