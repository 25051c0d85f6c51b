"""SAM 2 as a family of base models: found, loaded, and built with random weights, as SAM is."""

from collections.abc import Callable
from typing import Any

from transformers import PretrainedConfig, Sam2Config, Sam2HieraDetConfig, Sam2VisionConfig, Sam3TrackerConfig

from ..sam.family import SamFamily
from .modeling_sam2 import Sam2ForPromptedSegmentation, Sam3TrackerForPromptedSegmentation


def _sam2_config(**backbone: Any) -> Sam2Config:
    config = Sam2HieraDetConfig(**backbone)
    channels = config.embed_dim_per_stage[::-1]
    return Sam2Config(vision_config=Sam2VisionConfig(backbone_config=config, backbone_channel_list=channels))


class Sam2Family(SamFamily):
    """See [`SamFamily`]; sizes as transformers' `convert_sam2_to_hf.py` has them."""

    name = "sam2"
    model_types = ("sam2", "sam2_video", "sam3_tracker")
    lacks = {"instances": "SAM 2 is asked for one mask a class"}
    model_classes = {
        "sam2": Sam2ForPromptedSegmentation,
        "sam2_video": Sam2ForPromptedSegmentation,
        "sam3_tracker": Sam3TrackerForPromptedSegmentation,
        # a folder of this type is a SAM 3; its tracker is asked for by name
        "sam3_video": Sam3TrackerForPromptedSegmentation,
    }
    full_size: dict[str, Callable[[], PretrainedConfig]] = {
        "sam3-tracker": lambda: Sam3TrackerConfig(),
        "sam2.1-tiny": lambda: _sam2_config(),
        "sam2.1-small": lambda: _sam2_config(blocks_per_stage=[1, 2, 11, 2], global_attention_blocks=[7, 10, 13]),
        "sam2.1-base-plus": lambda: _sam2_config(
            hidden_size=112,
            embed_dim_per_stage=[112, 224, 448, 896],
            num_attention_heads_per_stage=[2, 4, 8, 16],
            blocks_per_stage=[2, 3, 16, 3],
            global_attention_blocks=[12, 16, 20],
            window_positional_embedding_background_size=[14, 14],
        ),
        "sam2.1-large": lambda: _sam2_config(
            hidden_size=144,
            embed_dim_per_stage=[144, 288, 576, 1152],
            num_attention_heads_per_stage=[2, 4, 8, 16],
            blocks_per_stage=[2, 6, 36, 4],
            global_attention_blocks=[23, 33, 43],
            window_size_per_stage=[8, 4, 16, 8],
        ),
    }


FAMILY = Sam2Family()
