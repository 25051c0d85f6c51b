"""A tiny SAM 2 and tracker of SAM 3: squares of 64 pixels, levels of 16 x 16, 8 x 8 and 4 x 4, masks of 16 x 16."""

import torch
from tiny_sam import DECODER, NAMES, PROMPTS, SIDE, vivid
from transformers import Sam2Config, Sam3TrackerConfig

from ssprompt_hf.models.sam2 import Sam2ForPromptedSegmentation, Sam3TrackerForPromptedSegmentation

VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 2, 2], "window_size_per_stage": [4, 2, 2, 2],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
    },
    "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}  # fmt: skip


VISION_3 = {
    "model_type": "sam3_vision_model", "fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "backbone_config": {
        "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 16, "window_size": 2, "global_attn_indexes": [1],
        "pretrain_image_size": 32,
    },
}  # fmt: skip


def tiny_config(config_class: type = Sam2Config, vision: dict = VISION, **settings):
    config = config_class(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER)
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def tiny_sam2(class_names: list[str] | None = NAMES, seed: int = 0, **settings) -> Sam2ForPromptedSegmentation:
    return visible(Sam2ForPromptedSegmentation, tiny_config(**settings), class_names, seed)


def tiny_tracker(
    class_names: list[str] | None = NAMES, seed: int = 0, **settings
) -> Sam3TrackerForPromptedSegmentation:
    config = tiny_config(Sam3TrackerConfig, VISION_3, **settings)
    return visible(Sam3TrackerForPromptedSegmentation, config, class_names, seed)


def visible(model_class: type, config, class_names: list[str] | None, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = vivid(model_class(config))
    with torch.no_grad():
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(0.1)
    if class_names is not None:
        model.set_class_names(class_names, None, [2])
    return model
