"""The folder that is labelled: photographs, classes and labels in the form that `train` reads.

    images/        the photographs
    annotations/   a PNG of class ids for each that has a label, ignored where nothing was said
    instances/     a PNG of object numbers beside it
    classes.json   names, ids, colours, things
    train.txt      the photographs with a label, so that the others are no errors
    adapter/       the newest finished adapter
    .studio/       who labels what, and the runs of training

Every file appears whole or not at all, and nothing is ever read or written outside the folder.
"""

import dataclasses
import io
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.classes import IGNORE_INDEX, ClassInfo, Color, SegmentationClasses, default_palette
from ..data.image_inputs import open_image
from ..data.sources.folder import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    LABEL_FOLDERS,
    LABEL_SUFFIXES,
    folder_splits,
    has_label_images,
    list_files,
    split_images,
)
from ..data.sources.image_files import check_size, image_size
from ..data.sources.label_files import keep_things, read_instance_map, read_label
from ..data.sources.label_formats.catalog import read_labelled_folder
from ..data.splits import SPLIT_ALIASES
from ..errors import ClassListError, DatasetError, NoImagesError, SSPromptError, UnreadableFileError
from ..segmentation.files import save_ids
from ..utils.files import atomic_path, place
from ..utils.names import file_name
from .locks import Locks

IMAGES, LABELS, OBJECTS, CLASSES, LIST, ADAPTER, OWN = (
    "images",
    "annotations",
    "instances",
    "classes.json",
    "train.txt",
    "adapter",
    ".studio",
)
MAX_OBJECTS = 65535


@dataclass(frozen=True)
class Labels:
    """
    What is said of an image.

    Args:
        classes: uint8 `(H, W)`, class ids; `NONE` where there is none.
        objects: uint16 `(H, W)`, numbers of objects of things, 0 where there is none.
    """

    classes: np.ndarray
    objects: np.ndarray

    @classmethod
    def empty(cls, height: int, width: int) -> "Labels":
        """Labels of an image of which nothing has been said."""
        return cls(np.full((height, width), NONE, np.uint8), np.zeros((height, width), np.uint16))


NONE = IGNORE_INDEX
"""In `Labels.classes`, and in the label files, where there is no class. No class of a project has this id."""


