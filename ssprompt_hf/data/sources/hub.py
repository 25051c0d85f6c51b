"""Data sets of the Hub, and any `datasets.Dataset` with an image and a label column."""

import csv
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HTTPError

from ...errors import ClassListError, DatasetError, DownloadError, NoImagesError
from ...utils.files import FULL
from ...utils.hub import checked_downloads, tried_again
from ..classes import CLASS_FILE_NAMES, ClassesLike, SegmentationClasses, resolve_classes
from ..dataset import SegmentationDataset
from ..splits import SPLIT_FLAGS, split_aliases
from .columns import ColumnSource
from .folder import has_label_images
from .label_files import IdMaps

IMAGE_COLUMNS = ("image", "img", "images", "photo")
LABEL_COLUMNS = (
    "label",
    "annotation",
    "mask",
    "semantic_mask",
    "segmentation_mask",
    "segmentation",
    "semantic_segmentation",
    "label_map",
    "labels",
    "annotations",
    "masks",
)
INSTANCE_COLUMNS = ("instance", "instances", "instance_mask")
FILE_NAME_COLUMNS = ("file_name", "filename")
TABLES = ("metadata.jsonl", "metadata.csv")
OF_THIS_MACHINE = {*FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
COLUMN_OPTIONS = ("image_column", "label_column", "instance_column")


def wrap_dataset(
    dataset: datasets.Dataset,
    classes: ClassesLike | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    instance_column: str | None = None,
    name: str = "dataset",
) -> SegmentationDataset:
    """Wraps a `datasets.Dataset` that has an image and a label column.

    Columns not given are found by name and type. Label columns are images or two-dimensional arrays of class ids;
    without `classes`, names are taken from a `ClassLabel` inside a list or array column.

    Args:
        dataset: the table.
        classes: class list, class file, or a folder with a class file.
        image_column, label_column, instance_column: what the columns are called.
        name: what the data set is called in messages and adapter files.

    Raises:
        DatasetError: not a `datasets.Dataset`, no such column, or several that fit.
        ClassListError: no class names to be found.
    """
    if not isinstance(dataset, datasets.Dataset):
        raise DatasetError(
            f"{name}: expected a `datasets.Dataset`, found {type(dataset).__name__}. Choose one split of a "
            "`DatasetDict`, and load without streaming."
        )
    features = dataset.features
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    maps = images + [key for key, feature in features.items() if _class_names(feature, 2) or _is_array(feature)]
    image_column = _column(name, "image", image_column, images, IMAGE_COLUMNS)
    labels = [key for key in maps if key not in (image_column, instance_column) and key not in INSTANCE_COLUMNS]
    label_column = _column(name, "label", label_column, labels, LABEL_COLUMNS)
    if instance_column is None:
        instance_column = next((key for key in INSTANCE_COLUMNS if key in maps and key != label_column), None)
    else:
        _column(name, "instance", instance_column, maps, ())
    if classes is not None:
        class_list = resolve_classes(classes)
    else:
        found = {key: _class_names(feature, 1) for key, feature in features.items()}
        found = {key: names for key, names in found.items() if names}
        names = found.get(label_column) or (next(iter(found.values())) if len(found) == 1 else None)
        if names is None:
            raise ClassListError(
                f"{name}: the data set does not name its classes ({len(found)} columns hold class labels; one is "
                "needed). Pass a class file as `classes` (--classes)."
            )
        class_list = SegmentationClasses.from_names(names)
    file_names = next((key for key in FILE_NAME_COLUMNS if key in features), None)
    source = ColumnSource(dataset, IdMaps(class_list, label_column, instance_column), image_column, file_names)
    return SegmentationDataset(class_list, source, name)


def load_hub_dataset(
    path: str,
    split: str,
    classes: ClassesLike | None = None,
    config_name: str | None = None,
    revision: str | None = None,
    **columns: str,
) -> SegmentationDataset:
    """Opens a data set of the Hub, or a local folder in one of its forms.

    Args:
        path: Hub id, a folder with Parquet files or a table of images, or one written by `save_to_disk`.
        split: `train`, `val`, ...; the usual other spellings are understood. What was saved without splits is read
            whole.
        classes: as of `wrap_dataset`; by default the class file in the folder or repository, if it has one.
        config_name: which of several configurations.
        revision: commit, branch or tag.
        columns: the column names, as of `wrap_dataset`.

    Raises:
        NoImagesError: it cannot be had or read, or has no such split.
        DatasetError, ClassListError: as of `wrap_dataset`.
    """
    saved = _is_saved(Path(path))
    if saved:
        loaded = _load_saved(path)
        splits = list(loaded) if isinstance(loaded, datasets.DatasetDict) else None
    else:
        # no such configuration; made by a script; a connection that breaks
        with _hub_errors(path, (OSError, ValueError, RuntimeError, HTTPError)):
            asked = partial(datasets.get_dataset_split_names, path, config_name, revision=revision)
            splits = asked() if os.path.isdir(path) else tried_again(asked, f"the data set {path!r}")
    chosen = split if splits is None else next((name for name in split_aliases(split) if name in splits), None)
    if chosen is None:
        raise NoImagesError(f"{path}: no split {split!r}; there are {', '.join(splits)}. {SPLIT_FLAGS}")
    if not saved:
        with _hub_errors(path, (OSError, DatasetsError, HTTPError)):
            loaded = None
            try:
                with checked_downloads(path, kind="datasets"):
                    loaded = datasets.load_dataset(path, config_name, split=chosen, revision=revision)
            except DownloadError:
                for file in [] if loaded is None else loaded.cache_files:  # tables made of the damaged file
                    shutil.rmtree(Path(file["filename"]).parent, ignore_errors=True)
                raise
    elif splits is not None:
        loaded = loaded[chosen]
    if classes is None:
        classes = _hub_class_file(path, revision)
    return wrap_dataset(loaded, classes, name=path, **columns)


def hub_folder_splits(path: str) -> list[str]:
    """The splits of a folder that `is_hub_folder`; none of what was saved without.

    Raises:
        NoImagesError: it cannot be read.
    """
    if _is_saved(Path(path)):
        loaded = _load_saved(path)
        return list(loaded) if isinstance(loaded, datasets.DatasetDict) else []
    with _hub_errors(path, (OSError, ValueError, RuntimeError)):
        return datasets.get_dataset_split_names(path)


def is_hub_folder(folder: Path, classes: ClassesLike | None = None) -> bool:
    """
    Whether a folder holds a data set in a form of the Hub: as `save_to_disk` writes it, Parquet files, or images with
    a table (`metadata.jsonl` or `.csv`) whose columns such as `label_file_name` name further images. Label images with
    a class list go before such a table, which may tell something else of the images.

    Args:
        folder: to look at.
        classes: the class list that the user gave, if any.
    """
    if _is_saved(folder):
        return True
    if any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "data/*.parquet", "*/*.parquet")):
        return True
    tables = (path for place in ("", "*/", "data/*/") for name in TABLES for path in folder.glob(f"{place}{name}"))
    if not any(map(_names_files, tables)):
        return False
    has_classes = classes is not None or SegmentationClasses.file_in(folder) is not None
    return not (has_classes and has_label_images(folder))


