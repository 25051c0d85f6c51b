"""Class names and words to the tokens that SAM 3's decoder reads.

`Sam3Processor` pads every text to 32 tokens; the text encoder makes a state of each, and a projection brings it to the
width of the decoder. The tokens of one class are the projected states up to its end token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, PretrainedConfig

from ...errors import SSPromptError
from ..clip_text import text_states
from ..transformers_compat import create_bidirectional_mask

PROCESSOR_LENGTH = 32
"""To so many tokens `Sam3Processor` pads a text, whatever the tokenizer says."""


def text_length(text_config: PretrainedConfig) -> int:
    """How many tokens a text has for SAM 3, with its padding. LiteText stretches its position embeddings to the length
    of the text, so that for it there is no other limit; CLIP has one embedding a position."""
    if text_config.model_type == "clip_text_model":
        return min(PROCESSOR_LENGTH, text_config.max_position_embeddings)
    return PROCESSOR_LENGTH


def tokenize(text: str, tokenizer: Any, text_config: PretrainedConfig) -> BatchEncoding:
    """
    `input_ids` and `attention_mask` `(1, L)` of one text, as `Sam3Processor` makes them.

    Raises:
        SSPromptError: the text has more tokens than the text encoder reads.
    """
    length = text_length(text_config)
    tokens = tokenizer(text, return_tensors="pt", padding="max_length", max_length=length)
    count = tokens.input_ids.shape[1]
    if count > length:
        raise SSPromptError(f"{text!r} has {count} tokens, but SAM 3 reads at most {length}: shorten it")
    return tokens


@torch.no_grad()
def encode_names(model: nn.Module, names: list[str], tokenizer: Any) -> Tensor:
    """
    What `Sam3Processor` and `get_text_features` make of each text alone, bit for bit.

    One text at a time: larger batches may differ by rounding, and a class must not depend on the others.

    Args:
        model: a `Sam3Model` with its text encoder.
        names: K texts.
        tokenizer: CLIP's.

    Returns:
        `(K, L, D)` in the model's dtype, L the number of tokens of the longest text, start and end included; a text's
        tokens come first, and rows of zeros follow.

    Raises:
        SSPromptError: a text has more tokens than the text encoder reads.
    """
    texts = []
    for name in names:
        tokens = tokenize(name, tokenizer, model.config.text_config).to(model.text_projection.weight.device)
        features = model.get_text_features(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True
        )
        texts.append(features.pooler_output[0][tokens.attention_mask[0].bool()])
    return nn.utils.rnn.pad_sequence(texts, batch_first=True)


def token_embedding(text_encoder: nn.Module) -> nn.Embedding:
    """The vocabulary `(V, width)` of CLIP's or LiteText's text encoder."""
    return getattr(text_encoder, "text_model", text_encoder).embeddings.token_embedding


def encode_embeddings(
    text_encoder: nn.Module, projection: nn.Linear, inputs_embeds: Tensor, ends: Tensor, length: int
) -> Tensor:
    """
    What `get_text_features` makes of texts, from the embeddings of their words, and differentiable in them.

    The text encoders of transformers take token ids only, so this is their `forward` from its second line on.

    Args:
        text_encoder: a `CLIPTextModelWithProjection` or a `Sam3LiteTextTextModel`.
        projection: to the width of the decoder.
        inputs_embeds: `(K, T, width)`; what follows a text's end is not looked at.
        ends: `(K,)` int64, positions of the end tokens.
        length: of texts with padding, as the processor makes them.

    Returns:
        `(K, T, D)`, zeros after the end tokens, in the dtype of the text encoder.
    """
    is_causal = hasattr(text_encoder, "text_model")  # CLIP; LiteText looks both ways
    count = inputs_embeds.shape[1]
    inputs_embeds = inputs_embeds.to(projection.weight.dtype)
    if not is_causal:
        # The convolutions of LiteText see the padding, for which the tokenizers of the published models take the end
        # token; and its position embeddings are stretched to the length with padding.
        inputs_embeds = nn.functional.pad(inputs_embeds, (0, 0, 0, length - count))
        end_words = inputs_embeds[torch.arange(len(ends), device=ends.device), ends]
        after = torch.arange(length, device=ends.device) > ends[:, None]
        inputs_embeds = torch.where(after[..., None], end_words[:, None], inputs_embeds)
    valid = torch.arange(inputs_embeds.shape[1], device=ends.device) <= ends[:, None]
    if is_causal:
        states = text_states(text_encoder.text_model, inputs_embeds, valid.long())
    else:
        states = _lite_text_states(text_encoder, inputs_embeds, valid.long())
    return (projection(states) * valid[..., None])[:, :count]


def _lite_text_states(text_encoder: nn.Module, inputs_embeds: Tensor, mask: Tensor) -> Tensor:
    positions = text_encoder.embeddings.position_embedding(inputs_embeds.shape[1])
    states = inputs_embeds + positions.to(inputs_embeds.dtype)
    mask = create_bidirectional_mask(text_encoder.config, states, mask)
    for layer in text_encoder.layers:
        states = layer(states, attention_mask=mask)
    return text_encoder.final_layer_norm(states)


def mean_token(tokens: Tensor) -> Tensor:
    """`(K, D)`: the mean over the tokens of each class of `(K, L, D)`, where rows of zeros are padding."""
    valid = (tokens != 0).any(-1, keepdim=True)
    return (tokens * valid).sum(1) / valid.sum(1).clamp(min=1)
