"""From the name of a table to its files."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import SSPromptError
from .cells import CellRunner, work_name
from .jobs import Learn, finished_works, in_shared_order, plan_jobs
from .plans import Cell, Choices, Plan
from .presets import Preset
from .rendering import PLOT, TABLE, write_table
from .summary import Summary
from .tables import TABLES, plan_table


def reproduce(
    tables: Sequence[str],
    preset: Preset,
    choices: Choices,
    output_dir: str | Path = "out/reproduce",
    training: dict[str, Any] | None = None,
    command: str = "",
) -> list[Path]:
    """
    Run all cells of some tables that have not been run before, and write the tables.

    Files go to `<output_dir>/<preset>`: a folder for each table with `results.json`, `table.md` and `plot.png`,
    written anew after every cell, and what `CellRunner` keeps.

    Args:
        tables: names in `TABLES`, or `["all"]`, which leaves out those that make no sense for the preset.
        preset: where they run.
        choices: seeds, shots, methods, columns.
        output_dir: folder.
        training: training arguments that differ from the defaults.
        command: what the user typed, for the table.

    Returns:
        the folders of the tables.

    Raises:
        SSPromptError: a setting, a file or a name is wrong, or a table makes no sense for the preset; the data of all
            tables are looked at before anything runs.
    """
    plans = _plans(tables, preset, choices)
    folder = Path(output_dir) / preset.name
    runner = CellRunner(folder, training)
    works = in_shared_order(cell.work for plan in plans for cell in plan.cells)
    records = {work: record for work in works if (record := runner.finished(work)) is not None}
    missing = [work for work in works if work not in records]
    print(f"{len(works)} cells, of which {len(records)} are done; results go to {folder}", flush=True)
    runner.check_data(missing)
    facts = {
        "command": command,
        "preset": preset.name,
        "seeds": list(choices.seeds),
        "shots": choices.shots,
        "base_models": list(preset.base_models),
    }

    def write(changed: Sequence[Plan]):
        for plan in changed:
            done = {cell: records[cell.work] for cell in plan.cells if cell.work in records}
            write_table(folder / _folder_name(plan), Summary(plan, done), done, facts)

    write(plans)
    count = 0
    for job in plan_jobs(missing):
        start = time.perf_counter()
        runner.run(job)
        seconds = time.perf_counter() - start
        if isinstance(job, Learn):
            print(f"learned {work_name(job.training)}, {seconds:.1f} s", flush=True)
        own = []
        for work in finished_works(job):
            count += 1
            records[work] = runner.finished(work)
            own += [(plan, cell) for plan in plans for cell in plan.cells if cell.work == work]
            cell = next(cell for _, cell in own if cell.work == work)
            print(f"[{count}/{len(missing)}] {_told(cell, records[work])}", flush=True)
        write([plan for plan in plans if any(plan is one for one, _ in own)])
    for plan in plans:
        print(f"\n{(folder / _folder_name(plan) / TABLE).read_text(encoding='utf-8')}")
    folders = [folder / _folder_name(plan) for plan in plans]
    print("\n".join(f"wrote {one / TABLE}, {one / PLOT} and results.json beside them" for one in folders))
    return folders


def _plans(tables: Sequence[str], preset: Preset, choices: Choices) -> list[Plan]:
    if list(tables) != ["all"]:
        return [plan_table(name, preset, choices) for name in dict.fromkeys(tables)]
    plans = []
    for name in TABLES:
        try:
            plans.append(plan_table(name, preset, choices))
        except SSPromptError as error:
            print(f"left out: {error}")
    return plans


def _folder_name(plan: Plan) -> str:
    return plan.name if plan.name.startswith("figure") else f"table-{plan.name}"


def _told(cell: Cell, record: dict[str, Any]) -> str:
    """One finished cell in a line."""
    numbers = ", ".join(f"{value:.2f}" for value in list(cell.values(record).values())[:2])
    seed = "" if cell.seed is None else f", seed {cell.seed}"
    return f"{cell.row}, {cell.column}{seed}: {numbers}"
