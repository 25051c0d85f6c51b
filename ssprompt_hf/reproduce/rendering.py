"""A table for programs (results.json), for readers (table.md) and at a glance (plot.png)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..plotting.charts import BLUE, LIGHT, ORANGE
from ..plotting.overlays import BACKGROUND, INK
from ..plotting.tables import markdown_table
from ..utils.files import atomic_path, write_json
from .plans import Cell
from .summary import Summary

RESULTS, TABLE, PLOT = "results.json", "table.md", "plot.png"
DASH = "\N{EN DASH}"


def write_table(
    folder: str | Path, summary: Summary, records: Mapping[Cell, dict[str, Any]], facts: dict[str, Any]
) -> None:
    """
    Write `results.json`, `table.md` and `plot.png`, each whole or not at all.

    Args:
        folder: is made when missing.
        summary: the numbers.
        records: of the finished cells.
        facts: how the table was asked for: `command`, `preset`, ...
    """
    folder = Path(folder)
    write_json(folder / RESULTS, results(summary, records, facts))
    with atomic_path(folder / TABLE) as temporary:
        temporary.write_text(markdown(summary, records, facts), encoding="utf-8")
    with atomic_path(folder / PLOT) as temporary:
        plot(summary).save(temporary)


def results(summary: Summary, records: Mapping[Cell, dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
    """Everything there is to know, for JSON: a dict for each row and column, and the record behind every number."""
    plan = summary.plan
    numbers = []
    for row in summary.rows:
        for column in summary.columns:
            values = summary.values.get((row, column), {})
            numbers.append(
                {
                    "row": row,
                    "column": column,
                    "ours": summary.number(row, column),
                    "values": [{"seed": seed, "value": value} for seed, value in values.items()],
                    "paper": summary.paper(row, column),
                    "reference": plan.references.get(row),
                    "difference": summary.difference(row, column),
                }
            )
    return {
        "table": plan.name,
        "title": plan.title,
        "unit": plan.unit,
        **facts,
        "rows": summary.rows,
        "columns": summary.columns,
        "numbers": numbers,
        "notes": plan.notes,
        "complete": all(cell in records for cell in plan.cells),
        "cells": [
            {"row": cell.row, "column": cell.column, "seed": cell.seed, **records[cell]}
            for cell in plan.cells
            if cell in records
        ],
    }


def markdown(summary: Summary, records: Mapping[Cell, dict[str, Any]], facts: dict[str, Any]) -> str:
    """The table for readers, with what they need in order to repeat it."""
    plan = summary.plan
    done = sum(cell in records for cell in plan.cells)
    parts = [f"# {plan.title}", f"```bash\n{facts['command']}\n```"]
    parts.append(
        f"Preset {facts['preset']}; {plan.unit}: mean ± standard deviation over seeds {_listed(facts['seeds'])}, "
        f"then the paper's own number ({DASH}: none known to us)."
        + ("" if done == len(plan.cells) else f" **{done} of {len(plan.cells)} cells are done.**")
    )
    header = ["", *(f"{column}: ours / paper" for column in summary.columns)]

    def ours(row: str, column: str) -> str:
        return f"{_mean_std(summary.number(row, column))} / {_number(summary.paper(row, column))}"

    parts.append(_table(header, summary, ours))
    interval = "mean and 95% confidence interval (Student's t)"
    if any(summary.number(row, column) and summary.number(row, column)["ci95"] for row, column in summary.values):
        parts += [
            f"Confidence: {interval}.",
            _table(["", *summary.columns], summary, lambda *at: _interval(summary.number(*at))),
        ]
    if plan.references:
        named = list(dict.fromkeys(plan.references.values()))
        parts += [
            f"Difference: the row minus {' or '.join(named)}, seed by seed; {interval}.",
            _table(
                ["", *summary.columns],
                summary,
                lambda *at: _interval(summary.difference(*at), signed=True),
                rows=[row for row in summary.rows if row in plan.references],
            ),
        ]
    if plan.show_ratios:
        parts += [
            f"Ratio to {' or '.join(dict.fromkeys(plan.references.values()))}.",
            _table(
                header,
                summary,
                lambda *at: f"{_number(summary.ratio(*at), 2)} / {_number(summary.paper_ratio(*at), 2)}",
            ),
        ]
    parts += ["\n".join(f"* {note}" for note in [*plan.notes, *_circumstances(records)])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(header: list[str], summary: Summary, text, rows: list[str] | None = None) -> str:
    rows = summary.rows if rows is None else rows
    return markdown_table(header, [[row, *(text(row, column) for column in summary.columns)] for row in rows])


def _circumstances(records: Mapping[Cell, dict[str, Any]]) -> list[str]:
    """Versions, devices, base models and training arguments of the finished cells, all that occur."""
    versions: dict[str, list[str]] = {}
    for record in records.values():
        for name, version in record["versions"].items():
            versions.setdefault(name, []).append(version)
    lines = []
    if versions:
        listed = ", ".join(f"{name} {' and '.join(dict.fromkeys(found))}" for name, found in versions.items())
        devices = dict.fromkeys(record["device"] for record in records.values())
        lines.append(f"Made with {listed}, on {' and '.join(devices)}.")
    bases = [record["settings"]["base_model"] for record in records.values()]
    fingerprints = dict.fromkeys(f"{one['name']} ({one['fingerprint']})" for one in bases if isinstance(one, dict))
    if fingerprints:
        lines.append(f"Base model: {', '.join(fingerprints)}.")
    trained = [one["settings"]["adapter"]["training"] for one in records.values() if one["settings"].get("adapter")]
    if trained:
        told = ("optim", "semantic_loss", "learning_rate", "max_steps", "shrinkage")
        values = {name: dict.fromkeys(str(one[name]) for one in trained if name in one) for name in told}
        listed = ", ".join(f"{name} {' and '.join(found)}" for name, found in values.items() if found)
        lines.append(
            f"Trained with {listed}. The paper trains with SGD and cross-entropy, at rates not known to us, and does "
            "not shrink what was learned."
        )
    seconds = [record["training_seconds"] for record in records.values() if "training_seconds" in record]
    if seconds:
        lines.append(
            f"Training took {min(seconds):.0f} to {max(seconds):.0f} s an adapter. The exact settings of every number "
            f"are in {RESULTS}."
        )
    return lines


def _listed(values: list) -> str:
    return ", ".join(map(str, values))


def _number(value: float | None, digits: int | None = None) -> str:
    """One digit after the point, and more of small numbers."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{_digits(value) if digits is None else digits}f}"


