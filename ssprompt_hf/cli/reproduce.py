"""`ssprompt-hf reproduce`."""

import argparse
import contextlib
import dataclasses
import shlex
from typing import Any

from ..errors import SSPromptError
from .options import add_fields

HELP = "compute a table or figure of the paper anew"

OWN = (
    "output_dir",
    "seed",
    "data_seed",
    "task",
    "report_to",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "eval_strategy",
    "eval_steps",
)
"""Training arguments that the tables set themselves."""
SEEDS = [0, 1, 2]
EXECUTORS = ("processes", "ray")


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `reproduce`."""
    from ..reproduce.presets import PRESETS
    from ..reproduce.tables import TABLES
    from ..training.arguments import SSPromptTrainingArguments

    names = [name for name in TABLES if not name.startswith("figure")]
    group = parser.add_argument_group("what")
    group.add_argument("--table", nargs="+", metavar="N", default=[], help=f"{', '.join(names)}, or all")
    group.add_argument("--figure", nargs="+", metavar="N", default=[], help="3: learned weights by class (3b)")
    group.add_argument("--preset", default="embedded", help=f"where: {', '.join(PRESETS)} (default: %(default)s)")
    group.add_argument(
        "--data_dir",
        nargs="+",
        metavar="DIR",
        default=[],
        help="for full: cityscapes=DIR acdc=DIR ..., all or some; for camvid: one folder",
    )
    group.add_argument("--output_dir", default="out/reproduce", help="folder to write to (default: %(default)s)")
    group.add_argument(
        "--dry_run", action="store_true", help="tell what would be done and what it would take; do nothing"
    )
    group = parser.add_argument_group("changes")
    group.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: 0 1 2")
    group.add_argument("--shots", type=int, default=16, help="training images of each class (default: %(default)s)")
    group.add_argument("--methods", nargs="+", metavar="METHOD", help="other rows than the table's own")
    group.add_argument("--columns", nargs="+", metavar="NAME", help="other columns than the table's own")
    group.add_argument("--base_models", nargs="+", metavar="NAME", help="other base models than the preset's")
    group.add_argument("--image_size", type=int, metavar="PIXELS", help="shorter side of the images")
    group.add_argument("--max_eval_images", type=int, metavar="N", help="score on the first so many images only")
    group.add_argument(
        "--dataset_options",
        nargs="+",
        metavar="JSON",
        default=[],
        help='for full: NAME=JSON ..., for instance mapillary_vistas=\'{"version": "1.2"}\'; for embedded: JSON with '
        "num_images, size, seed of the scenes",
    )
    group = parser.add_argument_group("workers")
    group.add_argument("--executor", choices=EXECUTORS, help="share the work: processes of this machine, or ray")
    group.add_argument("--workers", type=int, metavar="N", help="how many (default: one a GPU)")
    group.add_argument("--address", help="of the Ray cluster (default: RAY_ADDRESS, or this machine alone)")
    add_fields(parser, "training", SSPromptTrainingArguments, only_given=True, without=OWN)
    parser.epilog = (
        "A finished cell is not run again: start the same command anew after an interruption, and tables that share "
        "cells share the work."
    )


def run(options: argparse.Namespace) -> None:
    """
    Run `reproduce`.

    Raises:
        SSPromptError: neither a table nor a figure is named; and as `ssprompt_hf.reproduce.run.reproduce`.
    """
    from transformers.utils import logging

    from ..reproduce.plans import Choices
    from ..reproduce.presets import make_preset
    from ..reproduce.run import dry_run, reproduce
    from ..training.arguments import SSPromptTrainingArguments

    wrong = [number for number in options.figure if number not in ("3", "3b")]
    if wrong:
        raise SSPromptError(f"figure is {wrong[0]!r}; only 3 is there, the learned weights by class")
    tables = options.table + ["figure-3"] * bool(options.figure)
    if not tables:
        raise SSPromptError("nothing to do: give --table 2 (to 9), prompts, transfer or all, or --figure 3")
    preset = make_preset(
        options.preset,
        options.data_dir,
        options.base_models,
        options.dataset_options,
        options.image_size,
        options.max_eval_images,
    )
    choices = Choices(
        tuple(options.seeds),
        options.shots,
        options.methods and tuple(options.methods),
        options.columns and tuple(options.columns),
    )
    fields = {field.name for field in dataclasses.fields(SSPromptTrainingArguments)} - set(OWN)
    training = {name: value for name, value in vars(options).items() if name in fields}
    logging.disable_progress_bar()  # a bar for each of many models hides the numbers
    if options.dry_run:
        print(dry_run(tables, preset, choices, options.output_dir, training))
        return
    command = _command(options, training)
    with _executor(options) as executor:
        reproduce(tables, preset, choices, options.output_dir, training, command, executor)


def _executor(options: argparse.Namespace):
    """A context manager with the workers that were asked for, or None."""
    for name in ("workers", "address"):
        if getattr(options, name) is not None and options.executor is None:
            raise SSPromptError(f"{name} is {getattr(options, name)!r}, but there is no --executor that has workers")
    if options.executor is None:
        return contextlib.nullcontext()
    if options.executor == "ray":
        from ..reproduce.ray_executor import RayExecutor

        return RayExecutor(options.address, options.workers)
    from ..reproduce.executors import ProcessExecutor

    if options.address is not None:
        raise SSPromptError(f"address is {options.address!r}, which only --executor ray has a use for")
    return ProcessExecutor(options.workers)


def _command(options: argparse.Namespace, training: dict[str, Any]) -> str:
    """What gives the same tables."""
    words = ["ssprompt-hf", "reproduce"]
    given = vars(options)
    names = ["table", "figure", "preset", "data_dir", "seeds", "shots", "methods", "columns", "base_models"]
    names += ["image_size", "max_eval_images", "dataset_options", "output_dir"]
    usual = {"seeds": SEEDS, "shots": 16, "output_dir": "out/reproduce"}
    for name, value in [(name, given[name]) for name in names] + list(training.items()):
        if value not in (None, [], usual.get(name)):
            words += [f"--{name}", *(map(str, value) if isinstance(value, (list, tuple)) else [str(value)])]
    return shlex.join(words)
