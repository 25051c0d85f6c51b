"""Results for people: tables, for a terminal and in Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SSPromptError
from ..utils.text import printable


def _percent(value: float) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _gain(before: float, after: float) -> str:
    if before is None or after is None or math.isnan(before) or math.isnan(after):
        return "-"
    return f"{100 * (after - before):+.1f}"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], rule_before: int | None = None) -> str:
    """Plain text, first column to the left, the others to the right.

    Args:
        header: column titles.
        rows: as many texts each.
        rule_before: position of a row that gets a line above it.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule]
    for position, row in enumerate(rows):
        lines += [rule] * (position == rule_before) + [line(row)]
    return "\n".join(lines)


def markdown_table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, a line a row whatever the values hold.

    Args:
        header: column titles.
        rows: as many values each, written by `str`.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(printable(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def iou_table(
    after: Mapping[str, Any],
    before: Mapping[str, Any] | None = None,
    after_title: str = "SSPrompt",
    before_title: str = "zero-shot",
) -> str:
    """IoU of each class in percent, then the means and what else was computed (AP, PQ), with the gain where there are
    two results.

    Args:
        after: scores with `per_class_iou` as a dict by name, `mean_iou`, `pixel_accuracy`, `mean_accuracy`
            (`scores_from_confusion` with class names).
        before: the same, to compare with.

    Raises:
        SSPromptError: `per_class_iou` is no dict, or the two have other classes.
    """
    results = [after] if before is None else [before, after]
    for result in results:
        if not isinstance(result["per_class_iou"], Mapping):
            raise SSPromptError("The table needs `per_class_iou` by name: pass class names to the metric.")
    names = list(after["per_class_iou"])
    if any(list(result["per_class_iou"]) != names for result in results):
        raise SSPromptError("The two results are of different class lists.")

    def row(title: str, values: Sequence[float]) -> list[str]:
        return [title, *map(_percent, values), *([_gain(*values)] if len(values) == 2 else [])]

    rows = [row(name, [result["per_class_iou"][name] for result in results]) for name in names]
    for title, key in (
        ("mean IoU", "mean_iou"),
        ("pixel accuracy", "pixel_accuracy"),
        ("mean accuracy", "mean_accuracy"),
        ("AP (COCO)", "coco_ap"),
        ("AP50 (COCO)", "coco_ap50"),
        ("AP (Cityscapes)", "cityscapes_ap"),
        ("AP50 (Cityscapes)", "cityscapes_ap50"),
        ("PQ", "pq"),
        ("PQ of things", "pq_things"),
        ("PQ of stuff", "pq_stuff"),
    ):
        if all(key in result for result in results):
            rows.append(row(title, [result[key] for result in results]))
    header = ["IoU, %", after_title] if before is None else ["IoU, %", before_title, after_title, "gain"]
    return format_table(header, rows, rule_before=len(names))
