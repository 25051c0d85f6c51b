"""Images by the names that annotations give them, which are often those of another machine or of a server."""

import os
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ...splits import split_aliases
from .split_names import WHOLE, split_in, split_of

CONTAINERS = ("images", "image", "imgs", "img", "jpegimages", "photos", "data", "dataset", "datasets")
"""Folders whose names say nothing of which images they hold."""


class NamedImages:
    """
    The images of a folder.

    Args:
        path: of the folder, absolute.
        files: the images in and below it.
    """

    def __init__(self, path: Path, files: Sequence[Path]):
        self.path, self.files = path, files

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        by_name: dict[str, list[Path]] = {}
        for path in self.files:
            by_name.setdefault(path.name, []).append(path)
        return by_name

    @cached_property
    def _folders(self) -> set[str]:
        return {part.lower() for path in self.files for part in path.relative_to(self.path).parts[:-1]}

    def find(self, name: str, near: Sequence[Path] = (), split: str = WHOLE) -> Path | None:
        """
        The image that an annotation names: the file of that path, or else the one of that name, unless its folders say
        that it is another image.

        Args:
            name: as it is written there: a path with any slashes, an address, or a name.
            near: folders in which to look first.
            split: of the annotation.

        Returns:
            the path, always one below this folder, whatever the annotation says; None where there is none, or several
            that fit alike.
        """
        text = unquote(str(name)).replace("\\", "/")
        is_address = "://" in text or text.startswith("/data/upload/")  # Label Studio's server
        text = text.rpartition("?d=")[2].split("?")[0] if "?d=" in text or "://" in text else text
        wanted = PurePosixPath(text)
        for folder in (*near, self.path):
            path = Path(os.path.normpath(folder / wanted.as_posix().lstrip("/")))
            # the file may be a link that leads elsewhere, which is the user's own doing
            if path.is_relative_to(self.path) and os.path.isfile(path):
                return path
        found = self._by_name.get(wanted.name) or self._by_name.get(re.sub(r"^[0-9a-f]{8}-", "", wanted.name), [])
        folders = _telling(wanted.parts[:-1])
        if is_address:
            folders = [part for part in folders if part in self._folders]
        found = [path for path in found if self._may_be(path, folders, split)]
        for length in range(1, len(wanted.parts)):
            end = wanted.parts[-length - 1 :]
            closer = [path for path in found if path.parts[-len(end) :] == end]
            found = closer or found
        beside = [path for path in found if any(path.is_relative_to(folder) for folder in near)]
        found = beside if len(found) > 1 and beside else found
        return found[0] if len(found) == 1 else None

    def _may_be(self, path: Path, folders: Sequence[str], split: str) -> bool:
        """Whether the folders and the split of an image of the right name do not contradict the annotation."""
        parts = path.relative_to(self.path).parts[:-1]
        own = _telling(parts)
        common = min(len(own), len(folders))
        if own[len(own) - common :] != folders[len(folders) - common :]:
            return False
        names = split_aliases(split)
        if split == WHOLE or split_of(path.parent, self.path) in (WHOLE, *names):
            return True
        # train/ may hold the images of all splits, but not where val/ is beside it
        position = max(position for position, part in enumerate(parts) if split_in(part))
        return not self._has_folder(self.path.joinpath(*parts[:position]), names)

    def _has_folder(self, place: Path, splits: tuple[str, ...]) -> bool:
        if place not in self._splits_in:
            self._splits_in[place] = {split_in(entry.name) for entry in os.scandir(place) if entry.is_dir()}
        return any(split in self._splits_in[place] for split in splits)

    @cached_property
    def _splits_in(self) -> dict[Path, set[str | None]]:
        return {}


def _telling(parts: Sequence[str]) -> list[str]:
    """The names of folders in lower case that say which images they hold, without those that say nothing."""
    names = [part.lower() for part in parts if part not in ("/", "//", ".", "..") and not part.endswith(":")]
    return [name for name in names if name not in CONTAINERS]
