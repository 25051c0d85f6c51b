"""Activation checkpointing of a frozen base model, of which only the prompts are learned."""

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ...models.interface import PromptableModel


def checkpointed_layers(model: PromptableModel, adapted: set[str], learns_words: bool) -> list[nn.Module]:
    """
    The layers with activation checkpointing switched on that gradients of prompts pass.

    Args:
        model: the base model.
        adapted: the kinds of prompts that are learned; what can be cached meanwhile passes no gradient.
        learns_words: whether gradients pass the text encoder.
    """
    stage = model.feature_stages(adapted)[0]
    passed_by = [module for part in model.feature_modules(stage) for module in part.modules()]
    if not learns_words:
        passed_by += _text_encoder(model).modules()
    outside = set(map(id, passed_by))
    layers = (layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer))
    return [layer for layer in layers if layer.gradient_checkpointing and id(layer) not in outside]


def _text_encoder(model: PromptableModel) -> nn.Module:
    """The smallest module around the word embeddings that has layers besides; an empty one without a text encoder."""
    words = model.word_embeddings()
    path = "" if words is None else next((name for name, module in model.named_modules() if module is words), "")
    while path := path.rpartition(".")[0]:
        module = model.get_submodule(path)
        if any(isinstance(layer, GradientCheckpointingLayer) for layer in module.modules()):
            return module
    return nn.Module()
