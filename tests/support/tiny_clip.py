"""A tiny text encoder of CLIP in a folder, with its tokenizer, for base models that borrow one."""

from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer

WIDTH, PROJECTION, LENGTH = 16, 12, 40


def tiny_clip(seed: int = 0) -> CLIPTextModelWithProjection:
    """Reads bytes; with contrast enough that names differ."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=514, bos_token_id=512, eos_token_id=513, pad_token_id=513, hidden_size=WIDTH, intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=LENGTH, projection_dim=PROJECTION,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
    return model


def save_tiny_clip(folder: Path, seed: int = 0) -> str:
    tiny_clip(seed).save_pretrained(folder)
    byte_tokenizer(LENGTH).save_pretrained(folder)
    return str(folder)
