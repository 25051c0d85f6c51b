"""Folders that are filled under a temporary name; what killed processes left of them is cleared away."""

import glob
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging

logger = logging.get_logger(__name__)


@contextmanager
def temporary_folder(target: Path, beside: Path | None = None) -> Iterator[Path]:
    """
    A new folder on the file system of `target`, to be filled and moved there; it disappears at the end if it was not.
    What killed processes have left of such folders disappears first.

    Args:
        target: where the files are to go; an absolute path. The folder that it lies in must be there.
        beside: where to make the temporary folder; by default beside `target`.
    """
    beside = target.parent if beside is None else beside
    remove_abandoned(target, beside)
    temporary = beside / f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.tmp"
    lock = FileLock(_lock_file(temporary))
    lock.acquire()
    try:
        temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _release(lock)


def remove_abandoned(target: Path, beside: Path) -> None:
    """Delete what killed processes have left of writing `target`: their locks are free, as those of the living are
    not."""
    stem = glob.escape(f".{target.name[:100]}.")
    left = (path for ending in ("tmp", "lock") for path in beside.glob(f"{stem}{'[0-9a-f]' * 12}.{ending}"))
    for temporary in {path.with_suffix(".tmp") for path in left}:
        lock = FileLock(_lock_file(temporary))
        with suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            logger.warning(f"{temporary} is what a process that was killed has left; it is removed")
            shutil.rmtree(temporary, ignore_errors=True)
            _release(lock)


def _lock_file(temporary: Path) -> Path:
    return temporary.with_suffix(".lock")


def _release(lock: FileLock) -> None:
    lock.release()
    with suppress(OSError):
        Path(lock.lock_file).unlink()
