"""What sub-commands share: options added on first use, fields of dataclasses as options, and checks of folders."""

import argparse
import dataclasses
import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ..errors import SSPromptError
from ..models.registry import DEFAULT_BASE_MODEL

if TYPE_CHECKING:
    from ..training.arguments import SSPromptTrainingArguments

T = TypeVar("T")

# Fields of transformers.TrainingArguments that --help lists besides our own; all the others can be given too.
LISTED_FOR_TRAINING = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "learning_rate",
    "weight_decay",
    "lr_scheduler_type",
    "seed",
    "logging_steps",
    "save_strategy",
    "save_steps",
    "eval_strategy",
    "eval_steps",
)
LISTED = (
    *LISTED_FOR_TRAINING,
    "output_dir",
    "per_device_eval_batch_size",
    "bf16",
    "use_cpu",
    "report_to",
    "dataloader_num_workers",
)


class LazyParser(argparse.ArgumentParser):
    """A parser that is given its arguments by `fill(parser)` when it is asked to parse: most are slow to import."""

    fill: Callable[["LazyParser"], None] | None = None

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As in `argparse`."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


def add_fields(
    parser: argparse.ArgumentParser,
    title: str,
    cls: type,
    defaults: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    unlisted: Collection[str] = (),
    texts: dict[str, str] | None = None,
    only_given: bool = False,
) -> None:
    """Options for the fields of a dataclass, as transformers makes them; --help lists ours and the usual ones.

    Args:
        parser: gets a group of options.
        title: of the group.
        cls: the dataclass; its fields have a text for --help as `metadata["help"]`.
        defaults: in place of those of the dataclass.
        without: fields that get no option.
        unlisted: fields that --help leaves out.
        texts: --help of fields, in place of the dataclass's.
        only_given: options that the user does not give leave no attribute behind.
    """
    from transformers import HfArgumentParser, TrainingArguments

    parser.usage = f"{parser.prog} [OPTION VALUE ...]"
    own = {field.name: field for field in dataclasses.fields(cls)}
    base = TrainingArguments.__dataclass_fields__ if issubclass(cls, TrainingArguments) else {}
    hidden = base.keys() - set(LISTED) | set(unlisted)
    defaults, texts = defaults or {}, texts or {}
    options = HfArgumentParser(cls, add_help=False)
    options.set_defaults(**defaults)
    group = parser.add_argument_group(title)
    for action in options._actions:
        if action.dest in without:
            continue
        if action.dest in hidden or action.option_strings[0].startswith("--no_"):
            action.help = argparse.SUPPRESS
        else:
            text = texts.get(action.dest) or own[action.dest].metadata.get("help")
            theirs = base[action.dest].metadata.get("help", "") if action.dest in base else ""
            if text in (None, theirs):  # where we only changed a default, too
                text = _first_sentence(theirs)
            if defaults.get(action.dest) is not None:  # not the one that the text may tell of
                text = re.sub(r" \(default: [^()]*\)", "", text)
            if action.default is not None and "default" not in text.lower():
                text += f" (default: {action.default})"
            action.help = text.replace("%", "%%")
        if only_given:
            action.default = argparse.SUPPRESS
        group._add_action(action)
        # transformers adds a second name with dashes, which works but is not listed
        action.option_strings = action.option_strings[:1]


def _first_sentence(text: str) -> str:
    """Of a help text; the points of "e.g." and "..." end none."""
    return re.split(r"(?<=[^.])\.(?:\s+(?=[A-Z0-9`])|$)", text.strip().split("\n")[0])[0]


def build(cls: Callable[..., T], options: argparse.Namespace) -> T:
    """The dataclass `cls` from those of `options` that are fields of it; raises as its `__post_init__`."""
    names = {field.name for field in dataclasses.fields(cast(Any, cls)) if field.init}
    return cls(**{name: value for name, value in vars(options).items() if name in names})


def split_class_names(names: list[str] | None, images: list[str]) -> list[str] | None:
    """
    Class names as they are given after `--class_names`: words, or one text with commas.

    Args:
        images: the images and folders that were given before.

    Raises:
        SSPromptError: no image is left, or a name is that of a folder or an image.
    """
    if names is not None:
        taken = [name for name in names if os.path.exists(name) and (not images or os.sep in name or "." in name)]
        if taken:
            others = ",".join(name for name in names if name not in taken) or "road,car"
            raise SSPromptError(
                f"--class_names took {taken[0]!r} for a class: give the images first, as in "
                f"{taken[0]} --class_names {others}"
            )
    if not images:
        raise SSPromptError("no images: give files or folders")
    if names is None:
        return None
    split = [name.strip() for text in names for name in text.split(",")]
    return [name for name in split if name]


def training_arguments(options: argparse.Namespace) -> "SSPromptTrainingArguments":
    """
    Those of a training or an evaluation.

    Raises:
        SSPromptError: as `SSPromptTrainingArguments`; or the folders to write to cannot be any.
    """
    from ..training.arguments import SSPromptTrainingArguments

    args = build(SSPromptTrainingArguments, options)
    check_folder("--output_dir", args.output_dir)
    check_folder("--feature_cache_dir", args.feature_cache_dir)
    return args


def add_base_model(parser: argparse.ArgumentParser) -> None:
    """The option of commands that use an adapter, or a base model alone."""
    parser.add_argument(
        "--base_model",
        metavar="NAME",
        help=f"name, folder or Hub id (default: the adapter's, or {DEFAULT_BASE_MODEL})",
    )


def check_folder(flag: str, folder: str | os.PathLike | None) -> None:
    """Raises `SSPromptError` if `folder`, of an option that is not given if None, is a file or below one."""
    if folder is None:
        return
    path = Path(os.path.abspath(folder))
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if not there.is_dir():
        place = "a file" if there == path else f"below {there}, a file"
        raise SSPromptError(f"{flag} is {str(folder)!r}, which is {place}: give a folder, it is made if need be")
