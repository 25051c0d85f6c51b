"""Which rows of a table make sense for which base model."""

import json
from collections.abc import Mapping
from functools import cache

from ..errors import UnknownNameError
from ..models.registry import find_family
from ..training.settings import PromptArguments
from .plans import ROWS, Plan, Score, StepCost, Work


@cache
def _lacks(base_model: str) -> Mapping[str, str]:
    """Of its family; nothing for a name that cannot be found, which is told when the model is loaded."""
    try:
        return find_family(base_model).lacks
    except (OSError, UnknownNameError):
        return {}


def leave_out_inapplicable(plan: Plan) -> None:
    """Take the cells out of a plan that their base model has nothing for, with a note for each reason."""
    kept, reasons = [], {}
    for cell in plan.cells:
        reason = why_not(cell.work)
        if reason is None:
            kept.append(cell)
        else:
            what = cell.column if reason == _without_objects(cell.work) else cell.row
            reasons[f"{what} does not apply: {reason}."] = None
    plan.cells[:] = kept
    plan.notes += reasons


def _without_objects(work: Work) -> str:
    return _lacks(work.base_model).get("instances", "")


def why_not(work: Work) -> str | None:
    """Why a piece of work makes no sense for its base model; None if it does."""
    if isinstance(work, StepCost):
        needs, tasks = _needs(work.method), ()
    else:
        needs = () if work.training is None else _needs(work.training.method, work.training.options)
        tasks = ("instances",) if isinstance(work, Score) and work.task != "semantic" else ()
    lacks = _lacks(work.base_model)
    return next((lacks[need] for need in (*needs, *tasks) if need in lacks), None)


def _needs(method: str, options: tuple = ()) -> tuple[str, ...]:
    fields = dict(ROWS[method].prompts)
    if options:
        fields["prompt_options"] = json.dumps(dict(options))
    return PromptArguments(**fields).config().needs
