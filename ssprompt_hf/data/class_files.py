"""The forms of class files that are no JSON: names, numbers with names, and tables of colours."""

import csv
import re
from typing import Any

from ..errors import ClassListError

IGNORED_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored", "__ignore__")
"""Names under which lists of colours hold the colour of pixels without class, in lower case."""

LONGEST_NAME = 100

FORMS = (
    'one name a line; "id: name" in every line; class_dict.csv (name,r,g,b); _classes.csv (value, name); or CVAT\'s '
    "labelmap.txt (name:r,g,b:parts:actions)"
)


def text_class_list(text: str) -> dict[str, Any]:
    """
    The content of a class file in one of `FORMS`, as `SegmentationClasses.from_dict` reads it. Lines that begin with
    `#` are comments.

    Raises:
        ClassListError: the text is in none of these forms.
    """
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ClassListError(f"holds no class. A class file has {FORMS}.")
    label_map = [re.fullmatch(r"([^:]*\S)\s*:\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(:[^:]*)?(:[^:]*)?", x) for x in lines]
    if all(label_map):
        return _colored([(match[1], tuple(map(int, match.group(2, 3, 4)))) for match in label_map])
    table = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    head = [cell.lower() for cell in table[0]]
    if {"r", "g", "b"} <= set(head):
        return _colored(_color_rows(table[1:], head))
    if len(head) == 2 and head[0] in ("pixel value", "value", "id") and all(row[0].isdecimal() for row in table[1:]):
        return {"classes": [{"id": int(row[0]), "name": row[1]} for row in table[1:] if len(row) == 2]}
    numbered = [re.fullmatch(r"(\d+)\s*[:\t]\s*(\S.*)", line) for line in lines]
    if all(numbered):
        return {"classes": [{"id": int(match[1]), "name": match[2]} for match in numbered]}
    colors = [re.fullmatch(r"([^,]*[^,\d\s][^,]*),\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)", line) for line in lines]
    if all(colors):  # a table of colours without its head
        return _colored([(match[1].strip(), tuple(map(int, match.group(2, 3, 4)))) for match in colors])
    for line in lines:
        if not re.search(r"[^\W\d_]", line) or re.search(r"\t.*\t|(,\s*\d+\s*){2,}|[{}<>=]", line):
            raise ClassListError(
                f"is no class list: its line {line[:60]!r} is no class name. A class file has {FORMS}."
            )
        if len(line) > LONGEST_NAME:
            raise ClassListError(
                f"is no class list: it has lines as long as {line[:60]!r}... A class file has {FORMS}."
            )
    return {"classes": lines}


def _color_rows(rows: list[list[str]], head: list[str]) -> list[tuple[str, tuple[int, ...]]]:
    channels = [head.index(channel) for channel in "rgb"]
    name = next((head.index(key) for key in ("name", "class", "label", "class_name") if key in head), None)
    if name is None:
        name = next(position for position in range(len(head) + 1) if position not in channels)
    found = []
    for row in rows:
        try:
            found.append((row[name], tuple(int(row[channel]) for channel in channels)))
        except (ValueError, IndexError):
            raise ClassListError(f"has the line {','.join(row)!r}, which is no name with r, g and b.") from None
    return found


def _colored(rows: list[tuple[str, tuple[int, ...]]]) -> dict[str, Any]:
    """Classes by colour; ids are positions in the list. The colour of pixels without class is no class."""
    ignored = [position for position, (name, _) in enumerate(rows) if name.lower() in IGNORED_NAMES]
    classes = [
        {"id": position, "name": name, "color": list(color)}
        for position, (name, color) in enumerate(rows)
        if position not in ignored
    ]
    data: dict[str, Any] = {"classes": classes, "by_color": True}
    if ignored:
        data |= {"ignore_id": [*ignored, 255], "ignore_color": list(rows[ignored[0]][1])}
    return data
