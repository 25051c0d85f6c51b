"""`ssprompt-hf evaluate`."""

import argparse
from pathlib import Path

from .options import LISTED_FOR_TRAINING, add_fields, build, check_folder, training_arguments

HELP = "score an adapter, or a base model without one"

# What an evaluation takes, so that the arguments of a training can be given again, and does not use or list.
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


def fill(parser: argparse.ArgumentParser):
    """The options of `evaluate`."""
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments

    parser.add_argument("--adapter", metavar="NAME", help="folder, Hub id or name; without it zero-shot segmentation")
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="write the predictions as Cityscapes' scripts (with numpy below 2.4) and COCO's read them",
    )
    add_fields(parser, "data", DataArguments, unlisted=("train_split",))
    defaults = {"output_dir": "out/evaluation", "task": None}
    texts = {"task": "semantic, instance or panoptic (default: the adapter's, or semantic)"}
    add_fields(parser, "running", SSPromptTrainingArguments, defaults, unlisted=ONLY_FOR_TRAINING, texts=texts)


def run(options: argparse.Namespace):
    """Run `evaluate`; raises as `evaluate_adapter`."""
    from ..training.runs import METRICS, evaluate_adapter
    from ..training.settings import DataArguments

    task, options.task = options.task, options.task or "semantic"
    args = training_arguments(options)
    check_folder("--export", options.export)
    if evaluate_adapter(build(DataArguments, options), options.adapter, args, options.export, task):
        print(f"wrote {Path(options.output_dir) / METRICS}")
        if options.export is not None:
            print(f"wrote the predictions to {options.export}")
