"""Class lists: names, ids in the label files, things and stuff, colours, ignored ids."""

import colorsys
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ClassListError, LabelFormatError, LabelIdError, UnreadableFileError
from ..utils.files import read_text, write_json
from .class_files import text_class_list

IGNORE_INDEX = 255
"""Value of ignored pixels in every label map this package hands out (uint8, contiguous class indices otherwise)."""

MAX_ID = 65535
"""Largest class id: label files are 8- or 16-bit images."""

CLASS_FILE_NAMES = (
    "classes.json",
    "classes.txt",
    "labels.txt",
    "id2label.json",
    "class_dict.csv",
    "labelmap.txt",
    "_classes.csv",
)

Color = tuple[int, int, int]


def hex_color(color: Color) -> str:
    """`#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def default_palette(num_classes: int) -> list[Color]:
    """`num_classes` distinct RGB colours (0 to 255), the same at every call; hues step by the golden angle."""
    palette = []
    for index in range(num_classes):
        hue = (index * 0.618033988749895 + 0.6) % 1.0
        value = (0.95, 0.7, 0.5)[index % 3]
        saturation = (0.75, 0.55, 0.9, 0.65)[index % 4]
        palette.append(tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, saturation, value)))
    return palette


@dataclass(frozen=True)
class ClassInfo:
    """One class.

    Args:
        name: what the text encoder reads.
        id: value of its pixels in the label files.
        thing: True for countable things, False for stuff.
        color: RGB, 0 to 255, or None for a colour from the default palette.
    """

    name: str
    id: int
    thing: bool = False
    color: Color | None = None


class IdTable:
    """Turns the ids of label files into class indices; several ids may mean the same class.

    Args:
        index_of_id: id in the label files -> class index, 0 to 254.
        ignore_ids: ids that mean "no class".
    """

    def __init__(self, index_of_id: Mapping[int, int], ignore_ids: Iterable[int]):
        self.index_of_id, self.ignore_ids = dict(index_of_id), tuple(ignore_ids)
        self._indices = np.full(MAX_ID + 2, IGNORE_INDEX, np.uint8)
        self._indices[list(self.index_of_id)] = list(self.index_of_id.values())
        self._known = np.zeros(MAX_ID + 2, bool)
        self._known[[*self.index_of_id, *self.ignore_ids]] = True

    def encode(self, label: np.ndarray, source: str = "label") -> np.ndarray:
        """Integer or bool (H, W) of ids -> uint8 (H, W) of class indices, 255 for ignored pixels.

        Raises:
            LabelIdError: an id that is neither that of a class nor ignored.
            LabelFormatError: not a map of integers.
        """
        if label.ndim != 2 or label.dtype.kind not in "bui":
            raise LabelFormatError(
                f"{source}: a label is a single-channel map of integer class ids; found shape {label.shape}, "
                f"type {label.dtype}."
            )
        ids = label
        if label.dtype != np.uint8:
            ids = label.astype(np.int64)
            ids[(ids < 0) | (ids > MAX_ID)] = MAX_ID + 1
        unknown = ~self._known[ids]
        if unknown.any():
            found, counts = np.unique(label[unknown], return_counts=True)
            raise LabelIdError(
                f"{source}: label id {_listed(found, counts)} outside the class list (ids {_ranges(self.index_of_id)}"
                f"; ignored: {_ranges(self.ignore_ids) or 'none'}). Add what is missing to the class file, as "
                'a class or under "ignore_id".'
            )
        return self._indices[ids]


@dataclass(frozen=True)
class SegmentationClasses:
    """The classes of a data set, in the order of the model's class scores: class *index* i is `classes[i]`.

    Label files hold class *ids*, which may be any integers from 0 to 65535; `encode` turns them into indices 0 to K-1,
    and ignored ones into `IGNORE_INDEX` (255).

    Args:
        classes: at least one, at most 255; names and ids differ.
        ignore_ids: ids in the label files that mean "no class".
        ignore_color: colour of ignored pixels in colour-coded label files.
        ignore_is_assumed: nobody wrote which ids are ignored, and 255 was taken for it. Label statistics then tell of
            classes that may have vanished in it; otherwise it changes nothing.
        by_color: the list is one of colours, so that these, not the numbers, tell the classes of palette images.

    Raises:
        ClassListError: names the class and what is wrong with it.
    """

    classes: tuple[ClassInfo, ...]
    ignore_ids: tuple[int, ...] = (IGNORE_INDEX,)
    ignore_color: Color | None = None
    ignore_is_assumed: bool = dataclasses.field(default=False, compare=False)
    by_color: bool = dataclasses.field(default=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "ignore_ids", tuple(self.ignore_ids))
        if not self.classes:
            raise ClassListError("The class list is empty; give at least one class.")
        if len(self.classes) > IGNORE_INDEX:
            raise ClassListError(f"{len(self.classes)} classes; at most {IGNORE_INDEX} fit into 8-bit label maps.")
        names: dict[str, int] = {}
        ids: dict[int, str] = {}
        for position, info in enumerate(self.classes):
            if not isinstance(info.name, str) or not info.name.strip():
                raise ClassListError(f"Class {position}: the name must be a non-empty text, not {info.name!r}.")
            if not _is_id(info.id):
                raise ClassListError(
                    f"Class {info.name!r}: the id must be an integer of 0 to {MAX_ID}, not {info.id!r}."
                )
            if not isinstance(info.thing, bool):
                raise ClassListError(f"Class {info.name!r}: `thing` must be true or false, not {info.thing!r}.")
            _check_color(info.color, f"Class {info.name!r}")
            if info.name in names:
                raise ClassListError(f"Two classes are named {info.name!r} (ids {names[info.name]} and {info.id}).")
            if info.id in ids:
                raise ClassListError(f"Id {info.id} is given to both {ids[info.id]!r} and {info.name!r}.")
            names[info.name], ids[info.id] = info.id, info.name
        for ignored in self.ignore_ids:
            if not _is_id(ignored):
                raise ClassListError(f"`ignore_id` must hold integers from 0 to {MAX_ID}, not {ignored!r}.")
            if ignored in ids:
                raise ClassListError(f"Id {ignored} is both ignored and the id of class {ids[ignored]!r}.")
        _check_color(self.ignore_color, "`ignore_color`")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> list[str]:
        """Class names by class index."""
        return [info.name for info in self.classes]

    @property
    def ids(self) -> list[int]:
        """Ids in the label files by class index."""
        return [info.id for info in self.classes]

    @property
    def none_id(self) -> int:
        """What to write into label files where there is no class: the first ignored id, or one that no class has."""
        free = (number for number in (IGNORE_INDEX, *range(MAX_ID)) if number not in self.ids)
        return self.ignore_ids[0] if self.ignore_ids else next(free)

    @property
    def thing_indices(self) -> list[int]:
        """Class indices (not label-file ids) of the countable classes."""
        return [index for index, info in enumerate(self.classes) if info.thing]

    @property
    def colors(self) -> list[Color]:
        """RGB by class index: the given colour, else one of the default palette."""
        return [info.color or color for info, color in zip(self.classes, default_palette(len(self)))]

    @classmethod
    def from_names(
        cls,
        names: Iterable[str],
        things: Sequence[int] = (),
        colors: Sequence[Color] | None = None,
        ignore_ids: Sequence[int] | None = None,
    ) -> "SegmentationClasses":
        """Classes whose id is their position. `things` holds positions, `colors` one RGB a class; 255 is ignored when
        `ignore_ids` is None."""
        names = list(names)
        if colors is not None and len(colors) != len(names):
            raise ClassListError(f"{len(names)} class names but {len(colors)} colours.")
        unknown = [thing for thing in things if thing not in range(len(names))]
        if unknown:
            raise ClassListError(f"Thing ids {unknown} are outside the {len(names)} classes.")
        colors = [None] * len(names) if colors is None else [tuple(color) for color in colors]
        infos = (ClassInfo(name, i, i in things, color) for i, (name, color) in enumerate(zip(names, colors)))
        if ignore_ids is None:
            return cls(tuple(infos), ignore_is_assumed=True)
        return cls(tuple(infos), tuple(ignore_ids))

    @classmethod
    def from_dict(cls, data: Any) -> "SegmentationClasses":
        """Reads the content of a class file.

        Accepts `{"classes": [...], "ignore_id": 11}` whose entries are names or
        `{"id": 0, "name": "sky", "thing": false, "color": [70, 130, 180]}` (all but the name optional; an id left out
        is the position), a bare list of the same, and `{"0": "sky", "1": "road"}`, the `id2label` of the Hub.
        `ignore_id` is a number, a list of numbers or null (nothing ignored); 255 when not given and no class has this
        id. Other keys are left alone.

        Raises:
            ClassListError: names the entry and what is wrong with it.
        """
        options: dict = {}
        if isinstance(data, dict) and "classes" in data:
            options, entries = data, data["classes"]
        elif isinstance(data, dict) and data and all(str(key).isdecimal() for key in data):
            entries = [{"id": int(key), "name": name} for key, name in data.items()]
        else:
            entries = data
        if not isinstance(entries, (list, tuple)):
            raise ClassListError(
                'A class list is a JSON list of names or of {"id": ..., "name": ...}, alone or under "classes"; '
                f"found {type(entries).__name__}."
            )
        infos = tuple(_class_info(entry, position) for position, entry in enumerate(entries))
        color = options.get("ignore_color")
        ignored = options.get("ignore_id", options.get("ignore_index", IGNORE_INDEX))
        assumed = "ignore_id" not in options and "ignore_index" not in options
        if assumed and ignored in [info.id for info in infos]:
            ignored = None
        if ignored is None:
            ignored = ()
        elif not isinstance(ignored, (list, tuple)):
            ignored = (ignored,)
        color = tuple(color) if isinstance(color, list) else color
        by_color = bool(options.get("by_color", False))
        assumed = assumed and bool(ignored) and color is None and not by_color
        return cls(infos, tuple(ignored), color, ignore_is_assumed=assumed, by_color=by_color)

    def to_dict(self) -> dict[str, Any]:
        """The content of a `classes.json` that `from_dict` reads back to an equal object."""
        entries = []
        for info in self.classes:
            entry = dataclasses.asdict(info)
            if info.color is None:
                del entry["color"]
            entries.append(entry)
        data: dict[str, Any] = {"classes": entries, "ignore_id": list(self.ignore_ids)}
        if self.ignore_color is not None:
            data["ignore_color"] = list(self.ignore_color)
        return data

    @classmethod
    def from_file(cls, path: str | os.PathLike) -> "SegmentationClasses":
        """Reads a `.json` class file (forms: `from_dict`) or a text file.

        A text file has one name a line, whose id is its position among the lines that are not empty; or, in every
        line, `id: name`; or it is a table of colours (`class_files.FORMS`). 255 is ignored unless it is the id of a
        class, as in 0/255 masks (`0: road`, `255: crack`).

        Raises:
            ClassListError: no such file, not UTF-8, not JSON, or no class list; the message starts with the path.
        """
        path = Path(path)
        if not path.is_file():
            raise ClassListError(f"{path}: no such class file. Give a JSON or text file of class names.")
        try:
            text = read_text(path)
        except OSError as error:
            raise ClassListError(f"{path}: cannot be read ({error}).") from error
        except UnreadableFileError as error:
            raise ClassListError(str(error)) from error
        try:
            if path.suffix.lower() == ".json":
                return cls.from_dict(json.loads(text))
            return cls.from_dict(text_class_list(text))
        except json.JSONDecodeError as error:
            raise ClassListError(f"{path}: not valid JSON ({error}).") from error
        except ClassListError as error:
            raise ClassListError(f"{path}: {error}") from error

    @staticmethod
    def file_in(folder: str | os.PathLike) -> Path | None:
        """The class file of a data folder: the first of `CLASS_FILE_NAMES` that is there, or None."""
        return next((Path(folder) / name for name in CLASS_FILE_NAMES if (Path(folder) / name).is_file()), None)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "SegmentationClasses":
        """Reads the class file of a data folder: the first of `CLASS_FILE_NAMES` that is there.

        Raises:
            ClassListError: none is there, or it is malformed.
        """
        file = cls.file_in(folder)
        if file is not None:
            return cls.from_file(file)
        raise ClassListError(
            f"{folder}: no class file; looked for {', '.join(CLASS_FILE_NAMES)}. Write one class name a line into "
            f"{Path(folder) / 'classes.txt'} (line 1 is id 0), or pass a class file."
        )

    def with_ids(self, ids: Iterable[int], ignore_ids: Iterable[int] = (IGNORE_INDEX,)) -> "SegmentationClasses":
        """The same classes under other ids, for label files that number them differently."""
        infos = (dataclasses.replace(info, id=class_id) for info, class_id in zip(self.classes, ids))
        return SegmentationClasses(tuple(infos), tuple(ignore_ids), self.ignore_color)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes a `classes.json` (whole or not at all)."""
        return write_json(path, self.to_dict())

    def encode(self, label: np.ndarray, source: str = "label") -> np.ndarray:
        """Class ids as they stand in a label file -> class indices.

        Args:
            label: integer or bool (H, W) of ids, or uint8 (H, W, 3) of declared colours.
            source: what to call the label in an error, usually its file name.

        Returns:
            uint8 (H, W): 0 to K-1, 255 for ignored pixels.

        Raises:
            LabelIdError: an id or colour that is neither in the class list nor ignored.
            LabelFormatError: neither of the two forms.
        """
        if label.ndim == 3 and label.shape[2] >= 3:
            label = self._ids_of_colors(label[..., :3], source)
        return self._id_table.encode(label, source)

    @cached_property
    def _id_table(self) -> "IdTable":
        return IdTable({class_id: index for index, class_id in enumerate(self.ids)}, self.ignore_ids)

    def _ids_of_colors(self, label: np.ndarray, source: str) -> np.ndarray:
        """uint8 (H, W, 3) of declared colours -> int64 (H, W) of ids."""
        declared = {info.color: info.id for info in self.classes if info.color is not None}
        grey = bool((label[..., :2] == label[..., 1:]).all())  # ids saved as grey, unless all are declared colours
        if len(declared) < len(self):
            if grey:
                return label[..., 0]
            raise LabelFormatError(
                f"{source}: a colour image, and not every class has a colour. Save labels as single-channel PNG of "
                'class ids, or give each class its "color" in classes.json.'
            )
        if self.ignore_color is not None and self.ignore_ids:
            declared.setdefault(self.ignore_color, self.ignore_ids[0])
        packed = label.astype(np.int64) @ np.array([65536, 256, 1])
        values, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
        ids = {(r << 16) + (g << 8) + b: class_id for (r, g, b), class_id in declared.items()}
        unknown = [
            (int(count), (int(value) >> 16, int(value) >> 8 & 255, int(value) & 255))
            for value, count in zip(values, counts)
            if int(value) not in ids
        ]
        if unknown and grey:
            return label[..., 0]
        if unknown:
            count, color = max(unknown)
            raise LabelIdError(
                f"{source}: colour {color} ({count} pixels; {len(unknown)} unknown colours in all) belongs to no "
                'class. Add it to the class file, or give it as "ignore_color".'
            )
        return np.array([ids[int(value)] for value in values], np.int64)[inverse].reshape(label.shape[:2])


