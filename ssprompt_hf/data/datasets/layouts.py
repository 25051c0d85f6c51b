"""Known data sets as tables of files: where each keeps its images and labels, and how to say that they are not there.

A data set's module lists its layouts, the ways in which its files may lie, best first. The first whose files are there
is read. Finding them opens no image; the table is kept in the cache until a folder it was made from changes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from huggingface_hub import constants
from transformers.utils import logging

from ...errors import DatasetError, MissingLabelError, NoImagesError
from ...utils.files import atomic_path
from ..classes import SegmentationClasses
from ..dataset import ColumnSource, SegmentationDataset
from ..sources.folder import split_aliases
from ..sources.label_files import LabelFormat
from ..sources.panoptic_files import SEGMENT_FEATURES, read_panoptic_json
from ..transforms import TASKS

logger = logging.get_logger(__name__)

INDEX_VERSION = 1
"""Part of the name of a cached table; another number when tables or mappings change."""

IMAGE_COLUMN, NAME_COLUMN, SEGMENTS_COLUMN = "image", "file_name", "segments"


@dataclass(frozen=True)
class Files:
    """Files that belong to one column.

    Args:
        folders: below the root of the data set; files in folders below them count too.
        ending: what every file's name ends in; the rest of the name, without folders, says what belongs together.
    """

    folders: tuple[str, ...]
    ending: str

    def __str__(self) -> str:
        return ", ".join(f"{folder}/**/*{self.ending}" for folder in self.folders)


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a split may lie.

    Args:
        labels: what to call it; the option `labels` chooses a layout by this name.
        images: the images.
        columns: label column -> its files; the format reads them.
        label_format: makes the format from the classes.
        classes: the class list; None where the panoptic JSON file brings it.
        lists: text files of which the first that is there names the images of the split; with an empty tuple, the
            images in the folder are those of the split.
        all_labelled: without such a list, the split is all images that have labels; otherwise that is an error.
        applies: whether the layout can be meant in a root; True when None.
        panoptic_json: alternatives, each a tuple of JSON files that together describe the label files; the first whose
            files are there is read.
        category: index in the class list of an entry of the JSON files' `categories`, None for an ignored one.
    """

    labels: str
    images: Files
    columns: dict[str, Files]
    label_format: Callable[[SegmentationClasses], LabelFormat]
    classes: SegmentationClasses | None
    lists: tuple[str, ...] = ()
    all_labelled: bool = False
    applies: Callable[[Path], bool] | None = None
    panoptic_json: tuple[tuple[str, ...], ...] = ()
    category: Callable[[dict[str, Any], SegmentationClasses], int | None] | None = None

    def describe(self) -> list[str]:
        """What the layout needs, one pattern a line."""
        wanted = [f"images {self.images}"] + [f"{column}s {files}" for column, files in self.columns.items()]
        if self.panoptic_json:
            wanted.append("panoptic JSON " + " or ".join(", ".join(files) for files in self.panoptic_json))
        if self.lists:
            wanted.append("image list " + " or ".join(self.lists))
        return wanted


@dataclass(frozen=True)
class DatasetInfo:
    """A known data set.

    Args:
        name: what `load_segmentation_dataset` calls it.
        title: its own name.
        url: where it can be had.
        licence: its terms, in a sentence.
        tree: the expected folders.
        tasks: those it has labels for.
        splits: the splits that have labels; others are an error before any folder is searched.
        layouts: (task, split, condition or None, options) -> layouts, best first.
        conditions: subsets that can be chosen, `all` among them; empty where there are none.
        options: further keyword arguments and their values, for messages.
        roots: folders below the given one in which the tree may begin.
        archives: folders in which a part of the tree may begin, if archives were unpacked into folders of their own.
    """

    name: str
    title: str
    url: str
    licence: str
    tree: str
    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    layouts: Callable[..., list[Layout]]
    conditions: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()


def default_cache_dir() -> Path:
    """Where tables of files and label statistics are kept: `ssprompt_hf/data` under the Hugging Face cache."""
    return Path(constants.HF_HOME) / "ssprompt_hf" / "data"


