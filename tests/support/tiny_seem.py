"""Small models of every architecture, and inputs for them."""

import torch
from prompted_seem import small_seem
from torch.nn import functional as F
from transformers import ResNetConfig

from ssprompt_hf.models.seem.configuration_seem import SeemSamVitConfig

FOCAL = {"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]}
ARCHITECTURES = {
    "focal-dw-v0": {"decoder_version": "v0"},
    "focal-v1": {"backbone_config": FOCAL | {"use_depthwise_conv": False, "stem_padding": 2}},
    "davit-v1": {
        "backbone_config": {
            "model_type": "seem_davit", "embed_dim": [8, 16, 32, 64], "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 4, 8], "num_groups": [1, 2, 4, 8],
        },
    },
    "sam-vit-v1": {
        "backbone_config": SeemSamVitConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, global_attn_indexes=[1], window_size=3,
            image_size=128, feature_pyramid_channels=[16, 32, 64, 128],
        ),
        "pixel_decoder_type": "deformable",
    },
    "resnet-v1": {
        "backbone_config": ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1] * 4, layer_type="basic",
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
    },
}  # fmt: skip


def tiny_seem(architecture: str, **config):
    """With five decoder layers, so that levels come again, and four memories, in float64."""
    settings = {"decoder_layers": 5, "num_spatial_memories": 4, **ARCHITECTURES[architecture], **config}
    return small_seem(**settings).double()


def images(count: int = 2, size=(64, 96), seed: int = 0) -> torch.Tensor:
    """`(count, 3, *size)`, float64, with structure at all scales."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = (
        torch.randn(count, 3, size[0] // step, size[1] // step, generator=generator, dtype=torch.float64)
        for step in (16, 2)
    )
    return F.interpolate(2 * coarse, size=size, mode="bilinear") + F.interpolate(fine, size=size) / 2


def phrases(*rows: list[list[int]]) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` `(B, phrases, T)` of phrases given by their inner token ids; missing phrases
    are all padding."""
    number, length = max(map(len, rows)), max(len(phrase) for row in rows for phrase in row) + 2
    ids = torch.ones(len(rows), number, length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, phrase_ids in enumerate(rows):
        for column, inner in enumerate(phrase_ids):
            whole = torch.tensor([0, *inner, 49])
            ids[row, column, : len(whole)], mask[row, column, : len(whole)] = whole, 1
    return {"input_ids": ids, "attention_mask": mask}


def strokes(batch_size: int = 2, num_objects: int = 1, size=(64, 96), seed: int = 0) -> dict[str, torch.Tensor]:
    """Boxes of a few pixels, one positive and one negative an object; not the same number of pixels in every one."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(2, batch_size, num_objects, *size, dtype=torch.bool)
    for mask in masks.flatten(0, 2):
        height, width = torch.randint(2, 5, (2,), generator=generator).tolist()
        top, left = (int(torch.randint(0, side - 5, (1,), generator=generator)) for side in size)
        mask[top : top + height, left : left + width] = True
    return {"positive_prompt_masks": masks[0], "negative_prompt_masks": masks[1]}
