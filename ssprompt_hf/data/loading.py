"""One entry to all data sets: labelled folders, data sets of the Hub, and the embedded street scenes."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ClassListError, DatasetError, NoImagesError
from .classes import CLASS_FILE_NAMES, SegmentationClasses
from .dataset import ColumnSource, SegmentationDataset
from .datasets.catalog import describe_dataset, find_known_dataset
from .datasets.layouts import DatasetInfo, load_known_dataset
from .sources.folder import SPLIT_FLAGS, load_segmentation_folder, split_aliases
from .sources.label_files import IdMaps
from .street_scenes.source import STREET_SPLITS, StreetScenes
from .transforms import TASKS

if TYPE_CHECKING:
    import datasets

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
COLUMN_OPTIONS = ("image_column", "label_column", "instance_column")

ClassesLike = SegmentationClasses | str | os.PathLike | None


def load_segmentation_dataset(
    dataset: "str | os.PathLike | datasets.Dataset | None" = None,
    data_dir: str | os.PathLike | None = None,
    split: str = "train",
    classes: ClassesLike = None,
    task: str | None = None,
    condition: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> SegmentationDataset:
    """Opens a data set by name.

    * a known name (`cityscapes`, `bdd100k`, `mapillary_vistas`, `ade20k`, `pascal_context`, `acdc`, `coco_panoptic`)
      with `data_dir`: that data set in its official layout, which `ssprompt-hf datasets` shows. `"acdc/fog"` means the
      condition fog.
    * `data_dir` alone, or `dataset` a folder: images with labels (`load_segmentation_folder`), or, where the folder
      holds Parquet files or was written by `save_to_disk`, a `datasets` data set.
    * `"street-scenes/<condition>"` or `"street-scenes/<condition>/<label set>"`: drawn scenes (`load_street_scenes`).
    * a Hub id `owner/name`, or a `datasets.Dataset`: any data set with an image and a label column (`wrap_dataset`).

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
            names of `wrap_dataset`, `revision` and `config_name`; a folder takes none.

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
    opened = _load_other(dataset, data_dir, split, classes, options)
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
    classes: ClassesLike,
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
    dataset: "str | os.PathLike | datasets.Dataset | None",
    data_dir: str | os.PathLike | None,
    split: str,
    classes: ClassesLike,
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
        if (
            (folder / "state.json").is_file()
            or (folder / "dataset_dict.json").is_file()
            or any(_parquet_files(folder))
        ):
            return _load_hub(str(folder), split, classes, **options)
        if options:
            raise DatasetError(f"{folder}: an image-and-label folder takes no option {', '.join(options)}.")
        table = load_segmentation_folder(folder, split)
        class_list = SegmentationClasses.from_folder(folder) if classes is None else resolve_classes(classes)
        instance = "instance" if "instance" in table.column_names else None
        source = ColumnSource(table, IdMaps(class_list, instance_column=instance), file_name_column="file_name")
        return SegmentationDataset(class_list, source, folder.resolve().name)
    if data_dir is not None or not _is_hub_id(dataset):
        raise NoImagesError(
            f"{folder}: no such folder. A data set is a folder, 'street-scenes/<condition>', or a Hub id 'owner/name'."
        )
    return _load_hub(str(dataset), split, classes, **options)


