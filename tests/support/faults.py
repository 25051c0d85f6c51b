"""Faults of the machine, as they come: a disk that is full, a process that is killed, a file with another bit."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


@contextlib.contextmanager
def full_disk(room: int = 4096) -> Iterator[None]:
    """No file can grow beyond `room` bytes: the operating system refuses, whatever library writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def killed_in(module, function: str, call: int, work: Callable[[], object]) -> bool:
    """
    Do `work` in a copy of this process, which is killed before it calls `module.function` for the `call`-th time.

    Returns:
        whether it came to that.
    """
    child = os.fork()
    if child == 0:
        original, counter = getattr(module, function), iter(range(1, 1000))

        def deadly(*args, **kwargs):
            if next(counter) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(module, function, deadly)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def flip_bit(path: Path, position: int) -> None:
    """Change bit `position` of a file."""
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def some_bits(count: int, first: int, last: int, seed: int = 0) -> list[int]:
    """Positions of bits in the bytes `first` to `last`, the same for the same seed."""
    return np.random.default_rng(seed).integers(8 * first, 8 * last, count).tolist()
