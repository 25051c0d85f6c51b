"""The sub-commands about data and adapters: `demo`, `train`, `evaluate`, `predict`, `info` and `explain`.

Their options are fields of dataclasses that are slow to import, so a parser gets them when it is first used.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from .reproduce import fill_reproduce, run_reproduce

DEMO_TASK = "street-scenes/fog/custom"

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
# What an evaluation takes and does not use; its --help leaves these out.
ONLY_FOR_TRAINING = (
    *LISTED_FOR_TRAINING,
    "semantic_loss",
    "loss_resolution",
    "auxiliary_loss",
    "random_flip",
    "shrinkage",
    "feature_cache",
    "feature_cache_dir",
    "feature_cache_gb",
    "keep_projections",
)


class LazyParser(argparse.ArgumentParser):
    """A parser that is given its arguments by `fill(parser)` when it is asked to parse."""

    fill: Callable[["LazyParser"], None] | None = None

    def parse_known_args(self, args=None, namespace=None):
        """As in `argparse`."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


def add_commands(commands: Any):
    """Add all of this module's sub-commands to what `add_subparsers` returned."""
    for name, text, fill, run in (
        (
            "demo",
            "learn a user's own classes in fog from 16 images, nothing to download",
            _fill_demo,
            run_demo,
        ),
        ("train", "learn prompts from a few labelled images", _fill_train, run_train),
        ("evaluate", "score an adapter, or a base model without one", _fill_evaluate, run_evaluate),
        ("predict", "segment images", _fill_predict, run_predict),
        ("info", "tell what an adapter holds", _fill_info, run_info),
        (
            "explain",
            "report what an adapter has learned, where it helps and where it fails",
            _fill_explain,
            run_explain,
        ),
        ("reproduce", "compute a table or figure of the paper anew", fill_reproduce, run_reproduce),
    ):
        parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.fill = fill
        parser.set_defaults(run=run)


# Dataclasses as options


def _add_fields(
    parser: argparse.ArgumentParser,
    title: str,
    cls: type,
    defaults: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    unlisted: Collection[str] = (),
    texts: dict[str, str] | None = None,
    only_given: bool = False,
):
    """Options for the fields of a dataclass, as transformers makes them; --help lists ours and the usual ones.

    Args:
        defaults: in place of those of the dataclass.
        without: fields that get no option.
        unlisted: fields that --help leaves out.
        texts: --help of fields, in place of the dataclass's.
        only_given: options that the user does not give leave no attribute behind.
    """
    from transformers import HfArgumentParser, TrainingArguments

    parser.usage = f"{parser.prog} [OPTION VALUE ...]"
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
            text = texts.get(action.dest) or cls.__dataclass_fields__[action.dest].metadata.get("help")
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


def _check_folder(flag: str, folder: str | os.PathLike | None):
    """Raises `SSPromptError` if `folder`, of an option that is not given if None, is a file or below one."""
    from ..errors import SSPromptError

    if folder is None:
        return
    path = Path(os.path.abspath(folder))
    there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
    if not there.is_dir():
        place = "a file" if there == path else f"below {there}, a file"
        raise SSPromptError(f"{flag} is {str(folder)!r}, which is {place}: give a folder, it is made if need be")


def _training_arguments(options: argparse.Namespace) -> Any:
    """
    Raises:
        SSPromptError: as `SSPromptTrainingArguments`; or the folders to write to cannot be any.
    """
    from ..training.arguments import SSPromptTrainingArguments

    args = _build(SSPromptTrainingArguments, options)
    _check_folder("--output_dir", args.output_dir)
    _check_folder("--feature_cache_dir", args.feature_cache_dir)
    return args


def _build(cls: type, options: argparse.Namespace) -> Any:
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    return cls(**{name: value for name, value in vars(options).items() if name in names})


# train, demo


def _fill_train(parser: argparse.ArgumentParser):
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments, PromptArguments

    texts = {"base_model": "name, folder or Hub id of the base model (default: seem-nano)"}
    _add_fields(parser, "data", DataArguments, texts=texts)
    _add_fields(parser, "prompts", PromptArguments)
    _add_fields(parser, "training", SSPromptTrainingArguments)
    parser.epilog = (
        "All other arguments of transformers.TrainingArguments work, too. With several processes: "
        "accelerate launch --num_processes N examples/train.py ...; without a GPU, ACCELERATE_USE_CPU=1 accelerate "
        "launch --multi_gpu --num_processes N ..."
    )


