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


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `evaluate`."""
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments

    parser.add_argument(
        "--adapter",
        nargs="+",
        metavar="NAME",
        default=[],
        help="folder, Hub id or name; several are scored in one pass over the images; none: zero-shot",
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="write the predictions as Cityscapes' scripts (with numpy below 2.4) and COCO's read them",
    )
    add_fields(parser, "data", DataArguments, unlisted=("train_split",))
    defaults = {"output_dir": "out/evaluation", "task": None}
    texts = {"task": "semantic, instance or panoptic (default: the adapter's, or semantic)"}
    add_fields(parser, "running", SSPromptTrainingArguments, defaults, unlisted=ONLY_FOR_TRAINING, texts=texts)


def run(options: argparse.Namespace) -> None:
    """Run `evaluate`; raises as `evaluate_adapter` and `evaluate_adapters`."""
    from ..training.evaluation_runs import evaluate_adapter, evaluate_adapters
    from ..training.reports import METRICS, TABLE
    from ..training.settings import DataArguments

    task, options.task = options.task, options.task or "semantic"
    args = training_arguments(options)
    check_folder("--export", options.export)
    data, output = build(DataArguments, options), Path(options.output_dir)
    if len(options.adapter) > 1:
        metrics = evaluate_adapters(data, options.adapter, args, options.export, task)
        written = [output / TABLE, *(output / name / METRICS for name in metrics)]
    else:
        adapter = options.adapter[0] if options.adapter else None
        metrics = evaluate_adapter(data, adapter, args, options.export, task)
        written = [output / METRICS]
    if metrics:
        print("\n".join(f"wrote {path}" for path in written))
        if options.export is not None:
            print(f"wrote the predictions to {options.export}")
