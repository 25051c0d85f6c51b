"""Splits that the names of files and folders speak of."""

import re
from pathlib import Path

from ...splits import SPLIT_ALIASES

WHOLE = "all"
"""The name of the only part of a folder that is not divided into splits."""

_KNOWN = {name for group in SPLIT_ALIASES for name in group}


def split_in(name: str) -> str | None:
    """The last word of a name that is one of a split: `val` for `instances_val2017`."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((word for word in reversed(words) if word in _KNOWN), None)


def split_of(path: Path, root: Path) -> str:
    """The split that the name of a file, or else that of a folder it lies in, speaks of; else `WHOLE`.

    This is for files about whole data sets. The names of images, and of files about one image, speak of other things:
    `train_station.jpg`. For these it is asked of the folder they lie in.
    """
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts
    names = [*parts[:-1], Path(parts[-1]).stem] if parts else []
    return next((found for found in map(split_in, reversed(names)) if found), WHOLE)
