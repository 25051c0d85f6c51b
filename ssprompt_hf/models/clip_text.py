"""CLIP's text encoder, entered with word embeddings: what SAM 3, CLIPSeg and the words of SAM and SAM 2 share."""

import torch
from torch import Tensor, nn

from ..utils.names import clean_class_name
from .transformers_compat import create_causal_mask


def spoken_name(name: str) -> str:
    """A class name as a phrase: without the suffixes of COCO's merged classes, underscores as spaces."""
    return clean_class_name(name).replace("_", " ")


def text_states(text_model: nn.Module, inputs_embeds: Tensor, mask: Tensor | None = None) -> Tensor:
    """
    The last states of a text encoder, from the embeddings of words, and differentiable in them.

    The text encoders of transformers take token ids only, so this is their `forward` from its second line on.

    Args:
        text_model: a `CLIPTextModel` or a `CLIPSegTextModel`.
        inputs_embeds: `(K, T, width)`, in the dtype of the text encoder.
        mask: `(K, T)` int64, 1 where there is a word. It may be left out: every token looks at those before it alone,
            so that what follows the end of a text changes nothing in it but rounding.

    Returns:
        `(K, T, width)`.
    """
    states = text_model.embeddings(inputs_embeds=inputs_embeds)
    mask = create_causal_mask(
        config=text_model.config, inputs_embeds=states, attention_mask=mask, past_key_values=None
    )
    states = text_model.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True).last_hidden_state
    return text_model.final_layer_norm(states)


def text_embeddings(text_model: nn.Module, projection: nn.Linear, inputs_embeds: Tensor, ends: Tensor) -> Tensor:
    """
    What `get_text_features` makes of texts, from the embeddings of their words, and differentiable in them.

    Args:
        text_model: a `CLIPTextModel` or a `CLIPSegTextModel`.
        projection: of the state at the end token.
        inputs_embeds: `(K, T, width)`.
        ends: `(K,)` int64, positions of the end tokens.

    Returns:
        `(K, projection_dim)` in the dtype of the text encoder.
    """
    states = text_states(text_model, inputs_embeds.to(projection.weight.dtype))
    return projection(states[torch.arange(len(ends), device=ends.device), ends])
