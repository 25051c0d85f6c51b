"""Files that appear whole or not at all."""

import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def give_usual_mode(path: Path) -> None:
    """The mode that `open` gives a new file; those who write temporary files, and safetensors, give 0600."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def regular_files(folder: str | os.PathLike, suffixes: Sequence[str] = ()) -> tuple[list[Path], list[Path]]:
    """
    The files in and below a folder, in any order. Links are followed, but not back to a folder above; what is hidden
    is left out.

    Args:
        suffixes: endings in lower case; all files where there is none.

    Returns:
        the files with one of these endings; and what has such a name but is no regular file, such as a pipe, which
        whoever opened it would wait for for ever.

    Raises:
        OSError: `folder` itself cannot be read; a folder below that cannot is left out.
    """
    found: list[Path] = []
    others: list[Path] = []
    endings = tuple(suffixes)
    root = os.path.abspath(folder)
    os.scandir(root).close()  # raises for the folder itself
    waiting = [(root, frozenset([_identity(root)]))]
    while waiting:
        here, above = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except OSError:
            continue
        place = Path(folder, os.path.relpath(here, root))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                identity = _identity(entry.path)
                if identity is not None and identity not in above:
                    waiting.append((entry.path, above | {identity}))
            elif entry.name.lower().endswith(endings) if endings else True:
                # a link to nothing is a file that is gone, as whoever opens it finds at once
                is_gone = entry.is_symlink() and not os.path.exists(entry.path)
                (found if entry.is_file() or is_gone else others).append(place / entry.name)
    return found, others


def _identity(folder: str) -> tuple[int, int] | None:
    """What a folder is, by whatever name; None where it is gone."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on a clean exit it is renamed to `path`, on an error it is deleted.

    The folder of `path` is made when missing. The suffix of `path` is kept, as some writers choose the format by it.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a long name has no room for a prefix
    handle, name = tempfile.mkstemp(prefix=f".{path.stem[:20]}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        give_usual_mode(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _json_value(value: Any) -> Any:
    """Plain Python values; NaN and infinity, which JSON does not have, become null."""
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars and arrays
        return _json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: str | os.PathLike, data: Any) -> Path:
    """Writes `data` as indented UTF-8 JSON under a temporary name and renames it, so that no reader sees half a file.

    numpy and torch values are written as numbers and lists; NaN and infinity as null.

    Raises:
        TypeError: a value that JSON cannot hold; nothing is written then.
    """
    text = json.dumps(_json_value(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
