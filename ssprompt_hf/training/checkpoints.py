"""What a checkpoint tells of the run that wrote it, and whether another run may go on from it."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..errors import SSPromptError
from ..utils.files import write_json
from .arguments import SSPromptTrainingArguments

logger = logging.get_logger(__name__)

SETTINGS = "training_settings.json"
DECISIVE = (
    "task",
    "semantic_loss",
    "loss_resolution",
    "auxiliary_loss",
    "random_flip",
    "seed",
    "data_seed",
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "bf16",
    "fp16",
)
"""Arguments that a run keeps to its end: another value would be ignored, or tell a lie about the first steps. Its
length is none of them, nor the number of processes as long as a step has as many images."""


def decisive_settings(args: SSPromptTrainingArguments, images: Iterable[str]) -> dict[str, Any]:
    """
    What must not change when a run goes on, ready for JSON.

    Args:
        args: of the run.
        images: names of the training images.
    """
    values = {name: getattr(args, name) for name in DECISIVE}
    values["batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    values["training_images"] = hashlib.sha256("\n".join(images).encode()).hexdigest()
    return json.loads(json.dumps(values, default=str))


def write_settings(folder: str | os.PathLike, settings: dict[str, Any]) -> None:
    """Leave `settings` in a checkpoint."""
    write_json(Path(folder, SETTINGS), settings)


def check_settings(folder: str | os.PathLike, settings: dict[str, Any]) -> None:
    """
    Raises:
        SSPromptError: the checkpoint in `folder` was written with other settings.
    """
    try:
        known = json.loads(Path(folder, SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:  # of another program
        return
    changed = [name for name, value in settings.items() if known.get(name) != value]
    if changed:
        texts = [
            "other training images" if name == "training_images" else f"{name} {known.get(name)!r}" for name in changed
        ]
        raise SSPromptError(
            f"{folder} was written with {', '.join(texts)}, and a run keeps these to its end: resume with the same, "
            "or start anew in another output_dir"
        )


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """
    The newest checkpoint that was written to its end, or None.

    The trainer's state is the last file of a checkpoint; a process killed while writing leaves it missing or cut off.
    """
    folders = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        try:
            folders.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], str(folder)))
        except (OSError, ValueError, KeyError):
            logger.warning(f"{folder} was not written to its end and is left alone")
    return max(folders)[1] if folders else None
