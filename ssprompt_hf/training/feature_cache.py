"""Cached features of images, in memory, in files or both, up to a limit."""

import contextlib
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from ..errors import SSPromptError
from ..models.interface import CachedFeatures
from ..utils.digests import tensor_bytes
from ..utils.files import atomic_path

logger = logging.get_logger(__name__)

STORAGES = ("auto", "memory", "device", "disk", "none")
FREE_BYTES = 8 * 2**30
"""What "auto" leaves free on the disk, at least."""
FEATURE_FILE = re.compile(r"[0-9a-f]{64}\.safetensors|\.[0-9a-f]{64}-\w+\.safetensors", re.ASCII)
"""Names of the cache's files: features, and the temporary names that `atomic_path` gives them. Other files in the
directory are somebody else's."""


def features_bytes(features: CachedFeatures) -> int:
    """Memory that the features of an image take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in features.values())


class FeatureCache:
    """
    Features of images by key, in memory or in files, up to a limit.

    When the limit is reached nothing is thrown out for something new: training goes through its images in rounds, so
    that whatever replaced the oldest features would itself be gone when its turn came. What does not fit is computed
    again each time.

    Args:
        storage: `"memory"` (of the host), `"device"` (where the model is), `"disk"`, `"auto"` (memory up to the limit,
            then files as long as 8 GiB of the disk stay free) or `"none"`.
        directory: of the files, for `"disk"` and `"auto"`. Several processes, and several runs, may share it. Other
            files there are neither counted nor touched.
        max_bytes: limit of all of them together; with `"auto"`, of those in memory. In a directory, files that this
            run has not used make room, the oldest first.

    Raises:
        SSPromptError: an unknown storage, a limit that is not positive, or no directory where one is needed.
    """

    def __init__(
        self, storage: str = "memory", directory: str | os.PathLike | None = None, max_bytes: int = 4 * 2**30
    ):
        if storage not in STORAGES:
            raise SSPromptError(f"feature_cache is {storage!r}; it must be one of {', '.join(STORAGES)}")
        if storage in ("auto", "disk") and directory is None:
            raise SSPromptError(f"feature_cache {storage!r} needs feature_cache_dir")
        if max_bytes <= 0:
            raise SSPromptError(f"the limit of the feature cache is {max_bytes} bytes; it must be positive")
        self.storage, self.max_bytes = storage, max_bytes
        self.directory = None if directory is None else Path(directory)
        self.hits = self.misses = 0
        self._memory: dict[str, CachedFeatures] = {}
        self.memory_bytes = 0
        self._used: set[str] = set()
        self._written: set[str] = set()
        self._made_directory = self.directory is not None and not self.directory.exists()
        self._started = time.time_ns()
        self._told_full = self._told_unwritable = False

    def get_or_compute(
        self, key: str, compute: Callable[[], CachedFeatures], store: bool = True, spill: bool = True
    ) -> CachedFeatures:
        """
        What is kept under `key`, else what `compute` returns.

        Args:
            key: a hexadecimal SHA-256 digest: by it the cache knows its own files.
            compute: the features.
            store: whether to keep what was computed, if there is room.
            spill: whether `"auto"` may write files when memory is full.
        """
        features = self._read(key)
        if features is not None:
            self.hits += 1
            return features
        self.misses += 1
        features = compute()
        if store and self.storage != "none":
            self._write(key, features, spill)
        return features

    def _read(self, key: str) -> CachedFeatures | None:
        if key in self._memory or self.storage not in ("auto", "disk"):
            return self._memory.get(key)
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
                expected = (file.metadata() or {}).get("crc32")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            logger.warning(f"{path} is damaged ({error}); the features are computed again")
            path.unlink(missing_ok=True)
            return None
        if expected != _checksum(features):
            logger.warning(f"{path} is damaged (wrong checksum); the features are computed again")
            path.unlink(missing_ok=True)
            return None
        self._used.add(path.name)
        return features

    def _write(self, key: str, features: CachedFeatures, spill: bool):
        size = features_bytes(features)
        fits = self.memory_bytes + size <= self.max_bytes
        if self.storage == "disk" or (self.storage == "auto" and not fits and spill):
            self._write_file(key, features, size)
        elif not fits:
            self._tell_full()
        else:
            self._memory[key] = features if self.storage == "device" else {k: v.cpu() for k, v in features.items()}
            self.memory_bytes += size

    def _write_file(self, key: str, features: CachedFeatures, size: int):
        try:
            if not self._make_room(size):
                self._tell_full()
                return
            features = {name: tensor.cpu().contiguous() for name, tensor in features.items()}
            path = self._path(key)
            # not durable: a file that was cut off is known by its checksum, and computed again
            with atomic_path(path, durable=False, needed=size) as temporary:
                save_file(features, temporary, metadata={"crc32": _checksum(features)})
        except (OSError, SafetensorError) as error:
            self._tell_unwritable(error)
            return
        self._used.add(path.name)
        self._written.add(path.name)

    def _make_room(self, size: int) -> bool:
        """Whether `size` bytes fit into the directory, after files that this run has not used have been deleted."""
        files = []
        for path in self._feature_files():
            try:
                status = path.stat()
            except FileNotFoundError:  # another process cleared it away
                continue
            files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(file_size for _, file_size, _ in files)
        limit = self.max_bytes
        if self.storage == "auto":
            self.directory.mkdir(parents=True, exist_ok=True)
            limit = total + max(0, shutil.disk_usage(self.directory).free - FREE_BYTES)
        # younger files are those of another process of this run
        unused = sorted(file for file in files if file[2].name not in self._used and file[0] < self._started)
        if total - sum(file_size for _, file_size, _ in unused) + size > limit:
            return False
        for _, file_size, path in unused:
            if total + size <= limit:
                break
            path.unlink(missing_ok=True)
            total -= file_size
        return True

    def remove(self, whole_directory: bool = False) -> None:
        """
        Delete the files that this cache has written; then the directory, if that leaves it empty and it was not there
        before. Every process calls it, when none reads any more. A file that cannot be deleted stays.

        Args:
            whole_directory: nobody else uses the directory. Files that an interrupted run left go too, and so does
                the directory, even if it was there; files of other names stay.
        """
        if self.storage not in ("auto", "disk"):
            return
        written = [self.directory / name for name in self._written]
        for path in self._feature_files() if whole_directory else written:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if self.storage == "auto":
            self.storage = "memory"  # what comes now would not be removed
        if whole_directory or self._made_directory:
            with contextlib.suppress(OSError):  # not empty, or another process was faster
                self.directory.rmdir()

    def _feature_files(self) -> Iterator[Path]:
        for path in self.directory.glob("*.safetensors") if self.directory.is_dir() else ():
            if FEATURE_FILE.fullmatch(path.name):
                yield path

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"

    def _tell_unwritable(self, error: Exception):
        """A cache saves time, and is no reason to end a training."""
        if not self._told_unwritable:
            self._told_unwritable = True
            logger.warning(f"the feature cache cannot be written ({error}): what is not in it is computed again")

    def _tell_full(self):
        if not self._told_full:
            self._told_full = True
            where = " and the disk" * (self.storage == "auto")
            logger.warning(
                f"the feature cache is full ({self.max_bytes / 2**30:.1f} GiB{where}): the frozen part runs again for "
                "the images that did not fit. Raise feature_cache_gb, or name another disk by feature_cache_dir"
            )


def _checksum(features: CachedFeatures) -> str:
    value = 0
    for name in sorted(features):
        value = zlib.crc32(tensor_bytes(features[name]), zlib.crc32(name.encode(), value))
    return f"{value:08x}"
