"""Class names and words to the conditional embeddings that CLIPSeg's decoder reads: one vector a class."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPSegForImageSegmentation
from transformers.masking_utils import create_causal_mask

from ...errors import SSPromptError
from ...utils.names import clean_class_name


def spoken_name(name: str) -> str:
    """A class name as a phrase: without the suffixes of COCO's merged classes, underscores as spaces."""
    return clean_class_name(name).replace("_", " ")


@torch.no_grad()
def encode_texts(model: CLIPSegForImageSegmentation, texts: list[str], tokenizer: Any) -> Tensor:
    """
    What `CLIPSegProcessor` and `get_conditional_embeddings` make of each text alone, bit for bit.

    One text at a time, and so without padding: larger batches may differ by rounding, and a class must not depend on
    the others.

    Args:
        model: with its text encoder.
        texts: K of them.
        tokenizer: CLIP's.

    Returns:
        `(K, projection_dim)` in the model's dtype.

    Raises:
        SSPromptError: a text has more tokens than the text encoder reads.
    """
    limit = model.config.text_config.max_position_embeddings
    embeddings = []
    for text in texts:
        tokens = tokenizer(text, return_tensors="pt").to(model.device)
        count = tokens.input_ids.shape[1]
        if count > limit:
            raise SSPromptError(f"{text!r} has {count} tokens, but CLIPSeg reads at most {limit}: shorten it")
        embeddings.append(model.get_conditional_embeddings(1, tokens.input_ids, tokens.attention_mask))
    return torch.cat(embeddings)


def encode_embeddings(text_model: nn.Module, projection: nn.Linear, inputs_embeds: Tensor, ends: Tensor) -> Tensor:
    """
    What `get_text_features` makes of texts, from the embeddings of their words, and differentiable in them.

    `CLIPSegTextModel` takes token ids only, so this is its `forward` from its second line on. Every token looks at
    those before it alone, so that what follows the end of a text needs no mask.

    Args:
        text_model: a `CLIPSegTextModel`.
        projection: of the state at the end token.
        inputs_embeds: `(K, T, width)`.
        ends: `(K,)` int64, positions of the end tokens.

    Returns:
        `(K, projection_dim)` in the dtype of the text encoder.
    """
    states = text_model.embeddings(inputs_embeds=inputs_embeds.to(projection.weight.dtype))
    mask = create_causal_mask(
        config=text_model.config, inputs_embeds=states, attention_mask=None, past_key_values=None
    )
    states = text_model.encoder(inputs_embeds=states, attention_mask=mask, is_causal=True).last_hidden_state
    states = text_model.final_layer_norm(states)
    return projection(states[torch.arange(len(ends), device=ends.device), ends])
