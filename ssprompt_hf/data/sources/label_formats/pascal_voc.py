"""Pascal VOC: PNGs of classes and of objects, lists of splits, and CVAT's `labelmap.txt` of colours.

Source: http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/ and CVAT's "Segmentation mask 1.1".
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import MissingLabelError, NoImagesError
from ...classes import IGNORE_INDEX, ClassInfo, Color, SegmentationClasses
from ..folder import LABEL_SUFFIXES, folder_splits, some, split_images
from ..image_files import open_image
from ..label_files import Maps, Where, keep_things, read_label
from .labelled_folder import BACKGROUND_NAMES, WHOLE, FolderView, LabelledFolder, image_feature, missing_images

NAME = "Pascal VOC"
LOOKS_FOR = "SegmentationClass/*.png, JPEGImages/ and perhaps ImageSets/Segmentation/*.txt, labelmap.txt"

VOC_CLASSES = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]
VOID_COLOR = (224, 224, 192)
VOID_OBJECT = 255


def voc_color(number: int) -> Color:
    """The colour of an entry of VOC's palette: its bits, three by three, are the highest bits of R, G and B."""
    return tuple(sum((number >> 3 * place + channel & 1) << 7 - place for place in range(8)) for channel in range(3))


def detect(folder: FolderView) -> str | None:
    """The folder `SegmentationClass`, if there is one with label images; None where only names are as VOC's, and it
    is a folder of images with label images that has its own classes and splits."""
    root = _root(folder)
    if root is None or (root == folder.path and _is_plain(folder)):
        return None
    return folder.name_of(root / "SegmentationClass")


def read(folder: FolderView) -> LabelledFolder:
    """
    Classes by id, or by colour where `labelmap.txt` gives colours; 255 and its colour are ignored. Without a class
    list they are those of VOC. Where there is a folder `SegmentationObject`, all classes but the background are
    things.

    Raises:
        ClassListError: the class list is wrong.
        NoImagesError: no image, or one that a list names is not there.
        MissingLabelError: an image has no label.
    """
    root = _root(folder)
    classes = folder.classes or _classes(folder, root)
    objects = root / "SegmentationObject"
    if objects.is_dir() and folder.classes is None:
        infos = (replace(info, thing=info.name.lower() not in BACKGROUND_NAMES) for info in classes.classes)
        classes = replace(classes, classes=tuple(infos))
    labels = _by_stem(folder.ending(*LABEL_SUFFIXES), root / "SegmentationClass")
    instances = _by_stem(folder.ending(*LABEL_SUFFIXES), objects)
    not_images = {root / "SegmentationClass", objects}
    images = [p for p in folder.image_files if not any(p.is_relative_to(place) for place in not_images)]
    image_of = _by_stem(images, root / "JPEGImages") or _by_stem(images, root)
    splits: dict[str, list[dict[str, Any]]] = {}
    missing: list[str] = []
    names = _lists(root, sorted(labels))
    for split, listed in names.items():
        bare = [name for name in listed if name not in labels]
        if bare:
            raise MissingLabelError(
                f"{root / 'SegmentationClass'}: no label for {some(bare)}, which the list of {split!r} names. Add it, "
                "or take it off the list."
            )
        for name in listed:
            if name not in image_of:
                missing.append(name)
                continue
            row = {"image": str(image_of[name]), "file_name": folder.name_of(image_of[name])}
            row["label"] = str(labels[name])
            if instances:
                if name not in instances:
                    raise MissingLabelError(f"{objects}: no object map for {name!r}. Add it, or remove the folder.")
                row["instance"] = str(instances[name])
            splits.setdefault(split, []).append(row)
    if not splits:
        raise NoImagesError(
            f"{root / 'JPEGImages'}: no image of the names in SegmentationClass, such as {some(missing)}. CVAT "
            "exports them with 'Save images'."
        )
    problems = missing_images("the list", missing, sum(map(len, names.values())))
    splits = folder.sorted_splits(NAME, splits, problems)
    columns = ("label", "instance") if instances else ("label",)
    features = {column: image_feature() for column in columns}
    return LabelledFolder(NAME, classes, VocMaps(classes, columns), splits, features, problems)