class Project:
    """
    Args:
        folder: with photographs in it or in its `images/`; photographs in the folder itself get a second name in
            `images/` (a hard link, or a copy where there are none), and stay where they are.

    Raises:
        NoImagesError: no such folder.
        DatasetError: its labels are in a form that the studio does not write, or parts of it lie elsewhere.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(os.path.abspath(folder))
        if not self.folder.is_dir():
            raise NoImagesError(f"{folder}: no such folder. Make it, with photographs in it or empty")
        self._check_form()
        (self.folder / IMAGES).mkdir(exist_ok=True)
        self._take_in_photographs()
        self.locks = Locks(self.folder / OWN)
        self._counts: dict[str, tuple[tuple, dict[int, int]]] = {}
        self.refresh()

    def _check_form(self) -> None:
        folder = self.folder
        names = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
        for own in (IMAGES, LABELS, OBJECTS, OWN, ADAPTER):
            if own in names and not _is_inside(names[own], folder):
                raise DatasetError(f"{names[own]} leads out of {folder}: the studio writes inside its folder only")
        others = [name for name in (*IMAGE_FOLDERS, *LABEL_FOLDERS) if name in names and name not in (IMAGES, LABELS)]
        convert = f"convert it by `ssprompt-hf data {folder} --convert NEW` and open NEW"
        if others:
            raise DatasetError(f"{folder} has its images or labels in {others[0]}/: {convert}")
        if read_labelled_folder(folder, None) is not None or (IMAGES not in names and has_label_images(folder)):
            raise DatasetError(f"{folder} is labelled in another form than the studio writes: {convert}")
        known = {name for group in SPLIT_ALIASES for name in group}
        if IMAGES in names and any(part.name.lower() in known for part in names[IMAGES].iterdir() if part.is_dir()):
            raise DatasetError(f"{folder} has folders of splits in {IMAGES}/: put all photographs into one")
        if LABELS in names:
            images = {path.stem for path in (names[IMAGES].rglob("*") if IMAGES in names else folder.iterdir())}
            for label in list_files(names[LABELS], LABEL_SUFFIXES):
                if label.suffix != ".png" or label.stem not in images:
                    raise DatasetError(f"{label} is no PNG with the name of a photograph: {convert}")
        file = SegmentationClasses.file_in(folder)
        if file is not None and file.name != CLASSES:
            SegmentationClasses.from_file(file).save(folder / CLASSES)
        classes = SegmentationClasses.from_file(folder / CLASSES) if (folder / CLASSES).is_file() else None
        if classes is not None and (tuple(classes.ignore_ids) != (NONE,) or max(classes.ids) > NONE):
            raise DatasetError(f"{folder / CLASSES} has ids above {NONE}, or ignores others than {NONE}: {convert}")

    def _take_in_photographs(self) -> None:
        images = self.folder / IMAGES
        taken = {path.stem.casefold(): path for path in images.iterdir()}
        for path in sorted(self.folder.iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            if not _is_inside(path, self.folder):
                continue
            # labels are found by the name without its ending: of a.jpg and a.png one has to be called otherwise
            name = path.name
            if (other := taken.get(path.stem.casefold())) is not None and other.name != name:
                name = f"{path.stem}_{path.suffix[1:].lower()}{path.suffix}"
            if (images / name).exists():
                continue
            try:
                os.link(path, images / name)
            except OSError:  # another file system, or one without links
                with atomic_path(images / name) as temporary:
                    shutil.copyfile(path, temporary)
            taken[Path(name).stem.casefold()] = images / name

    def refresh(self) -> None:
        """Look for photographs that were added or removed, and for labels, by whomever."""
        root = self.folder / IMAGES
        files = [path for path in list_files(root, IMAGE_SUFFIXES) if _is_inside(path, self.folder)]
        self._files = {path.relative_to(root).as_posix(): path for path in files}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._write_list()

    # Photographs

    @property
    def images(self) -> list[str]:
        """Names of the photographs: their paths below `images/`."""
        return list(self._files)

    def path(self, name: str) -> Path:
        """
        The file of a photograph.

        Raises:
            NoImagesError: there is none of this name; so a name cannot lead out of the folder.
        """
        if name not in self._files:
            raise NoImagesError(f"there is no photograph {name!r} in {self.folder / IMAGES}")
        return self._files[name]

    def read_image(self, name: str) -> Image.Image:
        """Upright RGB; raises UnreadableFileError if it is damaged."""
        return open_image(str(self.path(name)))

    def size(self, name: str) -> tuple[int, int]:
        """(height, width) of a photograph, upright; raises as `read_image`."""
        if name not in self._sizes:
            self._sizes[name] = image_size({"path": str(self.path(name)), "bytes": None}, name)
        return self._sizes[name]

    def add_images(self, files: Iterable[str | os.PathLike]) -> list[str]:
        """
        Copy photographs into the folder, under their own names or, where these are taken, with a number.

        Returns:
            their names.

        Raises:
            UnreadableFileError: a file is no image; those before it have been added.
        """
        added = []
        for file in map(Path, files):
            if file.suffix.lower() not in IMAGE_SUFFIXES:
                raise UnreadableFileError(f"{file.name}: no image; give files ending in {', '.join(IMAGE_SUFFIXES)}")
            open_image(str(file))  # raises for what is none
            stem, suffix = file_name(file.stem).lstrip(".") or "image", file.suffix.lower()
            taken = {Path(name).with_suffix("").as_posix().casefold() for name in self._files}
            name = stem
            for number in range(2, len(taken) + 3):
                if name.casefold() not in taken:
                    break
                name = f"{stem}_{number}"
            with atomic_path(self.folder / IMAGES / f"{name}{suffix}") as temporary:
                shutil.copyfile(file, temporary)
            self.refresh()
            added.append(f"{name}{suffix}")
        return added

    # Classes

    @property
    def classes(self) -> list[ClassInfo]:
        """The classes as the class file has them, each with a colour; none before the first is named."""
        file = self.folder / CLASSES
        if not file.is_file():
            return []
        listed = SegmentationClasses.from_file(file)
        return [dataclasses.replace(info, color=color) for info, color in zip(listed.classes, listed.colors)]

    def class_of(self, number: int) -> ClassInfo:
        """The class with an id; raises ClassListError if there is none."""
        found = next((info for info in self.classes if info.id == number), None)
        if found is None:
            raise ClassListError(f"there is no class with the id {number}: name it first")
        return found

    def add_class(self, name: str, thing: bool = False, color: Color | None = None) -> ClassInfo:
        """
        Name a class, with the first free id.

        Raises:
            ClassListError: the name is empty or taken, or there are too many.
        """
        there = self.classes
        numbers = {info.id for info in there}
        number = next((one for one in range(NONE) if one not in numbers), NONE)
        if color is None:
            used = {info.color for info in there}
            color = next(one for one in default_palette(len(there) + 1 + len(used)) if one not in used)
        info = ClassInfo(name.strip(), number, thing, color)
        self._save_classes([*there, info])
        return info

    def change_class(self, number: int, **changes: Any) -> ClassInfo:
        """Give a class another `name`, `thing` or `color`; raises as `add_class`."""
        new = dataclasses.replace(self.class_of(number), **changes)
        self._save_classes([new if info.id == number else info for info in self.classes])
        return new

    def remove_class(self, number: int) -> None:
        """
        Raises:
            ClassListError: there are labels of it, which would lose their meaning.
        """
        name = self.class_of(number).name
        users = [image for image in self.images if self.pixels_of_classes(image).get(number)]
        if users:
            raise ClassListError(
                f"{name!r} is in the labels of {len(users)} images ({users[0]}): erase it there first"
            )
        self._save_classes([info for info in self.classes if info.id != number])

    def _save_classes(self, classes: list[ClassInfo]) -> None:
        if classes:
            SegmentationClasses(tuple(classes), (NONE,)).save(self.folder / CLASSES)
        else:
            (self.folder / CLASSES).unlink(missing_ok=True)

    @property
    def class_list(self) -> SegmentationClasses:
        """As data sets have it; raises ClassListError if there are none."""
        return SegmentationClasses(tuple(self.classes), (NONE,))

    # Labels

    def _label_file(self, name: str, kind: str) -> Path:
        self.path(name)
        return (self.folder / kind / name).with_suffix(".png")

    def read_labels(self, name: str) -> Labels:
        """
        Labels of a photograph as they are on disk, empty where there are none.

        Raises:
            DatasetError: the files are damaged, of another size than the photograph, or hold unknown ids.
        """
        size = self.size(name)
        file, objects_file = (self._label_file(name, kind) for kind in (LABELS, OBJECTS))
        labels = Labels.empty(*size)
        if not file.is_file():
            return labels
        classes = self.class_list
        indices = read_label(classes, {"path": str(file), "bytes": None}, str(file))
        check_size(indices.shape, size, str(file), name)
        ids = np.full(IGNORE_INDEX + 1, NONE, np.uint8)
        ids[: len(classes)] = classes.ids
        objects = labels.objects
        if objects_file.is_file():
            numbers = read_instance_map({"path": str(objects_file), "bytes": None}, str(objects_file))
            check_size(numbers.shape, size, str(objects_file), name)
            objects = keep_things(indices, numbers, classes).astype(np.uint16)
        return Labels(ids[indices], objects)

    def write_labels(self, name: str, labels: Labels) -> None:
        """Put the labels of a photograph on disk, and wait until they are there."""
        colors = {info.id: info.color for info in self.classes}
        # objects first: what a killed server leaves is then an object without its class, which is read as none
        numbers = dict(enumerate(default_palette(255), start=1))
        for kind, ids, palette in ((OBJECTS, labels.objects, numbers), (LABELS, labels.classes, colors)):
            with atomic_path(self._label_file(name, kind)) as temporary:
                save_ids(temporary, ids, palette)
        was_labelled = bool(self._counts.get(name, (None, {}))[1])
        if was_labelled != bool(self.pixels_of_classes(name)):
            self._write_list()

    def pixels_of_classes(self, name: str) -> dict[int, int]:
        """Class id -> pixels of a photograph, without those of no class. Read again when the label file changes."""
        file = self._label_file(name, LABELS)
        try:
            status = file.stat()
        except FileNotFoundError:
            self._counts.pop(name, None)
            return {}
        key = (status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._counts.get(name)
        if known is None or known[0] != key:
            classes = self.read_labels(name).classes
            found, counts = np.unique(classes[classes != NONE], return_counts=True)
            self._counts[name] = known = (key, dict(zip(found.tolist(), counts.tolist())))
        return known[1]

    def labelled_share(self, name: str) -> float:
        """How much of a photograph has a class, 0 to 1."""
        pixels = sum(self.pixels_of_classes(name).values())
        if not pixels:
            return 0.0
        height, width = self.size(name)
        return pixels / (height * width)

    @property
    def labelled(self) -> list[str]:
        """Photographs with a label."""
        return [name for name in self.images if self.pixels_of_classes(name)]

    def _write_list(self) -> None:
        """`train.txt`: the labelled photographs that no list of another split names."""
        elsewhere = {
            path.relative_to(self.folder / IMAGES).as_posix()
            for split in folder_splits(self.folder)
            if split not in SPLIT_ALIASES[0]
            for path in split_images(self.folder, split)
        }
        labelled = self.labelled
        for name in labelled:
            # of labels that were there before: with `instances/` every image needs its map
            if not (file := self._label_file(name, OBJECTS)).is_file():
                with atomic_path(file) as temporary:
                    save_ids(temporary, np.zeros(self.size(name), np.uint8), {})
        text = "".join(f"{name}\n" for name in labelled if name not in elsewhere)
        path = self.folder / LIST
        if not text:
            path.unlink(missing_ok=True)
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    # Adapters

    @property
    def runs(self) -> Path:
        """The folder of the runs of training."""
        return self.folder / OWN / "runs"

    def publish(self, adapter: Path) -> Path:
        """Let a copy of a finished adapter stand in `adapter/`."""
        target, temporary = self.folder / ADAPTER, self.folder / OWN / "adapter.new"
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(adapter, temporary)
        if target.exists():
            shutil.rmtree(target)
        place(temporary, target)
        return target


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, stays in a folder."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def thumbnail(image: Image.Image, side: int = 160) -> bytes:
    """A JPEG of an image with a longer side of at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def check_labelled(project: Project) -> None:
    """
    Raises:
        SSPromptError: nothing is labelled yet, or a class is in no label.
    """
    found = [project.pixels_of_classes(name) for name in project.labelled]
    if not found:
        raise SSPromptError("nothing is labelled yet: click on an object of a class first")
    missing = [info.name for info in project.classes if not any(info.id in pixels for pixels in found)]
    if missing:
        raise SSPromptError(f"no image has a label of {', '.join(missing)}: label some, or remove the class")
