"""Tables of the files of known data sets: found without opening an image, and kept until a folder has changed.

The first of a data set's layouts whose files are there is read; where none is, the error says what was looked for and
what was found.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from transformers.utils import logging

from ...errors import DatasetError, MissingLabelError, NoImagesError
from ...utils.files import atomic_path, file_digest, folder_identity, read_text
from ..sources.panoptic_files import SEGMENT_FEATURES, read_panoptic_json
from .layouts import DatasetInfo, Files, Layout, default_cache_dir

logger = logging.get_logger(__name__)

INDEX_VERSION = 3
"""Part of the name of a cached table; another number when tables or mappings change."""

IMAGE_COLUMN, NAME_COLUMN, SEGMENTS_COLUMN, ID_COLUMN = "image", "file_name", "segments", "image_id"


@dataclass
class FileIndex:
    """The files of a split.

    Args:
        table: one row an image: its file, those of its labels, perhaps its segments and, as JSON, its id in the
            panoptic JSON file, and its name.
        layout: which of the layouts the files are in.
        classes: the class list as `SegmentationClasses.to_dict` gives it, where the panoptic JSON files bring it.
        json_stamps: times of the last change of these files.
    """

    table: datasets.Dataset
    layout: int
    classes: dict | None
    json_stamps: list


def cached_index(
    info: DatasetInfo, layouts: list[Layout], root: Path, request: list, cache_dir: str | os.PathLike | None
) -> FileIndex:
    """The files of a split, from the cache where no folder that was looked at has changed since.

    Args:
        info: the data set.
        layouts: where to look, best first.
        root: the folder of the data set.
        request: what else tells this split from others, as JSON values.
        cache_dir: folder of the kept tables; `default_cache_dir()` when None.

    Raises:
        NoImagesError: no layout's files are there, or a list names an image that is not.
        DatasetError: two variants are there, of which one has to be chosen.
        MissingLabelError: images without label.
        LabelFormatError, ClassListError: as of `read_panoptic_json`.
    """
    key = hashlib.sha256(json.dumps([INDEX_VERSION, str(root.absolute()), request]).encode()).hexdigest()[:32]
    file = (default_cache_dir() if cache_dir is None else Path(cache_dir)) / f"index-{key}.arrow"
    try:
        _check_digest(file)
        with pa.memory_map(str(file)) as stored:
            facts = json.loads(pa.ipc.open_stream(stored).schema.metadata[b"ssprompt_hf"])
        if all(_stamp(path) == stamp for path, stamp in facts["stamps"].items()):
            return FileIndex(datasets.Dataset.from_file(str(file)), *(facts[k] for k in ("layout", "classes", "json")))
    except FileNotFoundError:
        pass
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:  # pa.ArrowInvalid is a ValueError
        logger.warning(f"{file} is damaged ({error}): the files are looked for again")
    files = _FileLists(info.archives)
    index = _make_index(info, layouts, root, files)
    facts = {"layout": index.layout, "classes": index.classes, "json": index.json_stamps, "stamps": files.stamps}
    table = index.table.with_format("arrow")[:]
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"ssprompt_hf": json.dumps(facts)})
    try:
        with atomic_path(file) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            digest = bytes.fromhex(file_digest(temporary))
            with open(temporary, "ab") as end:
                end.write(digest)
    except OSError as error:
        logger.warning(f"the list of files of {info.title} cannot be kept in {file.parent} ({error})")
    return index


def _check_digest(file: Path) -> None:
    """Raises `ValueError` if the last bytes of a kept table are not the SHA-256 of those before, which readers of
    Arrow streams end at."""
    content = file.read_bytes()
    size = hashlib.sha256().digest_size
    if hashlib.sha256(content[:-size]).digest() != content[-size:]:
        raise ValueError("wrong checksum")


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

    def locate(self, root: Path, name: str) -> Path:
        """Where a folder or file of the tree is, or should be."""
        candidates = (root / archive / name for archive in ("", *self.archives))
        return next(filter(self.exists, candidates), root / name)

    def all_exist(self, root: Path, names: Sequence[str]) -> bool:
        return all([self.exists(self.locate(root, name)) for name in names])  # noqa: C419 -- all stamps are wanted

    def below(self, folder: Path) -> list[str]:
        """Paths of all files below `folder`, in any order; hidden ones are left out."""
        key = str(folder)
        if key not in self._files:
            found: list[str] = []
            above = {key: {folder_identity(key)}}  # links back to a folder above would be followed for ever
            for parent, folders, names in os.walk(key, followlinks=True):
                identities = {name: folder_identity(os.path.join(parent, name)) for name in folders if name[0] != "."}
                here = above.pop(parent) | {None}
                folders[:] = [name for name, identity in identities.items() if identity not in here]
                above |= {os.path.join(parent, name): here | {identities[name]} for name in folders}
                self.stamps[parent] = _stamp(parent)
                found += [os.path.join(parent, name) for name in names if not name.startswith(".")]
            self._files[key] = found
        return self._files[key]

    def by_key(self, root: Path, files: Files) -> dict[str, str]:
        """Rest of the name without the ending -> path; where such names repeat, with their folders."""
        names, paths = [], []
        for number, folder in enumerate(files.folders):
            top = self.locate(root, folder)
            for path in self.below(top):
                if path.endswith(files.ending):
                    names.append(f"{number}{path[len(str(top)) : len(path) - len(files.ending)]}")
                    paths.append(path)
        keys = [os.path.basename(name) for name in names]
        return dict(zip(names if len(set(keys)) < len(keys) else keys, paths))


def _make_index(info: DatasetInfo, layouts: list[Layout], data_dir: Path, files: _FileLists) -> FileIndex:
    roots = [data_dir] + [data_dir / name for name in info.roots]
    for root in roots:
        files.exists(root)
        found: tuple | None = None
        for number, layout in enumerate(layouts):
            if found is not None and layout.variant in (None, found[0].variant):
                continue
            if layout.applies is not None and not layout.applies(root):
                continue
            if not files.all_exist(root, layout.images.folders):
                continue
            columns = {column: files.by_key(root, wanted) for column, wanted in layout.columns.items()}
            json_files = next((names for names in layout.panoptic_json if files.all_exist(root, names)), None)
            if not all(columns.values()) or (json_files is None and layout.panoptic_json):
                continue
            if found is not None:
                raise DatasetError(_two_variants(info, root, found[0], layout))
            found = layout, number, root, columns, json_files or ()
            if layout.variant is None:
                break
        if found is not None:
            return _index_layout(info, *found, files)
    raise NoImagesError(_not_found(info, layouts, data_dir))


def _two_variants(info: DatasetInfo, root: Path, first: Layout, second: Layout) -> str:
    option, value = second.variant
    places = [layout.columns["label"] for layout in (first, second)]
    return (
        f"{root}: {info.title} is there in {option} {first.variant[1]} ({places[0]}) and in {option} {value} "
        f"({places[1]}), whose labels differ. Choose one by the option {option}: --dataset_options "
        f'\'{{"{option}": "{value}"}}\', in `ssprompt-hf reproduce` {info.name}=\'{{"{option}": "{value}"}}\'.'
    )


def _index_layout(
    info: DatasetInfo,
    layout: Layout,
    number: int,
    root: Path,
    columns: dict[str, dict[str, str]],
    json_files: Sequence[str],
    files: _FileLists,
) -> FileIndex:
    images = files.by_key(root, layout.images)
    segments, classes = None, layout.classes
    if json_files:
        segments, classes, partners = read_panoptic_json(
            [files.locate(root, name) for name in json_files], classes, layout.category
        )
        segments = {os.path.basename(name): found for name, found in segments.items()}
        ids = {os.path.basename(name): json.dumps(image.image_id) for name, image in partners.items()}
        partners = {os.path.basename(name): os.path.basename(image.file_name) for name, image in partners.items()}
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
        data[ID_COLUMN] = [ids[os.path.basename(path)] for path in data["label"]]
        features[ID_COLUMN] = datasets.Value("string")
    prefix = len(os.path.join(root, ""))
    data[NAME_COLUMN] = [path[prefix:].replace(os.sep, "/") for path in data[IMAGE_COLUMN]]
    features[NAME_COLUMN] = datasets.Value("string")
    table = datasets.Dataset.from_dict(data, features=datasets.Features(features))
    own_classes = classes.to_dict() if layout.classes is None else None
    return FileIndex(table, number, own_classes, [_stamp(files.locate(root, name)) for name in json_files])


def _is_image(path: str) -> bool:
    return path.lower().endswith((".png", ".jpg", ".jpeg"))


def _listed(
    info: DatasetInfo, root: Path, layout: Layout, images: dict[str, str], files: _FileLists
) -> list[str] | None:
    """The names in the first list file that is there; None where there is none and all labelled images count."""
    for name in layout.lists:
        if files.exists(root / name):
            lines = read_text(root / name).splitlines()
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
