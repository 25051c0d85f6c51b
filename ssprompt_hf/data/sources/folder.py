"""Image-and-label folders: pairing of files by name, without opening any."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from transformers.utils import logging

from ...errors import LabelFormatError, MissingLabelError, NoImagesError
from ...utils.files import read_text, regular_files
from ..splits import SPLIT_ALIASES, SPLIT_FLAGS, split_aliases
from .flat_folder import flat_files

if TYPE_CHECKING:
    import datasets

logger = logging.get_logger(__name__)

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
LABEL_FOLDERS = ("annotations", "labels", "masks", "annotation", "label", "mask", "segmentationclass")
INSTANCE_FOLDERS = ("instances", "instance")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
JPEG_SUFFIXES = (".jpg", ".jpeg")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
LABEL_ENDINGS = ("", "_label", "_labels", "_mask", "_gt", "_seg", "_L", "_instance")
"""What a label's name may add to its image's: `a.jpg` belongs with `a.png`, `a_mask.png`, ..."""


def load_segmentation_folder(data_dir: str | os.PathLike, split: str | None = "train") -> "datasets.Dataset":
    """Pairs the images of a folder with their labels. Names are compared, no file is opened.

    Layouts, tried in this order (folder names in any case, `images` and `annotations` with the usual other names):
    `images/<split>/` with `annotations/<split>/`; `<split>/images/` with `<split>/annotations/`; `images/` with
    `annotations/` without splits, where `<split>.txt` may list the images of a split; and images with their labels
    beside them (`flat_files`), in `<split>/` or in the folder itself. But for the last, folders below are searched,
    too.
    `instances/` beside the labels is optional and holds 8- or 16-bit PNGs of instance ids, 0 where there is none.

    A list has one image a line, with or without suffix: its path below `images/` with forward slashes, such as
    `seqA/0001.png` (`images/seqA/0001.png` and longer paths mean the same), or the end of that path, such as
    `0001.png`, where no other image's ends so. Where there is no `train.txt`, `train` is all images that no list of
    another split names (`val.txt`, `test.txt` and their other spellings), and without any list all images.

    Args:
        data_dir: folder.
        split: `train`, `val`, ... (`training`, `validation` and so on mean the same), or None for all images.

    Returns:
        `datasets.Dataset` with the columns `image`, `label`, `instance` (if there) of type `datasets.Image`, decoded
        when read, and `file_name`, the image's path relative to `data_dir`; sorted by `file_name`.

    Raises:
        NoImagesError: no such folder or split, or no image in it; or a list names an image that is not there, or with
            a name that several have.
        MissingLabelError: no label folder, or images without label or instance map.
        LabelFormatError: labels are JPEGs, which do not keep ids.
    """
    data_dir = Path(data_dir)
    flat = _flat_part(data_dir, split)
    if flat is not None:
        return _table(data_dir, _flat_columns(flat))
    images, labels, instances, lists = _find_layout(data_dir, split)
    image_files = _images(images, lists, split)
    columns = {"image": image_files, "label": _partners(image_files, images, labels, "label")}
    if instances is not None:
        columns["instance"] = _partners(image_files, images, instances, "instance map")
    return _table(data_dir, columns)


def split_images(data_dir: Path, split: str) -> list[Path]:
    """The image files of one of the `folder_splits` of a folder with folders of images and of labels.

    Raises:
        NoImagesError, MissingLabelError: as `load_segmentation_folder`.
    """
    images, _, _, lists = _find_layout(data_dir, split)
    return _images(images, lists, split)


def _images(images: Path, lists: list[Path], split: str | None) -> list[Path]:
    image_files = list_files(images, IMAGE_SUFFIXES)
    if not image_files:
        raise NoImagesError(
            f"{images}: no images. Looked for files ending in {', '.join(IMAGE_SUFFIXES)}, in folders below too; "
            f"found {_found(images)}."
        )
    return _split_files(image_files, images, lists, split or "train") if lists else image_files


def _table(data_dir: Path, columns: dict[str, list[Path]]) -> "datasets.Dataset":
    import datasets

    data: dict[str, list[str]] = {key: [str(path.absolute()) for path in paths] for key, paths in columns.items()}
    data["file_name"] = [path.relative_to(data_dir).as_posix() for path in columns["image"]]
    features: dict = {key: datasets.Image() for key in columns}
    return datasets.Dataset.from_dict(
        data, features=datasets.Features(features | {"file_name": datasets.Value("string")})
    )


def has_label_images(data_dir: Path) -> bool:
    """Whether a folder looks as one of images with label images, whose class list may be anywhere."""
    if _flat_part(data_dir, None) is not None:
        return True
    places = [data_dir, *(folder for folder in _subfolders(data_dir) if _subfolder(folder, IMAGE_FOLDERS))]
    labels = [_subfolder(place, LABEL_FOLDERS) for place in places if _subfolder(place, IMAGE_FOLDERS)]
    return any(folder is not None and bool(list_files(folder, LABEL_SUFFIXES)) for folder in labels)


def folder_splits(data_dir: Path) -> list[str]:
    """The splits of a folder of images with label images; empty where it is not divided."""
    known = {name for group in SPLIT_ALIASES for name in group}
    images = _subfolder(data_dir, IMAGE_FOLDERS)
    if images is not None:
        found = [folder.name for folder in _subfolders(images) if folder.name.lower() in known]
        if found:
            return found
        lists = [name for group in SPLIT_ALIASES for name in group if (data_dir / f"{name}.txt").is_file()]
        return lists if not lists or {"train", "training"} & set(lists) else ["train", *lists]
    parts = [folder for folder in _subfolders(data_dir) if folder.name.lower() in known]
    return [folder.name for folder in parts if _subfolder(folder, IMAGE_FOLDERS) or _is_flat(folder)]


def _is_flat(folder: Path) -> bool:
    return bool(flat_files(_files_in(folder))[1])


def _files_in(folder: Path) -> list[Path]:
    """The images and label images in a folder, not below it."""
    suffixes = {*IMAGE_SUFFIXES, *LABEL_SUFFIXES}
    files = (p for p in folder.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
    return [path for path in files if path.is_file()]


def _flat_part(data_dir: Path, split: str | None) -> Path | None:
    """The folder of a split in which images and labels lie side by side; None for any other layout."""
    if not data_dir.is_dir() or _subfolder(data_dir, IMAGE_FOLDERS) is not None:
        return None
    part = _subfolder(data_dir, split_aliases(split or "train"))
    if part is not None:
        return part if _subfolder(part, IMAGE_FOLDERS) is None and _is_flat(part) else None
    whole = split is None or split in SPLIT_ALIASES[0]
    return data_dir if whole and not folder_splits(data_dir) and _is_flat(data_dir) else None


def _flat_columns(folder: Path) -> dict[str, list[Path]]:
    images, labels, instances = flat_files(_files_in(folder))
    columns = {"image": images}
    for column, found, what in (("label", labels, "label"), ("instance", instances, "instance map")):
        if column == "instance" and not found:
            continue
        missing = [image.name for image in images if image not in found]
        if missing:
            raise MissingLabelError(
                f"{len(missing)} of {len(images)} images in {folder} have no {what} beside them: {some(missing)}. "
                f"Looked for names such as {Path(missing[0]).stem}_mask.png. Add the files or remove the images."
            )
        columns[column] = [found[image] for image in images]
    return columns


def _find_layout(data_dir: Path, split: str | None) -> tuple[Path, Path, Path | None, list[Path]]:
    """Folders of the images, labels and instance maps, and the lists that decide about `split`, see `_split_files`."""
    if not data_dir.is_dir():
        raise NoImagesError(f"{data_dir}: no such folder.")
    images = _subfolder(data_dir, IMAGE_FOLDERS)
    if images is None:
        parts = {folder.name.lower(): folder for folder in _subfolders(data_dir) if _subfolder(folder, IMAGE_FOLDERS)}
        part = next((parts[name] for name in split_aliases(split or "train") if name in parts), None)
        if split is None and len(parts) > 1:
            raise NoImagesError(f"{data_dir}: holds the splits {', '.join(sorted(parts))}; name the one to read.")
        if part is None:
            raise NoImagesError(
                f"{data_dir}: no images for split {split!r}. Looked for images/{split}/ and {split}/images/; "
                f"found {_found(data_dir)}. {SPLIT_FLAGS}"
            )
        images, data_dir = _subfolder(part, IMAGE_FOLDERS), part
        return images, _label_folder(data_dir), _subfolder(data_dir, INSTANCE_FOLDERS), []

    labels, instances = _label_folder(data_dir), _subfolder(data_dir, INSTANCE_FOLDERS)
    known = {name for group in SPLIT_ALIASES for name in group}
    splits = [folder.name for folder in _subfolders(images) if folder.name.lower() in known or folder.name == split]
    if split is None:
        return images, labels, instances, []
    if splits:
        part = _subfolder(images, split_aliases(split))
        if part is None:
            raise NoImagesError(f"{images}: no split {split!r}; there are {', '.join(sorted(splits))}. {SPLIT_FLAGS}")
        part_labels = _subfolder(labels, split_aliases(split))
        if part_labels is None:
            raise MissingLabelError(
                f"{labels}: no folder {split!r} with the labels of {part}; found {_found(labels)}."
            )
        return part, part_labels, instances and _subfolder(instances, split_aliases(split)), []

    own = [data_dir / f"{name}.txt" for name in split_aliases(split) if (data_dir / f"{name}.txt").is_file()]
    if not own and split not in SPLIT_ALIASES[0]:
        raise NoImagesError(
            f"{data_dir}: no split {split!r}; the images lie in {images} without splits, read as 'train'. Move "
            f"the images and labels of {split!r} to {images.name}/{split}/ and {labels.name}/{split}/, or list their "
            f"names in {split}.txt and the others in train.txt."
        )
    others = [data_dir / f"{name}.txt" for group in SPLIT_ALIASES[1:] for name in group]
    return images, labels, instances, own[:1] or [file for file in others if file.is_file()]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The subfolder with the first of `names`, in any case."""
    present = {path.name.lower(): path for path in _subfolders(folder)}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def _label_folder(data_dir: Path) -> Path:
    labels = _subfolder(data_dir, LABEL_FOLDERS)
    if labels is None:
        raise MissingLabelError(
            f"{data_dir}: no folder of labels. Looked for {', '.join(LABEL_FOLDERS)}; found {_found(data_dir)}."
        )
    return labels


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files below `folder` with one of `suffixes`, sorted by relative path; hidden ones are left out, and what is no
    regular file is told and left out."""
    found, others = regular_files(folder, suffixes)
    if others:
        logger.warning(f"{folder}: left out {some(sorted(map(str, others)))}, which is no regular file")
    return sorted(found)


def _found(folder: Path, limit: int = 6) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "nothing"


def _split_files(files: list[Path], images: Path, lists: list[Path], split: str) -> list[Path]:
    """The `files` in `split`'s own list; where `lists` are those of other splits, the files in none of them."""
    listed = set().union(*(_listed_files(files, images, source) for source in lists))
    if lists[0].stem in split_aliases(split):
        chosen, reason = [path for path in files if path in listed], "names no image"
    else:
        chosen, reason = [path for path in files if path not in listed], f"leaves no image for {split!r}"
    if not chosen:
        raise NoImagesError(
            f"{', '.join(map(str, lists))}: {reason}. List the images of {split!r} in {lists[0].with_name(split)}.txt."
        )
    return chosen