def run_train(options: argparse.Namespace):
    """
    Run `train`; raises as `train_adapter`.

    Raises:
        KeyboardInterrupt: after Ctrl-C; with a message if the run has left a checkpoint.
    """
    from ..training.checkpoints import last_complete_checkpoint
    from ..training.runs import METRICS, train_adapter
    from ..training.settings import DataArguments, PromptArguments

    data, prompts = _build(DataArguments, options), _build(PromptArguments, options)
    args, start = _training_arguments(options), time.time()
    try:
        metrics = train_adapter(data, prompts, args)
    except KeyboardInterrupt:
        checkpoint = last_complete_checkpoint(args.output_dir)
        # one that is older is of another run, unless this one went on from it
        if checkpoint is None or not (prompts.resume or os.stat(checkpoint).st_mtime >= start):
            raise
        raise KeyboardInterrupt("--resume goes on from the last checkpoint") from None
    if metrics:
        print(f"wrote {Path(options.output_dir) / METRICS} and the adapter beside it")


def _fill_demo(parser: argparse.ArgumentParser):
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments, PromptArguments

    data = {"dataset": DEMO_TASK, "dataset_options": '{"num_images": 100}', "eval_split": "test"}
    _add_fields(parser, "data", DataArguments, data)
    _add_fields(parser, "prompts", PromptArguments, {"shots": 16})
    _add_fields(parser, "training", SSPromptTrainingArguments, {"output_dir": "out/demo"})


def run_demo(options: argparse.Namespace):
    """Run `demo`; raises as `train_adapter`. A demo that was interrupted starts anew."""
    from ..training.runs import ADAPTER, train_adapter
    from ..training.settings import DataArguments, PromptArguments

    data, prompts = _build(DataArguments, options), _build(PromptArguments, options)
    metrics = train_adapter(data, prompts, _training_arguments(options), start_anew=True)
    if metrics:
        method = metrics["method"]
        print(
            f"{prompts.shots}-shot {method} on {data.dataset}: mean IoU {metrics['zero_shot_miou']:.1f} zero-shot, "
            f"{metrics[f'{method.lower()}_miou']:.1f} adapted, after {metrics['train_seconds']:.0f} s of training "
            f"{metrics['trainable_parameters']:,} numbers; the adapter ({metrics['adapter_bytes'] / 1000:.0f} kB) is "
            f"in {Path(options.output_dir) / ADAPTER}"
        )


# evaluate


def _fill_evaluate(parser: argparse.ArgumentParser):
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments

    parser.add_argument("--adapter", metavar="NAME", help="folder, Hub id or name; without it zero-shot segmentation")
    parser.add_argument(
        "--export", metavar="DIR", help="write the predictions as Cityscapes' and COCO's scripts read them"
    )
    _add_fields(parser, "data", DataArguments, unlisted=("train_split",))
    defaults = {"output_dir": "out/evaluation", "task": None}
    texts = {"task": "semantic, instance or panoptic (default: the adapter's, or semantic)"}
    _add_fields(parser, "running", SSPromptTrainingArguments, defaults, unlisted=ONLY_FOR_TRAINING, texts=texts)


def run_evaluate(options: argparse.Namespace):
    """Run `evaluate`; raises as `evaluate_adapter`."""
    from ..training.runs import METRICS, evaluate_adapter
    from ..training.settings import DataArguments

    task, options.task = options.task, options.task or "semantic"
    args = _training_arguments(options)
    _check_folder("--export", options.export)
    if evaluate_adapter(_build(DataArguments, options), options.adapter, args, options.export, task):
        print(f"wrote {Path(options.output_dir) / METRICS}")
        if options.export is not None:
            print(f"wrote the predictions to {options.export}")


# predict, info


def _fill_predict(parser: argparse.ArgumentParser):
    from ..tuners.base.config import TASKS

    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders of them")
    parser.add_argument("--adapter", metavar="NAME", help="folder, Hub id or name of an adapter")
    parser.add_argument(
        "--base_model", metavar="NAME", help="name, folder or Hub id (default: the adapter's, or seem-nano)"
    )
    parser.add_argument(
        "--class_names",
        nargs="+",
        metavar="CLASS",
        help="what to look for, without an adapter; for instances and panoptic segments each of these is a thing",
    )
    parser.add_argument("--task", choices=TASKS, help="default: the adapter's, or semantic")
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="least score of segments")
    parser.add_argument("--image_size", type=int, metavar="PIXELS", help="shorter side of the images for the model")
    parser.add_argument("--output_dir", default="out/predictions", help="folder to write to (default: %(default)s)")


