"""One person labels an image at a time: locks that run out."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from ..errors import SSPromptError
from ..utils.files import write_json

SECONDS = 180
"""After so long without a stroke an image is free for others."""


class LockedError(SSPromptError):
    """Somebody else labels the image."""


class Locks:
    """
    Files in a folder, so that several servers see them.

    Args:
        folder: in which `locks/` is made.
        seconds: how long a lock holds after it was taken or renewed.
        clock: seconds since 1970.
    """

    def __init__(self, folder: Path, seconds: float = SECONDS, clock: Callable[[], float] = time.time):
        self.folder, self.seconds, self.clock = folder / "locks", seconds, clock
        self.folder.mkdir(parents=True, exist_ok=True)
        self._guard = FileLock(self.folder / "guard.lock")

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"

    def holder(self, name: str) -> str | None:
        """Who labels an image; None if nobody does."""
        try:
            held = json.loads(self._file(name).read_text(encoding="utf-8"))
            return held["who"] if float(held["until"]) > self.clock() else None
        except (OSError, ValueError, KeyError, TypeError):  # none, or one that was damaged: as if there were none
            return None

    def take(self, name: str, who: str) -> None:
        """
        Take or renew the lock of an image.

        Raises:
            LockedError: somebody else has it.
        """
        with self._guard:
            other = self.holder(name)
            if other not in (None, who):
                raise LockedError(f"{name} is being labelled by somebody else: look at it, or choose another one")
            write_json(self._file(name), {"who": who, "until": self.clock() + self.seconds, "process": os.getpid()})

    def release(self, name: str, who: str) -> None:
        """Give a lock back, if one has it."""
        with self._guard:
            if self.holder(name) == who:
                self._file(name).unlink(missing_ok=True)