ClassesLike = SegmentationClasses | str | os.PathLike
"""A class list, a class file, or a folder with a class file."""


def resolve_classes(classes: ClassesLike) -> SegmentationClasses:
    """A class list as it is, or read from a class file or from the class file of a folder.

    Raises:
        ClassListError: no such file, or a class list that is wrong.
    """
    if isinstance(classes, SegmentationClasses):
        return classes
    if Path(classes).is_dir():
        return SegmentationClasses.from_folder(classes)
    return SegmentationClasses.from_file(classes)


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 <= value <= MAX_ID


def _check_color(color: Any, owner: str) -> None:
    if color is None:
        return
    if not (isinstance(color, tuple) and len(color) == 3 and all(_is_id(c) and c <= 255 for c in color)):
        raise ClassListError(f"{owner}: a colour is three integers from 0 to 255, not {color!r}.")


def _class_info(entry: Any, position: int) -> ClassInfo:
    if isinstance(entry, str):
        return ClassInfo(entry.strip(), position)
    if not isinstance(entry, dict) or "name" not in entry:
        raise ClassListError(f'Class {position} must be a name or {{"id": ..., "name": ...}}, not {entry!r}.')
    name = entry["name"]
    thing = entry.get("thing", entry.get("isthing", False))
    if thing in (0, 1) and isinstance(thing, int):  # COCO writes 0 and 1
        thing = bool(thing)
    color = entry.get("color")
    if isinstance(color, list):
        color = tuple(color)
    return ClassInfo(name.strip() if isinstance(name, str) else name, entry.get("id", position), thing, color)


def _listed(values: np.ndarray, counts: np.ndarray, limit: int = 8) -> str:
    shown = ", ".join(f"{value} ({count} pixels)" for value, count in list(zip(values, counts))[:limit])
    more = f" and {len(values) - limit} more" if len(values) > limit else ""
    return f"{shown}{more} {'is' if len(values) == 1 else 'are'}"


def _ranges(ids: Iterable[int]) -> str:
    """`0-10, 15` for [0, 1, ..., 10, 15]."""
    parts: list[list[int]] = []
    for value in sorted(ids):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