def load_known_dataset(
    info: DatasetInfo,
    data_dir: str | os.PathLike,
    split: str = "train",
    task: str | None = None,
    condition: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: str,
) -> SegmentationDataset:
    """Opens a known data set; see `load_segmentation_dataset`.

    Raises:
        DatasetError: an unknown split, task, condition or option; the message lists the known ones.
        NoImagesError: the folder does not hold the data set; the message says what was looked for and what was found.
        MissingLabelError: images without label.
    """
    task = task or "semantic"
    if task not in TASKS:
        raise DatasetError(f"`task` must be one of {', '.join(TASKS)}, not {task!r}.")
    if task not in info.tasks:
        raise DatasetError(f"{info.title} has no labels for task={task!r}, only for {', '.join(info.tasks)}.")
    chosen = next((name for name in split_aliases(split) if name in info.splits), None)
    if chosen is None:
        raise DatasetError(
            f"{info.title} has no labelled split {split!r}, but {', '.join(info.splits)}. `ssprompt-hf predict` "
            "segments images without labels."
        )
    if info.conditions:
        condition = condition or "all"
        if condition not in info.conditions:
            raise DatasetError(f"{info.title}: `condition` is one of {', '.join(info.conditions)}, not {condition!r}.")
    elif condition is not None:
        raise DatasetError(f"{info.title} is not divided by condition; leave out condition={condition!r}.")
    wanted_labels = options.pop("labels", None)
    for name, value in options.items():
        known = info.options.get(name)
        if known is None or value not in known:
            choices = "; ".join(f"{key}: {', '.join(values)}" for key, values in info.options.items())
            raise DatasetError(f"{info.title} takes no option {name}={value!r}. Its options: {choices or 'none'}.")
    layouts = info.layouts(task, chosen, condition, **options)
    if wanted_labels is not None:
        names = list(dict.fromkeys(layout.labels for layout in layouts))
        layouts = [layout for layout in layouts if layout.labels == wanted_labels]
        if not layouts:
            raise DatasetError(f"{info.title}: `labels` is one of {', '.join(names)}, not {wanted_labels!r}.")
    request = [info.name, task, chosen, condition, wanted_labels, sorted(options.items())]
    index = _cached_index(info, layouts, Path(data_dir), request, cache_dir)
    layout = layouts[index.layout]
    classes = layout.classes if index.classes is None else SegmentationClasses.from_dict(index.classes)
    source = ColumnSource(
        index.table,
        layout.label_format(classes),
        IMAGE_COLUMN,
        NAME_COLUMN,
        instances=task != "semantic",
        identity=json.dumps([INDEX_VERSION, request, layout.labels, index.json_stamps]),
    )
    name = info.name if condition is None else f"{info.name}/{condition}"
    return SegmentationDataset(classes, source, name)


@dataclass
class _Index:
    table: datasets.Dataset
    layout: int
    classes: dict | None
    json_stamps: list