def _check_options(name: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Raises `DatasetError` if one of `options` is none of those `known`."""
    unknown = next((option for option in options if option not in known), None)
    if unknown is not None:
        raise DatasetError(f"{name} takes no option {unknown!r}; its options are {', '.join(known)}.")


def resolve_classes(classes: ClassesLike) -> SegmentationClasses:
    """A class list as it is, or read from a class file or from the class file of a folder."""
    if isinstance(classes, SegmentationClasses):
        return classes
    if Path(classes).is_dir():
        return SegmentationClasses.from_folder(classes)
    return SegmentationClasses.from_file(classes)


def wrap_dataset(
    dataset: "datasets.Dataset",
    classes: ClassesLike = None,
    image_column: str | None = None,
    label_column: str | None = None,
    instance_column: str | None = None,
    name: str = "dataset",
) -> SegmentationDataset:
    """Wraps a `datasets.Dataset` that has an image and a label column.

    Columns not given are found by name and type. Label columns are images or two-dimensional arrays of class ids;
    without `classes`, names are taken from a `ClassLabel` inside a list or array column.

    Raises:
        DatasetError: no such column, or several that fit.
        ClassListError: no class names to be found.
    """
    import datasets

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


class StreetSceneSource:
    """Rows of drawn street scenes; one is drawn anew at every read."""

    def __init__(self, scenes: StreetScenes):
        self.scenes = scenes
        # labels are the same in all conditions, and a clear day is drawn fastest
        self.clear_scenes = StreetScenes(
            scenes.split, "clear", scenes.size, scenes.num_images, scenes.seed, scenes.label_set
        )
        place = f"{scenes.split}/{scenes.condition}/{scenes.label_set}/seed-{scenes.seed}"
        self.file_names = [f"{place}/{row:06d}" for row in range(len(scenes))]

    def read(self, row: int) -> dict[str, Any]:
        return self.scenes[row]

    def read_label(self, row: int) -> np.ndarray:
        return self.clear_scenes[row]["label"]

    def fingerprint(self) -> str:
        # one label is part of it, as another version of this package may draw other scenes
        drawn = hashlib.sha256(self.read_label(0).tobytes()).hexdigest()
        return f"{self.file_names[0]} {len(self.scenes)} {self.scenes.size} {drawn}"


def load_street_scenes(
    name: str,
    split: str = "train",
    num_images: int = 100,
    size: tuple[int, int] = (192, 384),
    seed: int = 0,
) -> SegmentationDataset:
    """Drawn street scenes by name, `street-scenes/<condition>[/<label set>]`: `street-scenes/fog`.

    Args:
        name: conditions are clear, fog, night, rain, snow; label sets are base (the default) and custom.
        split: `train`, `validation` or `test` (or another usual spelling); splits share no scene.
        num_images: how many scenes.
        size: (height, width) in pixels.
        seed: another seed gives other scenes.

    Raises:
        DatasetError: no such condition, label set or split, or a bad number.
    """
    parts = name.split("/")
    condition, label_set = (parts[1:] + ["clear", "base"][len(parts) - 1 :])[:2]
    known = split_aliases(split)
    chosen = next((alias for alias in known if alias in STREET_SPLITS), split)
    for option, value in (("num_images", num_images), ("seed", seed)):
        if not _is_integer(value):
            raise DatasetError(f"{name!r}: {option} is {value!r}; it must be a whole number.")
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(map(_is_integer, size))):
        raise DatasetError(f"{name!r}: size is {size!r}; it must be [height, width] in pixels.")
    if len(parts) > 3:
        raise DatasetError(f"{name!r}: the form is 'street-scenes/<condition>/<label set>'.")
    try:
        scenes = StreetScenes(chosen, condition, size, num_images, seed, label_set)
    except ValueError as error:
        raise DatasetError(f"{name!r}: {error}") from error
    classes = SegmentationClasses.from_names(scenes.classes, scenes.thing_ids, scenes.colors, (scenes.ignore_index,))
    return SegmentationDataset(classes, StreetSceneSource(scenes), name)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _load_hub(
    path: str,
    split: str,
    classes: ClassesLike,
    config_name: str | None = None,
    revision: str | None = None,
    **columns: str,
) -> SegmentationDataset:
    """A data set of the Hub, or a local folder in one of its forms."""
    import datasets

    _check_options(path, columns, ("config_name", "revision", *COLUMN_OPTIONS))
    saved = (Path(path) / "state.json").is_file() or (Path(path) / "dataset_dict.json").is_file()
    if saved:
        loaded = datasets.load_from_disk(path)
        splits = list(loaded) if isinstance(loaded, datasets.DatasetDict) else None
    else:
        with _hub_errors(path, (OSError, ValueError, RuntimeError)):  # no such configuration; made by a script
            splits = datasets.get_dataset_split_names(path, config_name, revision=revision)
    chosen = split if splits is None else next((name for name in split_aliases(split) if name in splits), None)
    if chosen is None:
        raise NoImagesError(f"{path}: no split {split!r}; there are {', '.join(splits)}. {SPLIT_FLAGS}")
    if not saved:
        with _hub_errors(path, OSError):
            loaded = datasets.load_dataset(path, config_name, split=chosen, revision=revision)
    elif splits is not None:
        loaded = loaded[chosen]
    if classes is None:
        classes = _hub_class_file(path, revision)
    return wrap_dataset(loaded, classes, name=path, **columns)


def _hub_class_file(path: str, revision: str | None) -> str | None:
    """The class file in a data set's folder or repository, or None."""
    if os.path.isdir(path):
        return next((str(Path(path) / name) for name in CLASS_FILE_NAMES if (Path(path) / name).is_file()), None)
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HTTPError

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
        if getattr(error, "errno", None) is not None:  # of this machine: no space left, no right to write
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
    import datasets

    return isinstance(feature, (datasets.Array2D, datasets.Array3D)) or (
        isinstance(feature, datasets.List)
        and isinstance(feature.feature, datasets.List)
        and isinstance(feature.feature.feature, datasets.Value)
    )


def _class_names(feature: Any, min_depth: int) -> list[str] | None:
    """Names of a `ClassLabel` at least `min_depth` lists deep: a bare one would describe the whole image."""
    import datasets

    depth = 0
    while isinstance(feature, datasets.List):
        feature, depth = feature.feature, depth + 1
    return feature.names if isinstance(feature, datasets.ClassLabel) and depth >= min_depth else None


def _parquet_files(folder: Path):
    yield from folder.glob("*.parquet")
    yield from folder.glob("data/*.parquet")


def _is_hub_id(name: str | os.PathLike) -> bool:
    return isinstance(name, str) and name.count("/") <= 1 and not name.startswith((".", "/", "~"))
