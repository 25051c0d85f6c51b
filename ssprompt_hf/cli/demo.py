"""`ssprompt-hf demo`: a training and its evaluation on drawn scenes, ready to run."""

import argparse
from pathlib import Path

from .options import add_fields, build, training_arguments

HELP = "learn a user's own classes in fog from 16 images, nothing to download"
TASK = "street-scenes/fog/custom"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `train`, with defaults of its own."""
    from ..training.arguments import SSPromptTrainingArguments
    from ..training.settings import DataArguments, PromptArguments

    data = {"dataset": TASK, "dataset_options": '{"num_images": 100}', "eval_split": "test"}
    add_fields(parser, "data", DataArguments, data)
    add_fields(parser, "prompts", PromptArguments, {"shots": 16})
    add_fields(parser, "training", SSPromptTrainingArguments, {"output_dir": "out/demo"})


def run(options: argparse.Namespace) -> None:
    """Run `demo`; raises as `train_adapter`. A demo that was interrupted starts anew."""
    from ..training.runs import ADAPTER, train_adapter
    from ..training.settings import DataArguments, PromptArguments

    data, prompts = build(DataArguments, options), build(PromptArguments, options)
    metrics = train_adapter(data, prompts, training_arguments(options), start_anew=True)
    if metrics:
        method = metrics["method"]
        print(
            f"{prompts.shots}-shot {method} on {data.dataset}: mean IoU {metrics['zero_shot_miou']:.1f} zero-shot, "
            f"{metrics[f'{method.lower()}_miou']:.1f} adapted, after {metrics['train_seconds']:.0f} s of training "
            f"{metrics['trainable_parameters']:,} numbers; the adapter ({metrics['adapter_bytes'] / 1000:.0f} kB) is "
            f"in {Path(options.output_dir) / ADAPTER}"
        )
