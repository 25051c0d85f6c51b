"""Class names as text encoders should read them, and names from data as files may have them."""

import hashlib
import itertools
import re
from collections.abc import Iterable

_NAME_SUFFIXES = ("-other", "-merged", "-stuff")


def clean_class_name(name: str) -> str:
    """Remove the suffixes with which COCO marks merged and stuff classes, as the official ensemble of SEEM does."""
    for suffix in _NAME_SUFFIXES:
        name = name.replace(suffix, "")
    return name


_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\/]')
# Of devices on Windows, with whatever suffix.
_DEVICES = {"con", "prn", "aux", "nul"} | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
_MAX_BYTES = 200
"""Of a name in a path; file systems allow 255, and suffixes are still to come."""


def file_name(text: str) -> str:
    """
    A name that came from data as the name of a file: it stays in its folder, and every system can write it.

    Separators and what some system forbids become underscores; long names are cut, and a digest tells them apart.
    """
    name = _FORBIDDEN.sub("_", text.encode("utf-8", "replace").decode()).rstrip(". ")
    if not name.strip(".") or name.split(".")[0].lower() in _DEVICES:
        name = f"_{name}"
    if len(name.encode()) > _MAX_BYTES:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        name = f"{name.encode()[:_MAX_BYTES].decode(errors='ignore')}-{digest}"
    return name


def relative_path(text: str) -> str:
    """A path that came from data, relative, with `/`, and never leaving the folder that it is joined to."""
    parts = [part for part in re.split(r"[/\\]", text) if part not in ("", ".", "..")]
    return "/".join(map(file_name, parts)) or "_"


def unique_names(names: Iterable[str]) -> list[str]:
    """The names, of which those that were there before, in whatever case of letters, get a number."""
    taken: set[str] = set()
    unique = []
    for name in names:
        numbered = (name if number == 1 else f"{name}_{number}" for number in itertools.count(1))
        unique.append(next(one for one in numbered if one.casefold() not in taken))
        taken.add(unique[-1].casefold())
    return unique
