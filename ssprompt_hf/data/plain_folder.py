"""Any labelled images as a plain folder: images, label PNGs of class ids, maps of objects, and `classes.json`."""

import os
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SSPromptError
from ..utils.files import give_usual_modes, place, told_when_full
from ..utils.names import file_name, unique_names
from ..utils.temporary_folders import temporary_folder
from .classes import IGNORE_INDEX, MAX_ID, SegmentationClasses
from .dataset import SegmentationDataset
from .sources.columns import ColumnSource
from .sources.folder import IMAGE_SUFFIXES


def check_new_folder(folder: str | os.PathLike) -> None:
    """
    Raises:
        SSPromptError: the folder is there and not empty, or is a file.
    """
    path = Path(folder)
    if path.is_dir() and not any(path.iterdir()):
        return
    if os.path.lexists(path):
        raise SSPromptError(f"{path} is there already: give the name of a new folder to convert to")


def write_plain_folder(splits: dict[str, SegmentationDataset], folder: str | os.PathLike) -> int:
    """
    Writes `images/`, `annotations/` and, where there are objects, `instances/`, each with a folder a split if there
    are several, and `classes.json`. Image files are copied as they are. The folder appears whole or not at all.

    Args:
        splits: of one data set, by name; one split is written without a folder of its own.
        folder: to be made.

    Returns:
        how many images were written.

    Raises:
        SSPromptError: the folder is there already.
        StorageError: the disk is full.
        DatasetError: an image or label cannot be read.
    """
    check_new_folder(folder)
    target = Path(os.path.abspath(folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    classes = next(iter(splits.values())).classes
    ignored = next(number for number in (IGNORE_INDEX, *range(MAX_ID)) if number not in classes.ids)
    ids = np.zeros(IGNORE_INDEX + 1, np.uint16)
    ids[: len(classes)], ids[IGNORE_INDEX] = classes.ids, ignored
    ids = ids.astype(np.uint8) if ids.max() <= 255 else ids
    parts = unique_names(map(file_name, splits)) if len(splits) > 1 else [""]
    with told_when_full(target), temporary_folder(target) as root:
        for part, dataset in zip(parts, splits.values()):
            for index, name in enumerate(_names(dataset.file_names)):
                _write_example(dataset, index, root, part, name, ids)
        SegmentationClasses(classes.classes, (ignored,)).save(root / "classes.json")
        give_usual_modes(root)
        if target.is_dir():
            target.rmdir()
        place(root, target)
    return sum(map(len, splits.values()))


def _write_example(dataset: SegmentationDataset, index: int, root: Path, part: str, name: str, ids: np.ndarray):
    example = dataset[index]
    folders = {kind: root / kind / part for kind in ("images", "annotations", "instances")}
    for kind in ("images", "annotations", *(["instances"] if "instance" in example else [])):
        folders[kind].mkdir(parents=True, exist_ok=True)
    value = _stored_image(dataset, index)
    suffix = Path(value["path"] or "").suffix.lower() if value else ""
    if suffix in IMAGE_SUFFIXES and value["bytes"] is not None:
        (folders["images"] / f"{name}{suffix}").write_bytes(value["bytes"])
    elif suffix in IMAGE_SUFFIXES:
        shutil.copyfile(value["path"], folders["images"] / f"{name}{suffix}")
    else:
        Image.fromarray(example["image"]).save(folders["images"] / f"{name}.png")
    Image.fromarray(ids[example["label"]]).save(folders["annotations"] / f"{name}.png")
    if "instance" in example:
        numbers = np.unique(example["instance"], return_inverse=True)[1].reshape(example["instance"].shape)
        numbers = numbers + (example["instance"].min() > 0)
        Image.fromarray(numbers.astype(np.uint16)).save(folders["instances"] / f"{name}.png")


def _stored_image(dataset: SegmentationDataset, index: int) -> dict[str, Any] | None:
    """The image file as it is stored, where it is one."""
    source = dataset.source
    if not isinstance(source, ColumnSource):
        return None
    value = source.table[int(dataset.rows[index])][source.image_column]
    return value if isinstance(value, dict) else None


def _names(file_names: list[str]) -> list[str]:
    """Names without folders and endings; with them where they would be the same, in any case of letters."""
    stems = [PurePosixPath(name).stem for name in file_names]
    counts = Counter(stem.lower() for stem in stems)
    chosen = (
        stem if counts[stem.lower()] == 1 else name.replace("/", "-").replace(".", "-")
        for stem, name in zip(stems, file_names)
    )
    return unique_names(map(file_name, chosen))
