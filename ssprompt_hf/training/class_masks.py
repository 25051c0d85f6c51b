"""Where class masks begin: the linear function of pixels that tells each class of the training images from the rest.

Fitted by ridge regression in closed form, one class against all others, pixels weighted by the square root of the
inverse frequency of their class. A mask alone changes nothing: how large a share of its class's score it gets is
learned, from 0. Ours; it does for masks what prototypes do for class embeddings (`training/prototypes.py`).
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..errors import SSPromptError
from ..models.pixel_embeddings import EmbedsPixels
from ..tuners.ssprompt.layer import SSPromptLayer
from .losses import label_shares
from .shrinkage import MAX_IMAGES

if TYPE_CHECKING:
    from .trainer import SSPromptTrainer

RIDGE = 1e-3
"""Of the mean square of each feature."""
LOGITS = 5.0
"""Regression is to 1 and -1, which as logits would be masks of 0.73 and 0.27."""


def class_masks_layer(model: nn.Module) -> SSPromptLayer | None:
    """The layer with the class masks of the active adapter, if it has any."""
    name = model.active_adapters[0]
    for layer in model.modules():
        if isinstance(layer, SSPromptLayer) and name in layer.ssprompt_mask:
            return layer
    return None


@torch.no_grad()
def start_class_masks(trainer: "SSPromptTrainer") -> None:
    """
    Give the class masks of a trainer's untrained adapter their start, if it has any.

    Args:
        trainer: before a training. At most 64 of its images are looked at, by every process all of them.

    Raises:
        SSPromptError: the base model has no features that masks of classes could be made of.
    """
    layer, base = class_masks_layer(trainer.model), trainer.base_model
    if layer is None:
        return
    if not isinstance(base, EmbedsPixels):
        raise SSPromptError(f"{type(base).__name__} has no features that masks of classes are made of")

    def pixels():
        for index in range(min(len(trainer.train_examples), MAX_IMAGES)):
            inputs = trainer._prepare_inputs(trainer.data_collator([trainer.train_examples[0, index]]))
            (features,) = trainer.batch_features(inputs)
            maps = base.pixel_features(features).to(trainer.args.device)
            yield maps, label_shares(torch.stack(inputs["label"]), base.num_classes(), maps.shape[-2:])

    name = trainer.model.active_adapters[0]
    layer.set_class_masks(name, fit_class_masks(pixels).to(layer.ssprompt_mask[name]))


def fit_class_masks(pixels: Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor]]]) -> torch.Tensor:
    """
    Args:
        pixels: what gives, each time it is called, the features `(1, C, h, w)` of each image and the number of
            labelled pixels of each class in each cell, `(1, K, h, w)`.

    Returns:
        float64 `(K, C + 1)`, weights and bias; zeros for a class without pixels.
    """
    counts = sum(cells.sum(dim=(0, 2, 3)).double() for _, cells in pixels())
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    squares, sums = 0.0, 0.0
    for maps, cells in pixels():
        rows = maps[0].flatten(1).T.double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)
        wanted = cells[0].flatten(1).T.double() * weights
        total = wanted.sum(dim=1, keepdim=True)
        squares = squares + rows.T @ (rows * total)
        sums = sums + rows.T @ (2 * wanted - total)
    diagonal = squares.diagonal()
    # a feature that is 0 everywhere has weight 0
    squares = squares + torch.diag(RIDGE * diagonal + (diagonal == 0))
    found = LOGITS * torch.linalg.solve(squares, sums).T
    return torch.where((counts > 0)[:, None], found, 0.0)
