"""Base models that cannot be had: tables are made without their rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import DownloadError, UnknownNameError
from ..models.registry import BASE_MODELS
from .plans import Plan, Score
from .presets import Preset


def scored_base_models(plans: Sequence[Plan]) -> list[str]:
    """Those whose weights tables need: cells that measure the cost of a step do without."""
    works = (cell.work for plan in plans for cell in plan.cells)
    return list(dict.fromkeys(work.base_model for work in works if isinstance(work, Score)))


def missing_base_models(names: Sequence[str], load: Callable[[str], object]) -> dict[str, Exception]:
    """
    The base models that cannot be had, and why.

    Args:
        names: to try.
        load: loads one.

    Raises:
        UnknownNameError: a name that is none.
        DownloadError, UnknownNameError: not a single one can be had.
    """
    missing: dict[str, Exception] = {}
    for name in names:
        try:
            load(name)
        except DownloadError as error:
            missing[name] = error
        except UnknownNameError as error:
            if name not in BASE_MODELS:  # else a name that no file is published for
                raise
            missing[name] = error
    if names and len(missing) == len(names):
        raise missing[names[0]]
    return missing


def without_base_models(preset: Preset, missing: dict[str, Exception]) -> Preset:
    """The preset with other base models than those that are missing, and a note for each."""
    with_sam = tuple(name for name in preset.with_sam if name not in missing)
    base_models = tuple(name for name in preset.base_models if name not in missing) or with_sam
    if preset.with_sam and preset.with_sam[-1] in missing:  # SAM is compared with the first of the others
        with_sam = tuple(dict.fromkeys((*with_sam, base_models[0])))
    notes = tuple(f"Left out: {name}, which cannot be had. {error}" for name, error in missing.items())
    return replace(preset, base_models=base_models, with_sam=with_sam, notes=(*preset.notes, *notes))
