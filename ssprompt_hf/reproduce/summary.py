"""From the records of cells to the numbers of a table: means over seeds, their spread, and differences of rows."""

import math
from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student_t

from .plans import Cell, Plan

MEAN = "mean"
CONFIDENCE = 0.95
Values = dict[int | None, float]
"""By seed; None for what is the same for all of them."""


def summarise(values: Iterable[float]) -> dict[str, Any]:
    """
    Mean, standard deviation and confidence interval of one number over seeds.

    Returns:
        `n`, `mean`, `std` (of the sample, n - 1), `ci95` (lower and upper end, from Student's t); the last two are
        None for a single value.
    """
    values = list(values)
    summary: dict[str, Any] = {"n": len(values), "mean": mean(values), "std": None, "ci95": None}
    if len(values) > 1:
        summary["std"] = stdev(values)
        half = student_t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * summary["std"] / math.sqrt(len(values))
        summary["ci95"] = [summary["mean"] - half, summary["mean"] + half]
    return summary


def differences(values: Values, reference: Values) -> list[float]:
    """`values - reference` seed by seed; what has no seed counts for each."""
    seeds = sorted({seed for seed in (*values, *reference) if seed is not None}) or [None]

    def of(side: Values, seed: int | None) -> float | None:
        return side.get(seed, side.get(None))

    pairs = [(of(values, seed), of(reference, seed)) for seed in seeds]
    return [one - other for one, other in pairs if one is not None and other is not None]


class Summary:
    """
    A table with its numbers, as far as its cells are done.

    Args:
        plan: what it shows.
        records: of the cells that are done.

    Attributes:
        rows, columns: titles.
        values: (row, column) -> number by seed.
    """

    def __init__(self, plan: Plan, records: Mapping[Cell, dict[str, Any]]):
        self.plan = plan
        self.values: dict[tuple[str, str], Values] = {}
        for cell in plan.cells:
            for row, value in cell.values(records[cell]).items() if cell in records else ():
                if value is not None:
                    self.values.setdefault((row, cell.column), {})[cell.seed] = value
        self.rows = list(dict.fromkeys([*plan.rows, *(row for row, _ in self.values)]))
        self.columns = list(plan.columns)
        if plan.with_mean:
            self._add_mean()

    def _add_mean(self):
        """The mean over the columns, seed by seed, of rows that have all of them."""
        for row in self.rows:
            columns = [self.values.get((row, column)) for column in self.plan.columns]
            if all(columns):
                seeds = set.intersection(*(set(values) for values in columns))
                self.values[row, MEAN] = {seed: mean(values[seed] for values in columns) for seed in seeds}
        self.columns.append(MEAN)

    def number(self, row: str, column: str) -> dict[str, Any] | None:
        """`summarise` of one row and column, or None while nothing is known."""
        values = self.values.get((row, column))
        return summarise(values.values()) if values else None

    def difference(self, row: str, column: str) -> dict[str, Any] | None:
        """`summarise` of the row minus its reference, seed by seed."""
        reference = self.plan.references.get(row)
        if reference is None:
            return None
        pairs = differences(self.values.get((row, column), {}), self.values.get((reference, column), {}))
        return summarise(pairs) if pairs else None

    def ratio(self, row: str, column: str) -> float | None:
        """The row's mean divided by that of its reference; 1 for rows without one."""
        number, reference = (self.number(name, column) for name in (row, self.plan.references.get(row, row)))
        return number["mean"] / reference["mean"] if number and reference else None

    def paper(self, row: str, column: str) -> float | None:
        """The paper's own number, if it is known."""
        return self.plan.paper.get((row, column))

    def paper_ratio(self, row: str, column: str) -> float | None:
        """The same as `ratio` of the paper's numbers."""
        number, reference = (self.paper(name, column) for name in (row, self.plan.references.get(row, row)))
        return number / reference if number and reference else None
