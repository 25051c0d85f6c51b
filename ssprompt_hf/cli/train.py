"""`ssprompt-hf train`."""

import argparse
import os
import time
from pathlib import Path

from ..models.registry import DEFAULT_BASE_MODEL
from .options import add_fields, build, training_arguments

HELP = "learn prompts from a few labelled images"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `train`."""
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments, PromptArguments

    parser.add_argument(
        "--dry_run", action="store_true", help="tell what would be trained, on what and at what cost; train nothing"
    )
    texts = {"base_model": f"name, folder or Hub id of the base model (default: {DEFAULT_BASE_MODEL})"}
    add_fields(parser, "data", DataArguments, texts=texts)
    add_fields(parser, "prompts", PromptArguments)
    add_fields(parser, "training", SSPromptTrainingArguments)
    parser.epilog = (
        "All other arguments of transformers.TrainingArguments work, too. With several processes: "
        "accelerate launch --num_processes N examples/train.py ...; without a GPU, ACCELERATE_USE_CPU=1 accelerate "
        "launch --multi_gpu --num_processes N ..."
    )


def run(options: argparse.Namespace) -> None:
    """
    Run `train`; raises as `train_adapter`, and with `--dry_run` as `plan_training`.

    Raises:
        KeyboardInterrupt: after Ctrl-C; with a message if the run has left a checkpoint.
    """
    from ..training.checkpoints import last_complete_checkpoint
    from ..training.plan import plan_training
    from ..training.reports import METRICS
    from ..training.runs import train_adapter
    from ..training.settings import DataArguments, PromptArguments

    data, prompts = build(DataArguments, options), build(PromptArguments, options)
    args, start = training_arguments(options), time.time()
    if options.dry_run:
        plan = plan_training(data, prompts, args)
        if args.process_index == 0:
            print(plan)
        return
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
