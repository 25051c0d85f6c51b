"""The architectures of the official SEEM models."""

import copy

from ...errors import UnknownNameError
from ..registry import BASE_MODELS
from .configuration_seem import SeemConfig

TOKENIZER_REPO = "openai/clip-vit-base-patch32"
"""The tokenizer of the official text encoder, which the checkpoints do not contain."""

# From the `MODEL.BACKBONE` sections of the official `configs/seem/*.yaml`; everything else is equal across the family.
_FOCAL_T = {
    "model_type": "seem_focalnet",
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "focal_levels": [3, 3, 3, 3],
    "focal_windows": [3, 3, 3, 3],
    "use_depthwise_conv": True,
    "stem_padding": 3,
}
_FOCAL_L = {
    "model_type": "seem_focalnet",
    "embed_dim": 192,
    "depths": [2, 2, 18, 2],
    "focal_levels": [4, 4, 4, 4],
    "focal_windows": [3, 3, 3, 3],
    "use_depthwise_conv": False,
    "stem_padding": 2,
}
_DAVIT_D3 = {
    "model_type": "seem_davit",
    "patch_size": [7, 2, 2, 2],
    "patch_padding": [3, 0, 0, 0],
    "embed_dim": [128, 256, 512, 1024],
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
    "depths": [1, 1, 9, 1],
}
_DAVIT_D5 = {
    "model_type": "seem_davit",
    "patch_size": [7, 3, 3, 3],
    "patch_padding": [3, 1, 1, 1],
    "embed_dim": [256, 512, 1024, 2048],
    "num_heads": [8, 16, 32, 64],
    "num_groups": [8, 16, 32, 64],
    "depths": [1, 1, 9, 1],
}
_SAM_VIT_B = {
    "model_type": "seem_sam_vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "global_attn_indexes": [2, 5, 8, 11],
}
_SAM_VIT_L = {
    "model_type": "seem_sam_vit",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "global_attn_indexes": [5, 11, 17, 23],
}
_SAM = {
    "decoder_version": "v1",
    "pixel_decoder_type": "deformable",
    "encoder_feedforward_dim": 1024,
    "size_divisibility": 1024,
}

ARCHITECTURES: dict[str, dict] = {
    "seem-t": {"backbone_config": _FOCAL_T, "decoder_version": "v0"},
    "seem-t-v1": {"backbone_config": _FOCAL_T, "decoder_version": "v1"},
    "seem-l": {"backbone_config": _DAVIT_D3, "decoder_version": "v1"},
    "seem-davit-d5": {"backbone_config": _DAVIT_D5, "decoder_version": "v1"},
    "seem-focal-l": {"backbone_config": _FOCAL_L, "decoder_version": "v0"},
    "seem-focal-l-v1": {"backbone_config": _FOCAL_L, "decoder_version": "v1"},
    "seem-sam-vit-b": {"backbone_config": _SAM_VIT_B, **_SAM},
    "seem-sam-vit-l": {"backbone_config": _SAM_VIT_L, **_SAM},
}
"""Arguments of `SeemConfig` that differ from its defaults, by name."""


def convertible_names() -> list[str]:
    """Names whose architecture is an official one, so that an official checkpoint can be converted to it."""
    return [name for name in ARCHITECTURES if name in BASE_MODELS]


def base_model_config(name: str) -> SeemConfig:
    """
    The architecture of an official model.

    Raises:
        UnknownNameError: `name` is not the name of an official model; the message lists those names.
    """
    names = convertible_names()
    if name not in names:
        raise UnknownNameError(f"{name!r} is not the name of an official SEEM model; choose one of {', '.join(names)}")
    # A copy: configurations may change the dictionaries they are built from.
    return SeemConfig(**copy.deepcopy(ARCHITECTURES[name]))
