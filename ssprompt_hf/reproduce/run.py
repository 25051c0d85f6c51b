"""From the name of a table to its files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import SSPromptError
from .availability import missing_base_models, scored_base_models, without_base_models
from .cells import CellRunner
from .dry_run import describe_work
from .executors import Executor, Setup
from .jobs import Learn, finished_works, in_shared_order, plan_jobs
from .plans import Cell, Choices, Plan, work_name
from .presets import Preset
from .rendering import PLOT, TABLE
from .scheduling import run_jobs
from .table_files import TableWriter
from .tables import TABLES, plan_table


def reproduce(
    tables: Sequence[str],
    preset: Preset,
    choices: Choices,
    output_dir: str | Path = "out/reproduce",
    training: dict[str, Any] | None = None,
    command: str = "",
    executor: Executor | None = None,
) -> list[Path]:
    """
    Run all cells of some tables that have not been run before, and write the tables.

    Files go to `<output_dir>/<preset>`: a folder for each table with `results.json`, `table.md` and `plot.png`,
    written anew whenever cells are done, and what `CellRunner` keeps. Several processes may use one folder; see
    `TableWriter`.

    Args:
        tables: names in `TABLES`, or `["all"]`, which leaves out those that make no sense for the preset.
        preset: where they run.
        choices: seeds, shots, methods, columns.
        output_dir: folder.
        training: training arguments that differ from the defaults.
        command: what the user typed, for the table.
        executor: the workers that share the work; by default this process does it alone. Results are the same.

    Returns:
        the folders of the tables.

    Raises:
        SSPromptError: a setting, a file or a name is wrong, or a table makes no sense for the preset; the data of all
            tables are looked at before a base model is downloaded. A base model that cannot be had leaves out its
            rows, with a note; it is an error if there is no other.
    """
    folder = Path(output_dir) / preset.name
    runner = CellRunner(folder, training)
    plans = _checked_plans(tables, preset, choices, runner)
    missing_bases = missing_base_models(scored_base_models(plans), runner.base)
    if missing_bases:
        preset = without_base_models(preset, missing_bases)
        print("\n".join(preset.notes), flush=True)
        plans = _plans(tables, preset, choices, needs_all=False)
    writer = TableWriter(folder, runner, preset, choices, command)
    works = in_shared_order(cell.work for plan in plans for cell in plan.cells)
    if executor is not None:
        folder.mkdir(parents=True, exist_ok=True)
        setup = Setup(str(folder.absolute()), runner.training, os.getcwd(), torch.get_num_threads())
        runner.device = executor.start(setup)
    missing = [work for work in works if writer.record(work) is None]
    print(f"{len(works)} cells, of which {len(works) - len(missing)} are done; results go to {folder}", flush=True)
    writer.write(plans)
    count = 0
    for job, seconds in run_jobs(plan_jobs(missing), runner, executor):
        if isinstance(job, Learn):
            print(f"learned {work_name(job.training)}, {seconds:.1f} s", flush=True)
        own = [(plan, cell) for plan in plans for cell in plan.cells if cell.work in finished_works(job)]
        told = {cell.work: cell for _, cell in reversed(own)}
        for work in finished_works(job):
            count += 1
            print(f"[{count}/{len(missing)}] {_told(told[work], writer.record(work))}", flush=True)
        if own:
            writer.write([plan for plan in plans if any(plan is one for one, _ in own)])
    runner.close()
    for plan in plans:
        print(f"\n{(writer.path(plan.name) / TABLE).read_text(encoding='utf-8')}")
    folders = [writer.path(plan.name) for plan in plans]
    print("\n".join(f"wrote {one / TABLE}, {one / PLOT} and results.json beside them" for one in folders))
    return folders


def dry_run(
    tables: Sequence[str],
    preset: Preset,
    choices: Choices,
    output_dir: str | Path = "out/reproduce",
    training: dict[str, Any] | None = None,
) -> str:
    """What `reproduce` would do, and about what it would take, as text for a terminal: see `describe_work`. Arguments
    and errors are those of `reproduce`."""
    runner = CellRunner(Path(output_dir) / preset.name, training)
    return describe_work(_checked_plans(tables, preset, choices, runner), runner)


def _checked_plans(tables: Sequence[str], preset: Preset, choices: Choices, runner: CellRunner) -> list[Plan]:
    plans = _plans(tables, preset, choices, needs_all=list(tables) != ["all"])
    runner.check_data(cell.work for plan in plans for cell in plan.cells)
    return plans


def _plans(tables: Sequence[str], preset: Preset, choices: Choices, needs_all: bool) -> list[Plan]:
    plans = []
    for name in TABLES if list(tables) == ["all"] else dict.fromkeys(tables):
        try:
            plans.append(plan_table(name, preset, choices))
        except SSPromptError as error:
            if needs_all:
                raise
            print(f"left out: {error}")
    return plans


def _told(cell: Cell, record: dict[str, Any]) -> str:
    """One finished cell in a line."""
    numbers = ", ".join(f"{value:.2f}" for value in list(cell.values(record).values())[:2])
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    return f"{cell.row}, {cell.column}{seed}: {numbers}"
