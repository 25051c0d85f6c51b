"""Street scenes by name, in the form of every other data set."""

import hashlib
from typing import Any

import numpy as np

from ...errors import DatasetError
from ..classes import SegmentationClasses
from ..dataset import SegmentationDataset
from ..splits import split_aliases
from .source import STREET_SPLITS, StreetScenes


class StreetSceneSource:
    """Rows of drawn street scenes; one is drawn anew at every read."""

    def __init__(self, scenes: StreetScenes):
        self.scenes = scenes
        # labels are the same in all conditions, and a clear day is drawn fastest
        self.clear_scenes = StreetScenes(
            scenes.split, "clear", scenes.size, scenes.num_images, scenes.seed, scenes.label_set
        )
        prefix = f"{scenes.split}/{scenes.condition}/{scenes.label_set}/seed-{scenes.seed}"
        self.file_names = [f"{prefix}/{row:06d}" for row in range(len(scenes))]

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
