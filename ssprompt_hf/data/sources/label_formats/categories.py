"""The categories of COCO files, of which each numbers its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....errors import ClassListError, LabelFormatError


def join_categories(
    documents: Sequence[tuple[Path, Sequence[dict[str, Any]]]],
) -> tuple[list[dict[str, Any]], list[dict[Any, int]], list[str]]:
    """
    One list of the categories of several files. Those of one name are one category, whatever its number in a file.

    Args:
        documents: each file with its categories.

    Returns:
        the categories in the order in which they first occur, numbered from 1 where the files contradict each other;
        for each file category id -> position in this list; and what the user should know.

    Raises:
        LabelFormatError: the entries are not as COCO writes them, or two of a file have one id.
        ClassListError: two of a file have one name.
    """
    joined: dict[str, dict[str, Any]] = {}
    indices: list[dict[Any, int]] = []
    for path, categories in documents:
        name_of: dict[Any, str] = {}
        try:
            for entry in categories:
                name = str(entry.get("name", "")).strip()
                known = name_of.get(entry["id"])
                if known not in (None, name):
                    raise LabelFormatError(
                        f"{path}: category {entry['id']} is both {known!r} and {name!r}. Export it again."
                    )
                if known is None and name in name_of.values():
                    raise ClassListError(f"{path}: Two classes are named {name!r}.")
                name_of[entry["id"]] = name
                joined.setdefault(name, entry)
        except (KeyError, TypeError, AttributeError) as error:
            raise LabelFormatError(f"{path}: its categories are not as COCO writes them ({error!r}).") from error
        positions = {name: position for position, name in enumerate(joined)}
        indices.append({number: positions[name] for number, name in name_of.items()})
    pairs = {(number, position) for index_of in indices for number, position in index_of.items()}
    if len(pairs) == len({number for number, _ in pairs}) == len(joined):
        return list(joined.values()), indices, []
    entries = [entry | {"id": number} for number, entry in enumerate(joined.values(), start=1)]
    files = ", ".join(path.name for path, _ in documents)
    return entries, indices, [f"{files} number their categories differently; categories of one name are one class"]
