"""Files that appear whole or not at all, and errors of the disk that say what was being written."""

import codecs
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import StorageError, UnreadableFileError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXT = re.compile(
    r"No space left|[Qq]uota exceeded|File too large|os error (?:28|122|27)\b"  # safetensors, which has no numbers
    r"|PytorchStreamWriter failed|file write failed|unexpected pos"  # torch, which does not tell the reason
)


def is_out_of_space(error: BaseException) -> bool:
    """Whether a library failed to write because the disk, or what the user may have of it, is full."""
    number = getattr(error, "errno", None)
    return number in FULL if number is not None else bool(_FULL_TEXT.search(str(error)))


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
    waiting = [(root, frozenset([folder_identity(root)]))]
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
                identity = folder_identity(entry.path)
                if identity is not None and identity not in above:
                    waiting.append((entry.path, above | {identity}))
            elif entry.name.lower().endswith(endings) if endings else True:
                # a link to nothing is a file that is gone, as whoever opens it finds at once
                is_gone = entry.is_symlink() and not os.path.exists(entry.path)
                (found if entry.is_file() or is_gone else others).append(place / entry.name)
    return found, others


def folder_identity(folder: str) -> tuple[int, int] | None:
    """What a folder is, by whatever name; None where it is gone."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def told_when_full(path: str | os.PathLike, needed: int | None = None) -> Iterator[None]:
    """
    Whatever a library says when the disk is full, as one error.

    Args:
        path: file or folder that is being written.
        needed: bytes that it takes, where that is known.

    Raises:
        StorageError: there is no room; it has an `errno`, as other `OSError`s have.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_space(error):
            raise
        number = getattr(error, "errno", None) or errno.ENOSPC
        there = next((folder for folder in Path(os.path.abspath(path)).parents if folder.is_dir()), Path("."))
        room = f"{shutil.disk_usage(there).free:,} bytes are free"
        need = "" if needed is None else f"{needed:,} bytes are needed, "
        raise StorageError(
            number,
            f"there is no room for it ({os.strerror(number)}; {need}{room}): free some, or write elsewhere",
            path,
        ) from error


def usual_mode(path: Path) -> int:
    """The permissions that `open` gives a new file, read off a file that was made with it."""
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def _new_file(folder: Path, stem: str = "", suffix: str = "") -> Iterator[Path]:
    """A file of a new name, made with the usual permissions; deleted at the end if it is still there."""
    if len(os.fsencode(stem)) > 100:  # names may be 255 bytes long, and the final one is shorter than this one
        stem = stem[:25]
    while True:
        path = folder / f".{stem}-{secrets.token_hex(4)}{suffix}"
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            break
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def give_usual_modes(folder: str | os.PathLike) -> None:
    """Give the files in a folder the permissions of new files: safetensors, and all who write temporary files, give
    0600. The umask cannot be asked for without changing it, for all threads; so a file is made to see."""
    folder = Path(folder)
    with _new_file(folder) as example:
        mode = usual_mode(example)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def sync(path: Path) -> None:
    """Wait until what was written to a file, or to the list of files of a folder, is on the disk."""
    if os.name != "posix" and path.is_dir():
        return  # folders cannot be opened elsewhere
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        with suppress(OSError):  # file systems that cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def place(temporary: Path, path: Path, durable: bool = True) -> None:
    """
    Rename a finished file, or a folder of finished files, over `path`.

    Args:
        temporary: on the same file system.
        path: what it becomes.
        durable: wait for the disk first, and afterwards. After a power cut a file that was renamed but not written
            may be empty under its final name.

    Raises:
        StorageError: a folder is where the file is to be.
    """
    if durable:
        for part in temporary.rglob("*") if temporary.is_dir() else ():
            sync(part)
        sync(temporary)
    if path.is_dir() and not temporary.is_dir():
        raise StorageError(errno.EISDIR, "there is a folder of that name where a file is to be: move it away", path)
    os.replace(temporary, path)
    if durable:
        sync(path.parent)


@contextmanager
def atomic_path(path: str | os.PathLike, durable: bool = True, needed: int | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on a clean exit it is renamed to `path`, on an error it is deleted.

    The folder of `path` is made when missing. The suffix of `path` is kept, as some writers choose the format by it.

    Args:
        path: of the file.
        durable: see `place`; for what can be made again and is checked when it is read, this is not worth its time.
        needed: bytes that it takes, if known, for the message.

    Raises:
        StorageError: the disk is full.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    with told_when_full(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(path.parent, path.stem, path.suffix) as temporary:
            mode = usual_mode(temporary)
            yield temporary
            temporary.chmod(mode)
            place(temporary, path, durable)


def read_text(path: str | os.PathLike) -> str:
    """
    A text file that a user wrote: UTF-8, or what its first bytes say, as Windows' own programs write UTF-16.

    Raises:
        UnreadableFileError: it is no text in these encodings.
    """
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"{path} is no text in {encoding} ({error}): save it as UTF-8") from error


def file_digest(path: str | os.PathLike, kind: str = "sha256", start: bytes = b"") -> str:
    """Hexadecimal digest of `start` and all bytes of a file, read piece by piece."""
    digest = hashlib.new(kind, start)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


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
        StorageError: the disk is full.
    """
    text = json.dumps(_json_value(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)
