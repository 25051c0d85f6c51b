"""Back towards the base model: only so much of a training is kept as the training images ask for.

Training overfits to a few images, most of all in rare classes, and the more so the further the prompts have moved. On
the straight line from the prompts that a training began with to those that it ended with, most of the gain on other
images comes early. Wortsman et al., "Robust fine-tuning of zero-shot models" (2022), take a point of this line for
whole networks. Here training images choose the point: the one nearest to the start at which their loss has risen by no
more than a given share. For instance and panoptic segmentation, whose losses are not their scores, the point is nearer
still where the training images score much worse than at the start (`score_guard`).
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..utils.files import atomic_path
from .examples import MAX_IMAGES
from .score_guard import share_that_scores

logger = logging.get_logger(__name__)

INTERVALS = 10
# However little there was to gain, this share of it is given away at most.
MAX_LOST_GAIN = 0.6
START = "training_start.safetensors"


class TrainingPath:
    """
    The straight line from what the parameters of `model` that are learned hold now to what they hold when
    `set_share` is first called.

    Args:
        model: what is trained.
    """

    def __init__(self, model: nn.Module):
        learned = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.parameters = learned
        self.start = {name: parameter.detach().clone() for name, parameter in learned.items()}
        self.end: dict[str, torch.Tensor] | None = None

    @torch.no_grad()
    def set_share(self, share: float) -> None:
        """Give the parameters their values at `share` of the way: 0 is the start, 1 the end, both exactly."""
        if self.end is None:
            self.end = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            # lerp computes from the nearer end, and so gives both ends exactly
            end = self.end[name]
            parameter.copy_(torch.lerp(self.start[name].to(end), end, share))

    @torch.no_grad()
    def begin_at(self, parameter: nn.Parameter) -> None:
        """Let the line begin with what a parameter holds now."""
        for name, own in self.parameters.items():
            if own is parameter:
                self.start[name] = own.detach().clone()

    def save(self, folder: str) -> None:
        """Write the start into a checkpoint: whoever goes on from there need not know how the prompts began."""
        with atomic_path(os.path.join(folder, START)) as temporary:
            save_file({name: start.contiguous() for name, start in self.start.items()}, temporary)

    def load(self, folder: str) -> None:
        """Take the start from a checkpoint, if it is there and of the same parameters."""
        path = os.path.join(folder, START)
        if os.path.isfile(path):
            stored = load_file(path)
            if {name: x.shape for name, x in stored.items()} == {name: x.shape for name, x in self.start.items()}:
                self.start = {name: stored[name].to(start) for name, start in self.start.items()}


def nearest_share(losses: Sequence[float], tolerance: float) -> float:
    """
    How much of the way has to be kept.

    Args:
        losses: at equally spaced shares from 0 to 1, at least two.
        tolerance: share by which the loss may be higher than at the end, as long as some of what the training gained
            is kept (`MAX_LOST_GAIN`).

    Returns:
        the smallest share from which on, up to the end, the loss (linear between the given ones) is within the
        tolerance; 0 if the training made the loss worse, 1 if a loss is not finite or nothing changed.
    """
    first, last = losses[0], losses[-1]
    if not all(torch.tensor(losses).isfinite()) or first == last:
        return 1.0
    if first < last:
        return 0.0
    limit = last + min(tolerance * abs(last), MAX_LOST_GAIN * (first - last))
    position = len(losses) - 1
    while position > 0 and losses[position - 1] <= limit:
        position -= 1
    if position == 0:  # the first is above the limit, but for rounding
        return 0.0
    before, here = losses[position - 1], losses[position]
    return (position - (limit - here) / (before - here)) / (len(losses) - 1)


class Shrinkage(TrainerCallback):
    """
    Takes the prompts of an `SSPromptTrainer` back when training ends. As its first callback, so that all others see
    what it did; and sets its `kept_share`.
    """

    def __init__(self, trainer):
        self.trainer = trainer
        self.path = TrainingPath(trainer.model)

    def begin(self, resumed: bool) -> None:
        """A training begins, or one that was interrupted goes on."""
        self.path.end = None
        if not resumed:
            self.path = TrainingPath(self.trainer.model)
        if self.trainer.args.world_size > 1:
            self.path.start = broadcast(self.path.start)  # as torch does with the parameters themselves

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        trainer = self.trainer
        images, count = first_images(trainer, MAX_IMAGES)
        if not images:
            return
        losses = losses_along(trainer, self.path, images).tolist()
        share = nearest_share(losses, args.shrinkage / math.sqrt(count))
        if share == 0:
            logger.warning(
                f"training raised the loss of its own images from {losses[0]:.4g} to {losses[-1]:.4g} and was undone: "
                "try a smaller learning_rate (shrinkage=0 keeps what was learned)"
            )
        if share and args.task != "semantic":  # whose loss has the form of its score
            wanted, share = share, share_that_scores(trainer, self.path, share, [index for _, index in images])
            if share < wanted:
                logger.warning(
                    f"the prompts scored much worse on their own images than at the start, and went back from "
                    f"{wanted:.2f} to {share:.2f} of the way (shrinkage=0 keeps what was learned)"
                )
        self.path.set_share(share)
        trainer.kept_share = share
        trainer.log({"kept_share": round(share, 4)})


def first_images(trainer: Any, limit: int) -> tuple[list[tuple[int, int]], int]:
    """Round and index of the training images that an `SSPromptTrainer` has learned from, as each was seen first, or of
    `limit` of them; and how many they are."""
    sampler = trainer.training_sampler()
    count = min(len(trainer.train_examples), trainer.state.global_step * sampler.step_size)
    return [sampler.at(position) for position in range(0, count, math.ceil(count / limit) or 1)], count


def losses_along(trainer: Any, path: TrainingPath, images: list[tuple[int, int]]) -> torch.Tensor:
    """float64 `(INTERVALS + 1,)`: the mean loss of images at equally spaced shares of the way. The frozen part runs
    once an image; afterwards the prompts are at the end of the way."""
    args = trainer.args
    mine = images[args.process_index :: args.world_size]
    sums = torch.zeros(INTERVALS + 1, dtype=torch.float64)
    path.set_share(1.0)  # also where a process has no image
    try:
        for first in range(0, len(mine), args.train_batch_size):
            examples = [trainer.train_examples[image] for image in mine[first : first + args.train_batch_size]]
            inputs = trainer._prepare_inputs(trainer.data_collator(examples))
            features = trainer.batch_features(inputs)
            for point in reversed(range(INTERVALS + 1)):
                path.set_share(point / INTERVALS)
                with torch.no_grad(), trainer.compute_loss_context_manager():
                    sums[point] += trainer.batch_losses(trainer.model, inputs, features).sum().cpu()
    finally:
        path.set_share(1.0)
    if args.world_size > 1:
        sums = trainer.accelerator.reduce(sums.to(args.device, torch.float32), "sum").cpu()
    return sums / len(images)