def _digits(value: float) -> int:
    return 1 if abs(value) >= 10 or value == 0 else 2


def _mean_std(number: dict[str, Any] | None) -> str:
    if number is None:
        return DASH
    spread = "" if number["std"] is None else f" ± {number['std']:.{_digits(number['mean'])}f}"
    return _number(number["mean"]) + spread


def _interval(number: dict[str, Any] | None, signed: bool = False) -> str:
    if number is None:
        return DASH
    digits = 2 if signed else _digits(number["mean"])
    sign = "+" if signed else ""
    text = f"{number['mean']:{sign}.{digits}f}"
    if number["ci95"] is None:
        return text
    low, high = number["ci95"]
    return f"{text} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def plot(summary: Summary, bar_width: int = 230, row_height: int = 18, panels_per_line: int = 3) -> Image.Image:
    """
    Bars, a panel a column: means, whiskers for the 95% confidence interval, and a mark at the paper's number.

    Args:
        summary: the numbers.
        bar_width: pixels of the longest bar.
        row_height: pixels a row.
        panels_per_line: panels side by side.
    """
    font, large, gap = ImageFont.load_default(size=12), ImageFont.load_default(size=14), 10
    names = round(max((font.getlength(row) for row in summary.rows), default=0)) + gap
    rows = {column: [row for row in summary.rows if summary.number(row, column)] for column in summary.columns}
    lines = [
        summary.columns[start : start + panels_per_line] for start in range(0, len(summary.columns), panels_per_line)
    ]
    # panels of one line show the same rows, so that names are written once
    shown = [[row for row in summary.rows if any(row in rows[column] for column in line)] for line in lines]
    heights = [30 + len(one) * row_height + gap for one in shown]
    across = min(panels_per_line, len(summary.columns))
    title = f"{summary.plan.title} ({summary.plan.unit})"
    width = max(names + across * (bar_width + 90), round(large.getlength(title))) + 2 * gap
    canvas = Image.new("RGB", (width, 40 + sum(heights) + 26), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((gap, 10), title, fill=INK, font=large)
    top = 40
    for line, line_rows, height in zip(lines, shown, heights):
        for place, row in enumerate(line_rows):
            middle = top + 30 + (place + 0.5) * row_height
            draw.text((gap + names - 6, middle), row, fill=INK, font=font, anchor="rm")
        for panel, column in enumerate(line):
            left = gap + names + panel * (bar_width + 90)
            draw.text((left, top + 10), column, fill=INK, font=font)
            _draw_panel(draw, summary, column, line_rows, (left, top + 30), bar_width, row_height, font)
        top += height
    draw.text((gap, top + 4), "whiskers: 95% confidence interval over seeds; orange: the paper", fill=INK, font=font)
    return canvas


def _draw_panel(draw, summary: Summary, column: str, rows: list[str], corner, bar_width: int, row_height: int, font):
    numbers = [summary.number(row, column) for row in rows]
    papers = [summary.paper(row, column) for row in rows]
    ends = [number["mean"] for number in numbers if number] + [paper for paper in papers if paper is not None]
    scale = bar_width / max([*ends, 1e-9])
    left, top = corner
    draw.line((left, top, left, top + len(rows) * row_height), fill=LIGHT)
    for place, (number, paper) in enumerate(zip(numbers, papers)):
        upper = top + place * row_height
        middle = upper + row_height / 2
        if number is not None:
            end = left + scale * max(number["mean"], 0)
            draw.rectangle((left, upper + 3, max(end, left + 1), upper + row_height - 4), fill=BLUE)
            if number["ci95"] is not None:
                low, high = (left + scale * min(max(value, 0), max(ends) * 1.1) for value in number["ci95"])
                draw.line((low, middle, high, middle), fill=INK)
                for x in (low, high):
                    draw.line((x, middle - 3, x, middle + 3), fill=INK)
                end = max(end, high)
            draw.text((end + 6, middle), _number(number["mean"]), fill=INK, font=font, anchor="lm")
        if paper is not None:
            x = left + scale * paper
            draw.rectangle((x - 1, upper + 1, x + 1, upper + row_height - 2), fill=ORANGE)
