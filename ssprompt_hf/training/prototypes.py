"""Semantic prompts that start between the words and what the training images show.

A class's prototype is the mean class embedding of its pixels in the training images, as the untrained model has it.
The class prompts start at a share of the way from the default ones to the prototypes, the one at which the loss of
these images is least; 0, which is the default prompts, is among the shares that are tried. Ours, after what is done
for classifiers of few examples (Snell et al., "Prototypical networks for few-shot learning", 2017). Where class names
mean nothing to the base model, this is most of what there is to learn; where they do, the share is small.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..errors import SSPromptError
from ..models.pixel_embeddings import EmbedsPixels
from ..tuners.ssprompt.layer import SSPromptLayer
from .defaults import active_adapter_name
from .evaluator import base_model
from .examples import first_views
from .losses import label_shares

if TYPE_CHECKING:
    from ..models.interface import CachedFeatures
    from .trainer import SSPromptTrainer

SHARES = tuple(tenths / 10 for tenths in range(0, 11, 2))
Batch = tuple[dict, list["CachedFeatures"]]


class PrototypesAtStart(TrainerCallback):
    """Begins a training that does not go on from a checkpoint. `Shrinkage` has seen the default prompts before, and so
    may go back to them."""

    def __init__(self, trainer: "SSPromptTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See `TrainerCallback`."""
        if state.global_step == 0:
            self.trainer.log({"prototype_share": start_from_prototypes(self.trainer)})


@torch.no_grad()
def start_from_prototypes(trainer: "SSPromptTrainer") -> float:
    """
    Give the semantic prompts of a trainer's untrained adapter their start.

    Args:
        trainer: at the beginning of a training. At most 64 of its images are looked at, by every process all of them.

    Returns:
        the share of the way from the default prompts to the prototypes.

    Raises:
        SSPromptError: the method has no embedding `e` of classes, or the base model none of pixels.
    """
    layer, name = _class_layer(trainer.model), active_adapter_name(trainer.model)
    if layer is None:
        raise SSPromptError(
            "prototypes are where the embeddings of class prompts start, and the adapter learns none: leave "
            "prototypes out, or use the method ssprompt or semprompt"
        )
    if not isinstance(trainer.base_model, EmbedsPixels):
        raise SSPromptError(
            f"{type(trainer.base_model).__name__} embeds no pixels in the space of its semantic prompts, which "
            "therefore have no prototypes: leave prototypes out"
        )
    batches: list[Batch] = [(view, trainer.batch_features(view)) for view in first_views(trainer)]

    def loss() -> float:
        return sum(trainer.batch_losses(trainer.model, *batch).sum().item() for batch in batches)

    losses = [loss()]  # which also says what is wrong with labels
    sums = sum(_class_sums(trainer, *batch) for batch in batches)
    for share in SHARES[1:]:
        layer.start_towards(name, sums, share)
        losses.append(loss())
    best = SHARES[losses.index(min(losses))]
    layer.start_towards(name, sums, best)
    return best


def _class_layer(model: nn.Module) -> SSPromptLayer | None:
    """The layer in which the active adapter learns embeddings of classes, if it does."""
    name = active_adapter_name(model)
    for layer in model.modules():
        if isinstance(layer, SSPromptLayer) and layer.holds_classes and name in layer.ssprompt_embedding:
            is_learned = name not in layer.frozen_peft_weight_names and layer.configs[name].init_weight != 1
            return layer if is_learned else None
    return None


def can_start_from_prototypes(model: nn.Module) -> bool:
    """Whether the active adapter of a model has class prompts that prototypes are a start for: it learns their
    embeddings, from the default ones, and the base model embeds pixels in their space."""
    layer = _class_layer(model)
    if layer is None or layer.configs[active_adapter_name(model)].init_embeddings != "default":
        return False
    return isinstance(base_model(model), EmbedsPixels)


def _class_sums(trainer: "SSPromptTrainer", inputs: dict, features: list["CachedFeatures"]) -> torch.Tensor:
    """float32 `(K, D)`: the sum of the class embeddings over the pixels of each class."""
    base = trainer.base_model
    with trainer.compute_loss_context_manager():
        outputs = trainer.model(
            **base.decoder_inputs(features, trainer.args.device), image_sizes=torch.tensor(inputs["image_size"])
        )
    labels = torch.stack(inputs["label"])
    return base.class_embedding_sums(outputs, lambda size: label_shares(labels, base.num_classes(), size))