def _names_files(table: Path) -> bool:
    """Whether a table of the datasets library's `imagefolder` has a column of files; so does a damaged one."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        if table.suffix == ".csv":
            columns = next(csv.reader(file), [])
        else:
            try:
                columns = json.loads(file.readline())
            except (ValueError, RecursionError):
                return True
    return isinstance(columns, (dict, list)) and any(str(column).endswith("file_name") for column in columns)


def _hub_class_file(path: str, revision: str | None) -> str | None:
    """The class file in a data set's folder or repository, or None."""
    if os.path.isdir(path):
        return next((str(Path(path) / name) for name in CLASS_FILE_NAMES if (Path(path) / name).is_file()), None)
    from huggingface_hub import HfApi, hf_hub_download

    with _hub_errors(path, (OSError, HTTPError)):
        files = HfApi().list_repo_files(path, repo_type="dataset", revision=revision)
        name = next((name for name in CLASS_FILE_NAMES if name in files), None)
        return name and hf_hub_download(path, name, repo_type="dataset", revision=revision)


@contextmanager
def _hub_errors(path: str, errors: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
    """What libraries say of a data set that cannot be had or read, in one line: `errors` become a `NoImagesError`."""
    try:
        yield
    except errors as error:
        if getattr(error, "errno", None) in OF_THIS_MACHINE:
            raise
        text = " ".join(str(error).split()).rstrip(".")
        fix = "Check its files."
        if not os.path.isdir(path):
            fix = "Check its name and the connection, and log in with `hf auth login` if it is private."
        raise NoImagesError(f"{path}: this data set cannot be read ({text}). {fix}") from error


def _column(name: str, what: str, given: str | None, candidates: list[str], usual: tuple[str, ...]) -> str:
    if given is not None:
        if given not in candidates:
            raise DatasetError(
                f"{name}: column {given!r} cannot be the {what}; candidates: {', '.join(candidates) or 'none'}."
            )
        return given
    known = [key for key in usual if key in candidates]
    if known or len(candidates) == 1:
        return (known or candidates)[0]
    raise DatasetError(
        f"{name}: which column is the {what}? Pass `{what}_column` (in --dataset_options); candidates: "
        f"{', '.join(candidates) or 'none'}."
    )


def _is_array(feature: Any) -> bool:
    return isinstance(feature, (datasets.Array2D, datasets.Array3D)) or (
        isinstance(feature, datasets.List)
        and isinstance(feature.feature, datasets.List)
        and isinstance(feature.feature.feature, datasets.Value)
    )


def _class_names(feature: Any, min_depth: int) -> list[str] | None:
    """Names of a `ClassLabel` at least `min_depth` lists deep: a bare one would describe the whole image."""
    depth = 0
    while isinstance(feature, datasets.List):
        feature, depth = feature.feature, depth + 1
    return feature.names if isinstance(feature, datasets.ClassLabel) and depth >= min_depth else None


def _load_saved(path: str) -> datasets.Dataset | datasets.DatasetDict:
    """What `save_to_disk` wrote; a damaged folder makes the library stumble over anything."""
    with _hub_errors(path, Exception):
        return datasets.load_from_disk(path)


def _is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
