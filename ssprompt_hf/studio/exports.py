"""Labels and adapters as files to take away."""

import os
import shutil
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ..data.loading import load_segmentation_dataset
from ..data.plain_folder import write_plain_folder
from ..errors import SSPromptError
from ..models.registry import ADAPTER_WEIGHTS
from ..segmentation.files import CocoDataset, coco_annotation
from ..utils.files import write_json
from .project import ADAPTER, NONE, Labels, Project

COCO = "annotations.json"


def plain_zip(project: Project, folder: str | os.PathLike) -> Path:
    """
    A plain folder of the labelled photographs, zipped: images, annotations, instances, `classes.json`.

    Args:
        project: whose.
        folder: to write `labels.zip` into.

    Raises:
        SSPromptError: nothing is labelled.
    """
    images = load_segmentation_dataset(data_dir=str(_labelled_folder(project)), split="train", task="instance")
    with TemporaryDirectory() as temporary:
        write_plain_folder({"train": images}, Path(temporary, "labels"))
        return Path(shutil.make_archive(str(Path(folder, "labels")), "zip", Path(temporary, "labels")))


def coco_zip(project: Project, folder: str | os.PathLike) -> Path:
    """
    The labelled photographs and one COCO file of their masks, zipped. A class of stuff is one mask, and so are the
    pixels of a thing that nobody told apart, a group (`iscrowd`). COCO has no word for pixels without label: read it
    with `--unlabelled ignore`.

    Args:
        project: whose.
        folder: to write `coco.zip` into.

    Raises:
        SSPromptError: nothing is labelled.
    """
    _labelled_folder(project)
    data = CocoDataset()
    data.categories = {info.id: info.name for info in project.classes}
    things = [info.id for info in project.classes if info.thing]
    with TemporaryDirectory() as temporary:
        for name in project.labelled:
            labels = project.read_labels(name)
            height, width = labels.classes.shape
            data.add(PurePosixPath(name).as_posix(), (width, height), masks_of(labels, things))
            target = Path(temporary, "images", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(project.path(name), target)
        write_json(Path(temporary, COCO), data.to_dict())
        return Path(shutil.make_archive(str(Path(folder, "coco")), "zip", temporary))


def masks_of(labels: Labels, things: list[int]) -> list[dict[str, Any]]:
    """The labels of an image as annotations of COCO; `things` are class ids."""
    keys = labels.classes.astype(np.int64) * 65536 + labels.objects
    annotations = []
    for key in np.unique(keys[labels.classes != NONE]).tolist():
        class_id, number = divmod(key, 65536)
        annotation = coco_annotation(keys == key, class_id, None)
        annotations.append(annotation | {"iscrowd": int(class_id in things and number == 0)})
    return annotations


def adapter_zip(project: Project, folder: str | os.PathLike) -> Path:
    """
    The newest adapter of a project as `adapter.zip` in a folder.

    Raises:
        SSPromptError: none has been trained.
    """
    if not (project.folder / ADAPTER / ADAPTER_WEIGHTS).is_file():
        raise SSPromptError("there is no adapter yet: train one first")
    return Path(shutil.make_archive(str(Path(folder, "adapter")), "zip", project.folder / ADAPTER))


def _labelled_folder(project: Project) -> Path:
    if not project.labelled:
        raise SSPromptError("nothing is labelled yet: there are no labels to download")
    return project.folder
