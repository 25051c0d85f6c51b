"""The parts of a table that has not run yet: methods, the work behind its cells, and where each number belongs."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .paper import PAPER
from .presets import Domain, StepSetting


@dataclass(frozen=True)
class Row:
    """A row of a comparison: how the table calls it, and the fields of `PromptArguments` behind it."""

    title: str
    prompts: Mapping[str, Any] = field(hash=False)


ROWS = {
    "zero_shot": Row("zero-shot", {"method": "zero_shot"}),
    "coop": Row("CoOp", {"method": "coop"}),
    "locn": Row("LOCN", {"method": "locn"}),
    "vspl": Row("VSPL", {"method": "vspl"}),
    "spaprompt_fixed": Row("SpaPrompt, w fixed", {"method": "spaprompt", "learn_weights": False}),
    "spaprompt": Row("SpaPrompt", {"method": "spaprompt"}),
    "semprompt_fixed": Row("SemPrompt, w fixed", {"method": "semprompt", "learn_weights": False}),
    "semprompt": Row("SemPrompt", {"method": "semprompt"}),
    "ssprompt_fixed": Row("SSPrompt, w fixed", {"method": "ssprompt", "learn_weights": False}),
    "ssprompt": Row("SSPrompt", {"method": "ssprompt"}),
    "ssprompt_extended": Row("SSPrompt, extended", {"method": "ssprompt", "recipe": "extended"}),
    "spaprompt_grid": Row("SpaPrompt, point grid", {"method": "spaprompt", "spatial_source": "point_grid"}),
    "ssprompt_grid": Row("SSPrompt, point grid", {"method": "ssprompt", "spatial_source": "point_grid"}),
}
"""What `--methods` knows."""


@dataclass(frozen=True)
class Training:
    """An adapter to be learned: `method` of `ROWS`, with other values of some fields of its configuration."""

    method: str
    base_model: str
    domain: Domain
    task: str
    shots: int
    seed: int
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Score:
    """A model scored on a data set; without `training` the base model as it is."""

    base_model: str
    domain: Domain
    task: str
    training: Training | None = None


@dataclass(frozen=True)
class StepCost:
    """Time and memory of a training step of a method, measured for the `repeat`-th time."""

    base_model: str
    method: str
    cached: bool
    repeat: int
    setting: StepSetting


Work = Score | StepCost


def work_name(work: Work | Training) -> str:
    """What people recognise a file by."""
    if isinstance(work, StepCost):
        parts = ["step", work.method, "cached" if work.cached else "plain", f"repeat{work.repeat}"]
    elif isinstance(work, Training):
        options = [f"{name}{value}" for name, value in work.options]
        parts = [work.domain.name, work.task, work.method, *options, f"{work.shots}shots", f"seed{work.seed}"]
    elif work.training is None:
        parts = [work.domain.name, work.task, "zero_shot"]
    else:
        elsewhere = [] if work.training.domain.name == work.domain.name else ["on", work.domain.name]
        return "-".join([work_name(work.training), *elsewhere])
    return re.sub(r"[^\w.-]", "_", "-".join([Path(work.base_model).name, *parts]))


@dataclass(frozen=True)
class Cell:
    """
    One number of a table for one seed (None: the same for all).

    Args:
        row, column: titles.
        seed: what makes it differ from others of its row and column.
        work: what has to be done for it.
        values: what the finished work's record says: row title -> number.
    """

    row: str
    column: str
    seed: int | None
    work: Work
    values: Callable[[dict[str, Any]], dict[str, float]] = field(compare=False)


@dataclass
class Plan:
    """
    A table before anything has run.

    Args:
        name: `"2"` to `"9"`, `"prompts"`, `"transfer"` or `"figure-3"`.
        title: what it shows.
        unit: of its numbers.
        rows, columns: titles in order. Rows may be added by cells whose records hold several (figure 3).
        cells: what there is to do.
        references: row -> the row that it is compared with, seed by seed.
        notes: what a reader has to know.
        with_mean: a last column with the mean over the others.
        show_ratios: also show each number divided by that of the reference row, beside the same of the paper.
    """

    name: str
    title: str
    unit: str
    rows: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    references: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    with_mean: bool = False
    show_ratios: bool = False

    @property
    def paper(self) -> dict[tuple[str, str], float]:
        """The paper's numbers by row and column, where they are known."""
        return PAPER.get(self.name, {})


@dataclass(frozen=True)
class Choices:
    """What users can change about a table: seeds, shots, and which methods and columns it has (None: its own)."""

    seeds: tuple[int, ...] = (0, 1, 2)
    shots: int = 16
    methods: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