@dataclass(frozen=True)
class VocMaps:
    """VOC's PNGs of classes and objects, with palettes, as numbers or as colours.

    Args:
        classes: the class list.
    """

    classes: SegmentationClasses
    columns: tuple[str, ...] = ("label",)

    @property
    def has_instances(self) -> bool:
        return "instance" in self.columns

    def read(self, values: dict[str, Any], where: Where, instances: bool = True) -> Maps:
        label = read_label(self.classes, values["label"], where("label"))
        if not instances or not self.has_instances:
            return label, None
        image = open_image(values["instance"], where("instance"))
        pixels = np.asarray(image if image.mode in ("P", "L", "I", "I;16") else image.convert("RGB"))
        is_byte = image.mode in ("P", "L")  # in maps of more bits 255 is an object as others
        if pixels.ndim == 3:  # each object has its colour
            void = (pixels == VOID_COLOR).all(-1)
            numbers = np.where(void, 0, pixels.astype(np.int64) @ np.array([65536, 256, 1]))
        else:
            numbers = np.where(pixels == VOID_OBJECT, 0, pixels) if is_byte else pixels
        return label, keep_things(label, numbers, self.classes)


def _root(folder: FolderView) -> Path | None:
    """The folder with `SegmentationClass`: this one, or one of an unpacked archive of VOC."""
    for place in (folder.path, *sorted(folder.path.glob("VOC*")), *sorted(folder.path.glob("VOCdevkit/VOC*"))):
        labels = place / "SegmentationClass"
        if labels.is_dir() and any(path.suffix.lower() in LABEL_SUFFIXES for path in labels.rglob("*")):
            return place
    return None


def _is_plain(folder: FolderView) -> bool:
    of_voc = ("ImageSets", "SegmentationObject", "labelmap.txt")
    if any((folder.path / name).exists() for name in of_voc) or not folder_splits(folder.path):
        return False
    return folder.classes is not None or SegmentationClasses.file_in(folder.path) is not None


def _classes(folder: FolderView, root: Path) -> SegmentationClasses:
    for place in (root, folder.path):
        if (place / "labelmap.txt").is_file():
            found = SegmentationClasses.from_file(place / "labelmap.txt")
            return replace(found, ignore_color=found.ignore_color or VOID_COLOR)
        if SegmentationClasses.file_in(place) is not None:
            return SegmentationClasses.from_folder(place)
    infos = tuple(ClassInfo(name, number, color=voc_color(number)) for number, name in enumerate(VOC_CLASSES))
    return SegmentationClasses(infos, (IGNORE_INDEX,), VOID_COLOR)


def _by_stem(files: list[Path], root: Path) -> dict[str, Path]:
    """Path below `root` without ending -> file."""
    return {p.relative_to(root).with_suffix("").as_posix(): p for p in files if p.is_relative_to(root)}


def _lists(root: Path, labelled: list[str]) -> dict[str, list[str]]:
    """Names by split; all that have a label where there are no lists."""
    files = sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))
    lists = {file.stem: file.read_text(encoding="utf-8-sig").split("\n") for file in files}
    lists = {split: [line.strip().strip('"') for line in lines if line.strip()] for split, lines in lists.items()}
    lists = {split: names for split, names in lists.items() if names}
    if {"train", "val"} <= lists.keys():
        lists.pop("trainval", None)  # both together
    if len(lists) == 1 and next(iter(lists)) not in ("train", "val", "test"):
        return {WHOLE: next(iter(lists.values()))}
    return lists or _parts(root, labelled) or {WHOLE: labelled}


def _parts(root: Path, labelled: list[str]) -> dict[str, list[str]]:
    """Names by split, where these are folders of `JPEGImages` or lists beside it. Images without label are in none,
    unless a list names them."""
    images, known = root / "JPEGImages", set(labelled)
    if not images.is_dir():
        return {}
    parts = {split: _by_stem(split_images(root, split), images) for split in folder_splits(root)}
    listed = {split for split in parts if (root / f"{split}.txt").is_file()}
    parts = {split: [n for n in names if n in known or split in listed] for split, names in parts.items()}
    return {split: names for split, names in parts.items() if names}