def run_predict(options: argparse.Namespace):
    """
    Run `predict`: `<name>.png` (class ids, 255 for none) and `<name>-overlay.png` for every image, `segments.json`.

    Images are read, segmented and written one by one; those that cannot be read are told and left out.

    Raises:
        SSPromptError: a model, adapter or image cannot be found or read; no class names; an image would be
            overwritten; as the subclass says.
    """
    from ..data.image_inputs import image_sources
    from ..errors import NoImagesError, SSPromptError, UnreadableFileError
    from ..model import SSPromptModel
    from ..models.seem.configuration_seem import SeemConfig
    from ..models.seem.pretrained import refuse_adapter, resolve_base_model
    from ..training.runs import DEFAULT_BASE_MODEL
    from ..utils.files import atomic_path, write_json

    if options.adapter is None:
        base = options.base_model or DEFAULT_BASE_MODEL
        folder = resolve_base_model(base)
        refuse_adapter(folder)
        if options.class_names is None and SeemConfig.from_pretrained(folder).class_names is None:
            raise SSPromptError("nothing to look for: give --adapter, or --class_names")
    elif options.class_names is not None:
        raise SSPromptError("an adapter brings its own classes: leave out --class_names or --adapter")
    else:
        base = options.base_model
    output = Path(options.output_dir)
    _check_folder("--output_dir", output)
    images, _ = image_sources(options.images)
    names = _output_names(images)
    _spare_inputs(images, [file for name in names for file in _output_files(output, name)])
    model = SSPromptModel.from_pretrained(base, options.adapter, class_names=options.class_names)
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list] = {}
    unreadable: list[str] = []
    for image, name in zip(images, names):
        try:
            result = model.predict(image, options.task, threshold=options.threshold, image_size=options.image_size)
        except (UnreadableFileError, NoImagesError) as error:  # damaged, or gone since the folder was listed
            unreadable.append(image)
            if len(unreadable) == len(images):  # nothing to write
                raise
            print(f"warning: {error}", file=sys.stderr, flush=True)
            continue
        label_file, overlay_file = _output_files(output, name)
        with atomic_path(label_file) as temporary:
            result.save(temporary)
        with atomic_path(overlay_file) as temporary:
            result.overlay().save(temporary)
        found[name] = [dataclasses.asdict(segment) for segment in result.segments]
        renamed = "" if name == Path(image).stem else f" (as {label_file.name})"
        print(f"{image}{renamed}: {', '.join(segment.name for segment in result.segments[:6]) or 'nothing'}")
    write_json(output / "segments.json", found)
    print(f"wrote {len(found)} label maps and overlays to {output}")
    if unreadable:
        raise UnreadableFileError(
            f"{len(unreadable)} of {len(images)} images cannot be read: {', '.join(unreadable)}. Replace or remove "
            "them; the others are done"
        )


def _output_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Label map and overlay of an image."""
    return folder / f"{name}.png", folder / f"{name}-overlay.png"


def _output_names(images: list[str]) -> list[str]:
    """Their names without suffix, numbered where a file of an earlier image would be written over."""
    names, taken = [], set()
    for image in images:
        stem = name = Path(image).stem
        number = 0
        # in lower case, as some file systems do not tell a.png from A.png
        while taken & (files := {file.name.lower() for file in _output_files(Path(), name)}):
            number += 1
            name = f"{stem}-{number}"
        taken |= files
        names.append(name)
    return names


def _spare_inputs(images: list[str], outputs: list[Path]):
    """Raises `SSPromptError` if an output is the file of one of the images, by whatever path."""
    from ..errors import SSPromptError

    inputs = {(status.st_dev, status.st_ino) for status in map(os.stat, filter(os.path.exists, images))}
    for output in filter(os.path.exists, outputs):
        if (output.stat().st_dev, output.stat().st_ino) in inputs:
            raise SSPromptError(
                f"{output} is one of the images and would be written over: choose another --output_dir"
            )


def _fill_info(parser: argparse.ArgumentParser):
    parser.add_argument("adapter", metavar="ADAPTER", help="folder, Hub id or name of an adapter")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run_info(options: argparse.Namespace):
    """Run `info`; raises as `fetch_adapter` and `read_adapter`."""
    from ..adapters.files import fetch_adapter
    from ..adapters.info import adapter_info, describe_adapter

    info = adapter_info(fetch_adapter(options.adapter))
    print(json.dumps(info, indent=2, default=str) if options.json else describe_adapter(info))


# explain


def _fill_explain(parser: argparse.ArgumentParser):
    from ..training.settings import DataArguments

    parser.add_argument("adapter", metavar="ADAPTER", help="folder, Hub id or name of an adapter")
    parser.add_argument("--words", metavar="FILE", help="further words to compare class embeddings with, one a line")
    parser.add_argument(
        "--examples",
        type=int,
        default=3,
        metavar="N",
        help="pictures each of classes that gained, classes that lost, and failures (default: %(default)s)",
    )
    parser.add_argument("--output_dir", default="out/explain", help="folder to write to (default: %(default)s)")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    title = "data (by default what the adapter was trained on, if it is embedded)"
    _add_fields(parser, title, DataArguments, without=("train_split",))
    parser.usage = f"{parser.prog} ADAPTER [OPTION VALUE ...]"


def run_explain(options: argparse.Namespace):
    """Run `explain`; raises as `explain_adapter`."""
    from ..explain import explain_adapter
    from ..explain.run import REPORT
    from ..training.settings import DataArguments

    data = _build(DataArguments, options)
    _check_folder("--output_dir", options.output_dir)
    explain_adapter(options.adapter, data, options.output_dir, options.words, options.examples, options.use_cpu)
    print(f"wrote {Path(options.output_dir) / REPORT}")
