"""Where class masks begin: the linear function of pixels that tells each class of the training images from the rest.

Fitted by ridge regression in closed form, one class against all others, pixels weighted by the square root of the
inverse frequency of their class. A mask alone changes nothing: how large a share of its class's score it gets is
learned, from 0. Ours; it does for masks what prototypes do for class embeddings (`training/prototypes.py`).
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..errors import SSPromptError
from ..tuners.ssprompt.layer import SSPromptLayer
from .defaults import active_adapter_name
from .examples import first_views
from .losses import check_labels, label_shares

if TYPE_CHECKING:
    from .trainer import SSPromptTrainer

RIDGE = 1e-3
"""Of the mean square of each feature."""
LOGITS = 5.0
"""Regression is to 1 and -1, which as logits would be masks of 0.73 and 0.27."""
MAX_ROWS = 1 << 15
"""Pixels that are looked at together: 0.1 GiB of 512 features."""


def class_masks_layer(model: nn.Module) -> SSPromptLayer | None:
    """The layer with the class masks of the active adapter, if it has any."""
    name = active_adapter_name(model)
    for layer in model.modules():
        if isinstance(layer, SSPromptLayer) and name in layer.ssprompt_mask:
            return layer
    return None


class SharesInRange(TrainerCallback):
    """Keeps the shares of class masks from being negative, step by step."""

    def __init__(self):
        self.shares: list[nn.Parameter] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        layer = class_masks_layer(model)
        self.shares = [] if layer is None else [layer.ssprompt_share[active_adapter_name(model)]]

    @torch.no_grad()
    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        for share in self.shares:
            share.clamp_(min=0)


@torch.no_grad()
def start_class_masks(trainer: "SSPromptTrainer") -> None:
    """
    Give the class masks of a trainer's untrained adapter their start, if it has any.

    Args:
        trainer: at the beginning of a training. At most 64 of its images are looked at, by every process all of them.

    Raises:
        SSPromptError: another task than semantic segmentation, or labels with more classes than the model has.
    """
    layer, base = class_masks_layer(trainer.model), trainer.base_model
    if layer is None or trainer.train_examples is None:
        return
    if trainer.args.task != "semantic":
        raise SSPromptError(
            f"the adapter has class masks, which know no single objects, and the task is {trainer.args.task!r}: leave "
            "class_masks out"
        )
    name = active_adapter_name(trainer.model)
    mask, share = layer.ssprompt_mask[name], layer.ssprompt_share[name]
    if mask.any() or share.any():  # a training goes on, or somebody has set them
        return
    num_classes = base.num_classes()
    counts = torch.zeros(num_classes, dtype=torch.float64)
    for view in first_views(trainer):
        labels = torch.stack(view["label"])
        check_labels(labels, num_classes)
        counts += label_shares(labels, num_classes, (1, 1)).flatten().cpu()
    if not counts.any():
        return

    def pixels():
        for view in first_views(trainer):
            (features,) = trainer.batch_features(view)
            maps = base.pixel_features(features)
            yield maps, label_shares(torch.stack(view["label"]).to(maps.device), num_classes, maps.shape[-2:])

    layer.set_class_masks(name, fit_class_masks(pixels(), counts).to(mask))
    if trainer._shrinkage is not None:
        trainer._shrinkage.path.begin_at(mask)


def fit_class_masks(pixels: Iterable[tuple[torch.Tensor, torch.Tensor]], counts: torch.Tensor) -> torch.Tensor:
    """
    Args:
        pixels: the features `(1, C, h, w)` of each image, and the number of labelled pixels of each class in each
            cell, `(1, K, h, w)`.
        counts: float64 `(K,)`, the number of labelled pixels of each class in all images, of which there are some.

    Returns:
        float64 `(K, C + 1)`, weights and bias; zeros for a class without pixels.
    """
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    squares, sums = 0.0, 0.0
    for maps, cells in pixels:
        device = torch.device("cpu") if maps.device.type == "mps" else maps.device  # which has no float64
        features, classes = (tensor[0].flatten(1).T.to(device) for tensor in (maps, cells))
        labelled = classes.any(dim=1)
        for rows, wanted in zip(features[labelled].split(MAX_ROWS), classes[labelled].split(MAX_ROWS)):
            rows = torch.cat([rows.double(), rows.new_ones(len(rows), 1, dtype=torch.float64)], dim=1)
            wanted = wanted.double() * weights.to(device)
            total = wanted.sum(dim=1, keepdim=True)
            squares = squares + (rows.T @ (rows * total)).cpu()
            sums = sums + (rows.T @ (2 * wanted - total)).cpu()
    diagonal = squares.diagonal()
    # a feature that is 0 everywhere has weight 0
    squares = squares + torch.diag(RIDGE * diagonal + (diagonal == 0))
    found = LOGITS * torch.linalg.solve(squares, sums).T
    return torch.where((counts > 0)[:, None], found, 0.0)
