"""The files of tables, written by any number of processes: whoever writes last, they hold what all have found."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.utils import logging

from ..errors import SSPromptError
from .cells import CellRunner
from .plans import Choices, Plan, Work
from .presets import Preset
from .rendering import RESULTS, write_table
from .summary import Summary
from .tables import plan_table

logger = logging.get_logger(__name__)

LOCK = ".tables.lock"
PATIENCE = 60.0
"""Seconds to wait for another process, which needs one."""

Request = dict[str, Any]
"""What a command has asked of a table, and where: JSON values."""


class TableWriter:
    """
    Writes the tables of a command.

    A table remembers what commands have asked of it (`requests` in `results.json`). It shows the cells of all of them
    that have the same settings and differ in seeds, methods, columns, folders of data or base models; those of other
    settings are replaced. Cells are looked up in their files, whoever ran them.

    Args:
        folder: of the tables and cells.
        runner: knows the settings and files of cells.
        preset, choices: of the command.
        command: what the user typed.
    """

    def __init__(self, folder: Path, runner: CellRunner, preset: Preset, choices: Choices, command: str):
        self.folder, self.runner, self.preset, self.choices = folder, runner, preset, choices
        self.command = command
        self.records: dict[Work, dict[str, Any]] = {}

    def path(self, name: str) -> Path:
        """The folder of a table."""
        return self.folder / (name if name.startswith("figure") else f"table-{name}")

    def record(self, work: Work) -> dict[str, Any] | None:
        """What is known of a cell by now, else None."""
        if work not in self.records:
            record = self.runner.finished(work)
            if record is None:
                return None
            self.records[work] = record
        return self.records[work]

    def write(self, plans: Sequence[Plan]) -> None:
        """Write the tables that `plans` were made for, with all that is known by now."""
        with self._alone():
            for plan in plans:
                self._write(plan)

    def _write(self, own: Plan) -> None:
        folder = self.path(own.name)
        request = self._request()
        requests = [one for one in _earlier(folder / RESULTS) if _same_settings(one, request)]
        requests = _sorted([*(one for one in requests if _choice(one) != _choice(request)), request])
        plan = self._united(own, requests)
        if plan is None:  # a table of one base model cannot show those of several
            requests = [one for one in requests if one["base_models"] == request["base_models"]]
            plan = self._united(own, requests) or own
        for one in requests:
            self.runner.take_bases(one["bases"])
        done = {cell: record for cell in plan.cells if (record := self._known(cell.work)) is not None}
        facts = {
            "command": "\n".join(dict.fromkeys(one["command"] for one in requests)),
            "preset": self.preset.name,
            "seeds": sorted({seed for one in requests for seed in one["seeds"]}),
            "shots": self.choices.shots,
            "base_models": _united_names(requests, "base_models"),
            "requests": requests,
        }
        write_table(folder, Summary(plan, done), done, facts)

    def _known(self, work: Work) -> dict[str, Any] | None:
        try:
            return self.record(work)
        except (SSPromptError, OSError):  # of another process, whose data or base model is not to be had here
            return None

    def _request(self) -> Request:
        choices = asdict(self.choices)
        domains = {name: dict(one.data) for name, one in self.preset.domains.items() if one.data is not None}
        request = {
            "command": self.command,
            **choices,
            "base_models": self.preset.base_models,
            "with_sam": self.preset.with_sam,
            "domains": domains,
            "step": asdict(self.preset.step),
            "training": self.runner.common_settings(),
            "bases": self.runner.known_bases(),
        }
        return json.loads(json.dumps(request))

    def _united(self, own: Plan, requests: Sequence[Request]) -> Plan | None:
        """One plan for all requests; None if it lacks cells of `own`."""
        domains = dict(self.preset.domains)
        for one in requests:
            for name, data in one["domains"].items():
                if name in domains and domains[name].data is None:
                    domains[name] = replace(domains[name], data=data)
        preset = replace(
            self.preset,
            domains=domains,
            base_models=_united_names(requests, "base_models"),
            with_sam=_united_names(requests, "with_sam"),
        )
        plans = []
        for one in requests:
            fields = {name: one[name] and tuple(one[name]) for name in ("seeds", "methods", "columns")}
            with contextlib.suppress(SSPromptError):  # of another version of this package
                plans.append(plan_table(own.name, preset, Choices(shots=one["shots"], **fields)))
        if not plans:
            return None
        first = plans[0]
        united = replace(
            first,
            rows=list(dict.fromkeys(row for plan in plans for row in plan.rows)),
            columns=list(dict.fromkeys(column for plan in plans for column in plan.columns)),
            cells=list(dict.fromkeys(cell for plan in plans for cell in plan.cells)),
            references={row: reference for plan in plans for row, reference in plan.references.items()},
            notes=list(dict.fromkeys(note for plan in plans for note in plan.notes)),
        )
        works = {cell.work for cell in united.cells}
        return united if all(cell.work in works for cell in own.cells) else None

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While another process writes, it cannot read what this one is about to replace."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=PATIENCE)
        except (Timeout, NotImplementedError, OSError) as error:  # some network file systems have no locks
            logger.warning(f"the tables are written without a lock ({error}): several processes may get in the way")
        try:
            yield
        finally:
            lock.release()


def _earlier(path: Path) -> list[Request]:
    """What a table was asked for before."""
    try:
        requests = json.loads(path.read_text(encoding="utf-8")).get("requests", [])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError) as error:
        logger.warning(f"{path} is damaged ({error}); it is made anew")
        return []
    return [one for one in requests if isinstance(one, dict)]


def _same_settings(one: Request, other: Request) -> bool:
    """Whether the cells of two requests can stand in one table."""
    if one.keys() != other.keys() or any(one[name] != other[name] for name in ("shots", "step", "training")):
        return False
    shared = one["domains"].keys() & other["domains"].keys()
    return all(one["domains"][name] == other["domains"][name] for name in shared)


def _choice(request: Request) -> str:
    """What makes requests of the same settings different."""
    return json.dumps({name: value for name, value in request.items() if name not in ("command", "bases")})


def _sorted(requests: Sequence[Request]) -> list[Request]:
    return sorted(requests, key=_choice)


def _united_names(requests: Sequence[Mapping[str, Any]], field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for one in requests for name in one[field]))