def _listed_files(files: list[Path], images: Path, source: Path) -> set[Path]:
    """The files that the lines of `source` name; how, `load_segmentation_folder` says."""
    lines = (line.strip() for line in read_text(source).split("\n"))
    entries = [PurePosixPath(line) for line in dict.fromkeys(lines) if line]
    file_of = {PurePosixPath(path.relative_to(images).as_posix()): path for path in files}
    # of `a.jpg` and `a.png` an `a` could mean either, hence lists
    by_path: dict[PurePosixPath, list[PurePosixPath]] = {}
    by_name: dict[str, list[PurePosixPath]] = {}
    for path in file_of:
        by_path.setdefault(path.with_suffix(""), []).append(path)
        for name in {path.name, path.stem}:
            by_name.setdefault(name, []).append(path)
    chosen, missing = set(), []
    for entry in entries:
        readings = _readings(entry, images.name)
        whole = ([path] if path in file_of else by_path.get(path) for path in readings)
        # an image directly in the folder has no longer path: it is meant by its name, whoever else has that name
        found = next(filter(None, whole), None) or _ending_in(by_name.get(entry.name, []), readings[-1])
        if len(found) > 1:
            raise NoImagesError(
                f"{source}: {str(entry)!r} could be {some([str(path) for path in found])}. Write the path below "
                f"{images.name}/, with its suffix."
            )
        chosen.update(file_of[path] for path in found)
        missing += [] if found else [str(entry)]
    if missing:
        raise NoImagesError(
            f"{source}: lists {some(missing)}, which the image folder does not hold. Write paths below {images.name}/."
        )
    return chosen


