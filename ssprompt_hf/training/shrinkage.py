"""Back towards the base model: only so much of a training is kept as the training images ask for.

A few images are learned by heart, rare classes first, and the more so the further the prompts have moved. On the
straight line from the prompts that a training began with to those that it ended with, most of the gain on other images
comes early. Wortsman et al., "Robust fine-tuning of zero-shot models" (2022), take a point of this line for whole
networks. Here training images choose the point: the one nearest to the start at which their loss has risen by no more
than a given share.
"""

from collections.abc import Sequence

import torch
from torch import nn

INTERVALS = 10
# However little there was to gain, this share of it is given away at most.
MAX_LOST_GAIN = 0.4


class TrainingPath:
    """
    The straight line from what the parameters of `model` that are learned hold now to what they hold when
    `set_share` is first called.

    Args:
        model: with at least one parameter that requires a gradient.
    """

    def __init__(self, model: nn.Module):
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.start = [parameter.detach().clone() for parameter in self.parameters]
        self.end: list[torch.Tensor] | None = None

    @torch.no_grad()
    def set_share(self, share: float) -> None:
        """Give the parameters their values at `share` of the way: 0 is the start, 1 the end, both exactly."""
        if self.end is None:
            self.end = [parameter.detach().clone() for parameter in self.parameters]
        for parameter, start, end in zip(self.parameters, self.start, self.end):
            # lerp computes from the nearer end, and so gives both ends exactly
            parameter.copy_(torch.lerp(start.to(end), end, share))


def nearest_share(losses: Sequence[float], tolerance: float) -> float:
    """
    How much of the way has to be kept.

    Args:
        losses: at equally spaced shares from 0 to 1, at least two.
        tolerance: share by which the loss may be higher than at the end, as long as most of what the training gained
            is kept (`MAX_LOST_GAIN`).

    Returns:
        the smallest share from which on, up to the end, the loss (linear between the given ones) is within the
        tolerance; 1 if a loss is not finite.
    """
    if not all(torch.tensor(losses).isfinite()):
        return 1.0
    gained = max(losses[0] - losses[-1], 0.0)
    limit = losses[-1] + min(tolerance * abs(losses[-1]), MAX_LOST_GAIN * gained)
    place = len(losses) - 1
    while place > 0 and losses[place - 1] <= limit:
        place -= 1
    if place == 0:
        return 0.0
    before, here = losses[place - 1], losses[place]
    # continuous in the losses, so that rounding (of several processes, of other devices) moves the result but little
    return (place - (limit - here) / (before - here)) / (len(losses) - 1)
