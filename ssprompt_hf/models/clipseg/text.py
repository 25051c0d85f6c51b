"""Class names to the conditional embeddings that CLIPSeg's decoder reads: one vector a class."""

from typing import Any

import torch
from torch import Tensor
from transformers import CLIPSegForImageSegmentation

from ...errors import SSPromptError


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