def _cached_index(
    info: DatasetInfo, layouts: list[Layout], root: Path, request: list, cache_dir: str | os.PathLike | None
) -> _Index:
    key = hashlib.sha256(json.dumps([INDEX_VERSION, str(root.absolute()), request]).encode()).hexdigest()[:32]
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / f"index-{key}.arrow"
    try:
        with pa.memory_map(str(file)) as stored:
            facts = json.loads(pa.ipc.open_stream(stored).schema.metadata[b"ssprompt_hf"])
        if all(_stamp(path) == stamp for path, stamp in facts["stamps"].items()):
            return _Index(datasets.Dataset.from_file(str(file)), *(facts[k] for k in ("layout", "classes", "json")))
    except (OSError, KeyError, TypeError, ValueError):  # pa.ArrowInvalid is a ValueError
        pass  # none there, or of an interrupted disk: it is made anew
    files = _FileLists(info.archives)
    index = _make_index(info, layouts, root, files)
    facts = {"layout": index.layout, "classes": index.classes, "json": index.json_stamps, "stamps": files.stamps}
    table = index.table.data.table
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"ssprompt_hf": json.dumps(facts)})
    try:
        with (
            atomic_path(file) as temporary,
            pa.OSFile(str(temporary), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
    except OSError as error:
        logger.warning(f"the list of files of {info.title} cannot be kept in {file.parent} ({error})")
    return index


def _stamp(path: str | os.PathLike) -> int | None:
    """Time of the last change of a file, or of the list of files of a folder; None where nothing is."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


class _FileLists:
    """The files below folders, each folder listed once; and the stamps of all that was looked at.

    Args:
        archives: see `DatasetInfo`.
    """

    def __init__(self, archives: Sequence[str] = ()):
        self.archives = archives
        self.stamps: dict[str, int | None] = {}
        self._files: dict[str, list[str]] = {}

    def exists(self, path: Path) -> bool:
        self.stamps[str(path)] = _stamp(path)
        return self.stamps[str(path)] is not None

    def place(self, root: Path, name: str) -> Path:
        """Where a folder or file of the tree is, or should be."""
        places = (root / archive / name for archive in ("", *self.archives))
        return next(filter(self.exists, places), root / name)

    def all_exist(self, root: Path, names: Sequence[str]) -> bool:
        return all([self.exists(self.place(root, name)) for name in names])  # noqa: C419 -- all stamps are wanted

    def below(self, folder: Path) -> list[str]:
        """Paths of all files below `folder`, in any order; hidden ones are left out."""
        key = str(folder)
        if key not in self._files:
            found: list[str] = []
            for parent, folders, names in os.walk(key, followlinks=True):
                folders[:] = [name for name in folders if not name.startswith(".")]
                self.stamps[parent] = _stamp(parent)
                found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
            self._files[key] = found
        return self._files[key]

    def by_key(self, root: Path, files: Files) -> dict[str, str]:
        """Rest of the name without the ending -> path; where such names repeat, with their folders."""
        names, paths = [], []
        for number, folder in enumerate(files.folders):
            top = self.place(root, folder)
            for path in self.below(top):
                if path.endswith(files.ending):
                    names.append(f"{number}{path[len(str(top)) : len(path) - len(files.ending)]}")
                    paths.append(path)
        keys = [os.path.basename(name) for name in names]
        return dict(zip(names if len(set(keys)) < len(keys) else keys, paths))


def _make_index(info: DatasetInfo, layouts: list[Layout], data_dir: Path, files: _FileLists) -> _Index:
    roots = [data_dir] + [data_dir / name for name in info.roots]
    for root in roots:
        files.exists(root)
        for number, layout in enumerate(layouts):
            if layout.applies is not None and not layout.applies(root):
                continue
            if not files.all_exist(root, layout.images.folders):
                continue
            columns = {column: files.by_key(root, wanted) for column, wanted in layout.columns.items()}
            json_files = next((names for names in layout.panoptic_json if files.all_exist(root, names)), None)
            if all(columns.values()) and (json_files is not None or not layout.panoptic_json):
                return _index_layout(info, layout, number, root, columns, json_files or (), files)
    raise NoImagesError(_not_found(info, layouts, data_dir))


def _index_layout(
    info: DatasetInfo,
    layout: Layout,
    number: int,
    root: Path,
    columns: dict[str, dict[str, str]],
    json_files: Sequence[str],
    files: _FileLists,
) -> _Index:
    images = files.by_key(root, layout.images)
    segments, classes = None, layout.classes
    if json_files:
        segments, classes, partners = read_panoptic_json(
            [files.place(root, name) for name in json_files], classes, layout.category
        )
        # the JSON files say which image a label belongs to; where they name none that is there, the files' names do
        key_of = {os.path.basename(path): key for key, path in images.items()}
        described = {key: path for key, path in columns["label"].items() if os.path.basename(path) in partners}
        columns["label"] = {key_of.get(partners[os.path.basename(path)], key): path for key, path in described.items()}
    keys = sorted(images)
    if layout.lists:
        keys = _listed(info, root, layout, images, files)
        keys = sorted(images.keys() & columns["label"].keys()) if keys is None else keys
    if not keys:
        raise NoImagesError(f"{root}: no images for {info.title}. Looked for {layout.images}.")
    missing = [(key, column) for column, found in columns.items() for key in keys if key not in found]
    if missing:
        key, column = missing[0]
        raise MissingLabelError(
            f"{info.title}: {len(missing)} of {len(keys)} images have no {column} file, the first is {images[key]}. "
            f"Looked for {layout.columns[column]} below {root}. Add the files or remove the images."
        )
    keys.sort(key=lambda key: images[key])
    data: dict[str, list] = {IMAGE_COLUMN: [images[key] for key in keys]}
    data |= {column: [found[key] for key in keys] for column, found in columns.items()}
    features: dict[str, Any] = {
        column: datasets.Image(decode=False) if _is_image(paths[0]) else datasets.Value("string")
        for column, paths in data.items()
    }
    if segments is not None:
        data[SEGMENTS_COLUMN] = [segments[os.path.basename(path)] for path in data["label"]]
        features[SEGMENTS_COLUMN] = SEGMENT_FEATURES
    prefix = len(os.path.join(root, ""))
    data[NAME_COLUMN] = [path[prefix:].replace(os.sep, "/") for path in data[IMAGE_COLUMN]]
    features[NAME_COLUMN] = datasets.Value("string")
    table = datasets.Dataset.from_dict(data, features=datasets.Features(features))
    own_classes = classes.to_dict() if layout.classes is None else None
    return _Index(table, number, own_classes, [_stamp(files.place(root, name)) for name in json_files])


def _is_image(path: str) -> bool:
    return path.lower().endswith((".png", ".jpg", ".jpeg"))


def _listed(
    info: DatasetInfo, root: Path, layout: Layout, images: dict[str, str], files: _FileLists
) -> list[str] | None:
    """The names in the first list file that is there; None where there is none and all labelled images count."""
    for name in layout.lists:
        if files.exists(root / name):
            lines = (root / name).read_text(encoding="utf-8").splitlines()
            names = [line.split()[0] for line in lines if line.strip()]
            missing = [key for key in names if key not in images]
            if missing:
                raise NoImagesError(
                    f"{info.title}: {root / name} lists {missing[0]!r} ({len(missing)} such names), of which there is "
                    "no image."
                )
            return names
    if layout.all_labelled:
        return None
    raise NoImagesError(
        f"{root}: no list of the images of this split of {info.title}. Looked for {', '.join(layout.lists)}; found "
        f"{_first_entries(root)}."
    )


def _not_found(info: DatasetInfo, layouts: list[Layout], data_dir: Path) -> str:
    if not data_dir.is_dir():
        return f"{data_dir}: no such folder. {info.title} can be had at {info.url}."
    looked = list(dict.fromkeys(f"  {layout.labels}: {'; '.join(layout.describe())}" for layout in layouts))
    lines = [
        f"{data_dir}: this is not {info.title}, or this part of it is missing. Looked for one of",
        *looked,
        f"found {_first_entries(data_dir)}.",
    ]
    # the deepest folders on the way to what was looked for show where the tree departs from it
    wanted = [folder for layout in layouts for folder in layout.images.folders]
    wanted += [folder for layout in layouts for files in layout.columns.values() for folder in files.folders]
    roots = [data_dir] + [data_dir / name for name in info.roots + info.archives if (data_dir / name).is_dir()]
    deepest = {_deepest(root, folder) for root in roots for folder in wanted} - {data_dir}
    lines += [f"In {folder} found {_first_entries(folder)}." for folder in sorted(deepest)[:4]]
    if info.roots or info.archives:
        lines.append(f"(Also looked in its folders {', '.join(info.roots + info.archives)}.)")
    lines.append(f"`ssprompt-hf datasets {info.name}` shows the expected tree.")
    return "\n".join(lines)


def _deepest(root: Path, folder: str) -> Path:
    """The last folder on the way from `root` to `folder` that is there."""
    path = root
    for part in Path(folder).parts:
        if not (path / part).is_dir():
            break
        path = path / part
    return path


def _first_entries(folder: Path, limit: int = 8) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "nothing"