def _readings(path: PurePosixPath, folder: str) -> list[PurePosixPath]:
    """The path, and what comes after each of its parts that is named `folder`, in any case."""
    positions = (i for i, part in enumerate(path.parts[:-1]) if part.lower() == folder.lower())
    return [path, *(PurePosixPath(*path.parts[position + 1 :]) for position in positions)]


def _ending_in(paths: list[PurePosixPath], end: PurePosixPath) -> list[PurePosixPath]:
    """Those of `paths` whose last folders are the folders of `end`."""
    folders = end.parts[:-1]
    return [path for path in paths if path.parts[:-1][len(path.parts) - 1 - len(folders) :] == folders]


def _partners(image_files: list[Path], images: Path, folder: Path, what: str) -> list[Path]:
    """For each image the file of `folder` at the same relative path with its stem plus one of `LABEL_ENDINGS`."""
    present = {path.relative_to(folder).with_suffix(""): path for path in list_files(folder, LABEL_SUFFIXES)}
    partners, missing = [], []
    for image in image_files:
        key = image.relative_to(images).with_suffix("")
        keys = (key.with_name(key.name + ending) for ending in LABEL_ENDINGS)
        partner = next((present[key] for key in keys if key in present), None)
        if partner is None:
            missing.append(key.as_posix())
        partners.append(partner)
    if missing:
        jpegs = {path.relative_to(folder).with_suffix("").as_posix() for path in list_files(folder, JPEG_SUFFIXES)}
        lossy = [name for name in missing if any(f"{name}{ending}" in jpegs for ending in LABEL_ENDINGS)]
        if lossy:
            raise LabelFormatError(
                f"{folder}: {some(lossy)} has a JPEG as {what}, and JPEG changes the ids. Save labels as PNG."
            )
        raise MissingLabelError(
            f"{len(missing)} of {len(image_files)} images in {images} have no {what} in {folder}: {some(missing)}. "
            f"Looked for the same name ending in {', '.join(LABEL_SUFFIXES)}. Add the files or remove the images."
        )
    return partners


def some(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
