"""One entry to all data sets: labelled folders, data sets of the Hub, and the embedded street scenes."""

import itertools
import os
from pathlib import Path
from typing import Any

import datasets

from ..errors import DatasetError, MissingLabelError, NoImagesError
from ..utils.tasks import TASKS
from .classes import ClassesLike, SegmentationClasses, resolve_classes
from .dataset import SegmentationDataset
from .datasets.catalog import describe_dataset, find_known_dataset
from .datasets.layouts import DatasetInfo
from .datasets.loading import load_known_dataset
from .sources.binary_masks import binary_classes
from .sources.columns import ColumnSource
from .sources.folder import folder_splits, has_label_images, load_segmentation_folder
from .sources.hub import COLUMN_OPTIONS, hub_folder_splits, is_hub_folder, load_hub_dataset, wrap_dataset
from .sources.label_files import IdMaps
from .sources.label_formats.catalog import formats_text, labelled_dataset, read_labelled_folder
from .sources.label_formats.split_names import WHOLE
from .splits import SPLIT_FLAGS, split_aliases
from .street_scenes.dataset import load_street_scenes

FOLDER_OPTIONS = ("unlabelled",)
"""Of folders in the format of an annotation tool."""


def load_segmentation_dataset(
    dataset: str | os.PathLike | datasets.Dataset | datasets.DatasetDict | None = None,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    classes: ClassesLike | None = None,
    task: str | None = None,
    condition: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> SegmentationDataset:
    """Opens a data set by name.

    * a known name (`cityscapes`, `bdd100k`, `mapillary_vistas`, `ade20k`, `pascal_context`, `acdc`, `coco_panoptic`)
      with `data_dir`: that data set in its official layout, which `ssprompt-hf datasets` shows. `"acdc/fog"` means the
      condition fog.
    * `data_dir` alone, or `dataset` a folder: images with label images (`load_segmentation_folder`); the files of an
      annotation tool (COCO, LabelMe, YOLO, Pascal VOC, CVAT, Label Studio: `sources.label_formats`); or, where the
      folder holds Parquet files, a `metadata.jsonl`, or was written by `save_to_disk`, a `datasets` data set.
    * `"street-scenes/<condition>"` or `"street-scenes/<condition>/<label set>"`: drawn scenes (`load_street_scenes`).
    * a Hub id `owner/name`, or a `datasets.Dataset` or `DatasetDict`: any data set with an image and a label column
      (`wrap_dataset`).

    Args:
        dataset: name, folder or data set.
        data_dir: folder of an image-and-label data set.
        split: `train`, `val`, ...; the usual other spellings are understood. Ignored for a `datasets.Dataset`.
        classes: class list or class file; by default the one of the data set.
        task: `semantic` (the default for known names), `instance` or `panoptic`: which label files are read, and
            whether rows have an `instance` map. Other data sets have one where there are files for it.
        condition: of `acdc`: `fog`, `night`, `rain`, `snow` or `all`.
        cache_dir: folder for the lists of files of known data sets; by default under the Hugging Face cache.
        options: for known names `labels`, the name of a kind of label file, and what `ssprompt-hf datasets` lists
            (`version`, `class_order`); for street scenes those of `load_street_scenes`; for Hub data sets the column
            names of `wrap_dataset`, `revision` and `config_name`; for annotation tools `unlabelled`, which
            says what pixels without shape are: `background` (a class of its own) or `ignore`.

    Raises:
        DatasetError: what is missing or wrong; the subclasses are in `ssprompt_hf.errors`.
    """
    if dataset is None and data_dir is None:
        raise DatasetError(
            "No data set given: pass a folder as `data_dir` (--data_dir), or a name as `dataset` (--dataset)."
        )
    is_name = isinstance(dataset, str) and (data_dir is not None or not os.path.isdir(dataset))
    known = find_known_dataset(dataset) if is_name else None
    if known is not None:
        return _load_known(*known, data_dir, split, classes, task, condition, cache_dir, options)
    if condition is not None:
        raise DatasetError(
            f"`condition` is for data sets known by name, such as 'acdc', not for {dataset or data_dir}."
        )
    if isinstance(dataset, datasets.DatasetDict):
        dataset = _one_split(dataset, split)
    opened = _load_other(dataset, data_dir, split, classes, options)
    if task == "instance" and not opened.classes.thing_indices:
        raise DatasetError(
            f"{opened.name}: no class is a thing, so there are no instances to learn or score. Mark those that are "
            'in classes.json: {"name": "' + opened.classes.names[0] + '", "thing": true}.'
        )
    if task is not None and task != "semantic":
        if task not in TASKS:
            raise DatasetError(f"`task` must be one of {', '.join(TASKS)}, not {task!r}.")
        if isinstance(opened.source, ColumnSource) and not opened.source.labels.has_instances:
            raise DatasetError(f"{opened.name}: task={task!r} needs instance maps; this data set has none.")
    return opened


def _load_known(
    info: DatasetInfo,
    named_condition: str | None,
    data_dir: str | os.PathLike | None,
    split: str,
    classes: ClassesLike | None,
    task: str | None,
    condition: str | None,
    cache_dir: str | os.PathLike | None,
    options: dict[str, Any],
) -> SegmentationDataset:
    if data_dir is None:
        raise DatasetError(
            f"{info.name} needs `data_dir` (--data_dir), the folder it lies in.\n{describe_dataset(info)}"
        )
    if classes is not None:
        raise DatasetError(f"{info.title} has its own classes; leave out `classes` (--classes).")
    if None not in (condition, named_condition) and condition != named_condition:
        raise DatasetError(f"The name says condition {named_condition!r}, the argument {condition!r}.")
    return load_known_dataset(info, data_dir, split, task, condition or named_condition, cache_dir, **options)


def _load_other(
    dataset: str | os.PathLike | datasets.Dataset | None,
    data_dir: str | os.PathLike | None,
    split: str,
    classes: ClassesLike | None,
    options: dict[str, Any],
) -> SegmentationDataset:
    if dataset is not None and not isinstance(dataset, (str, os.PathLike)):
        _check_options("a `datasets.Dataset`", options, (*COLUMN_OPTIONS, "name"))
        return wrap_dataset(dataset, classes, **options)
    if isinstance(dataset, str) and dataset.split("/")[0] in ("street-scenes", "street_scenes"):
        if classes is not None:
            raise DatasetError("Street scenes have their own classes; pick a label set: 'street-scenes/clear/custom'.")
        _check_options(dataset, options, ("num_images", "size", "seed"))
        return load_street_scenes(dataset, split, **options)
    folder = Path(dataset if data_dir is None else data_dir)
    if folder.is_dir():
        if is_hub_folder(folder, classes):
            return _load_hub(str(folder), split, classes, options)
        _check_options(str(folder), options, FOLDER_OPTIONS)
        return _load_folder(folder, split, None if classes is None else resolve_classes(classes), **options)
    if data_dir is not None or not _is_hub_id(dataset):
        raise NoImagesError(
            f"{folder}: no such folder. A data set is a folder, 'street-scenes/<condition>', or a Hub id 'owner/name'."
        )
    return _load_hub(str(dataset), split, classes, options)


def _one_split(loaded: datasets.DatasetDict, split: str) -> datasets.Dataset:
    name = next((name for name in split_aliases(split) if name in loaded), None)
    if name is None:
        raise NoImagesError(f"the DatasetDict has no split {split!r}; there are {', '.join(loaded)}. {SPLIT_FLAGS}")
    return loaded[name]


def dataset_splits(
    dataset: str | os.PathLike | datasets.Dataset | datasets.DatasetDict | None,
    data_dir: str | os.PathLike | None = None,
    classes: ClassesLike | None = None,
    **options: Any,
) -> list[str] | None:
    """
    The splits of a data set that lies on this machine, of which there may be none.

    Args:
        dataset, data_dir, classes, options: as of `load_segmentation_dataset`.

    Returns:
        their names; None for data sets known by name, street scenes and those of the Hub, which have their own.

    Raises:
        DatasetError: annotation files are damaged.
    """
    if isinstance(dataset, datasets.DatasetDict):
        return list(dataset)
    if isinstance(dataset, datasets.Dataset):
        return []
    is_name = dataset is not None and (data_dir is not None or not os.path.isdir(dataset))
    folder = data_dir or dataset
    if is_name or folder is None or not (folder := Path(folder)).is_dir():
        return None
    if is_hub_folder(folder, classes):
        return hub_folder_splits(str(folder))
    found = read_labelled_folder(folder, None if classes is None else resolve_classes(classes), **options)
    return folder_splits(folder) if found is None else [name for name in found.splits if name != WHOLE]


def _load_folder(folder: Path, split: str, classes: SegmentationClasses | None, **options: Any) -> SegmentationDataset:
    found = read_labelled_folder(folder, classes, **options)
    if found is not None:
        return labelled_dataset(found, folder, split)
    try:
        table = load_segmentation_folder(folder, split)
        class_list = SegmentationClasses.from_folder(folder) if classes is None else classes
    except (NoImagesError, MissingLabelError) as error:
        if has_label_images(folder):
            raise
        raise type(error)(f"{error}\n{folder} is in none of the forms known here:\n{formats_text()}") from error
    others = (load_segmentation_folder(folder, name) for name in folder_splits(folder) if name != split)
    class_list = binary_classes(class_list, itertools.chain([table], others))
    instance = "instance" if "instance" in table.column_names else None
    source = ColumnSource(table, IdMaps(class_list, instance_column=instance), file_name_column="file_name")
    return SegmentationDataset(class_list, source, folder.resolve().name)


def _load_hub(path: str, split: str, classes: ClassesLike | None, options: dict[str, Any]) -> SegmentationDataset:
    _check_options(path, options, ("config_name", "revision", *COLUMN_OPTIONS))
    return load_hub_dataset(path, split, classes, **options)


def _check_options(name: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises `DatasetError` if one of `options` is none of those `known`."""
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise DatasetError(f"{name} takes no option {unknown!r}; its options are {', '.join(known)}.")


def _is_hub_id(name: str | os.PathLike) -> bool:
    return isinstance(name, str) and name.count("/") <= 1 and not name.startswith((".", "/", "~"))
