"""The image encoder of SEEM: one of the three it was published with, EfficientNet-Lite, or transformers' own."""

from typing import Any

from transformers import AutoBackbone, PreTrainedConfig, PreTrainedModel

from ..configuration_seem import (
    SeemDavitConfig,
    SeemEfficientNetLiteConfig,
    SeemFocalNetConfig,
    SeemSamVitConfig,
)
from .davit import SeemDavitBackbone
from .efficientnet_lite import SeemEfficientNetLiteBackbone
from .focalnet import SeemFocalNetBackbone
from .sam_vit import SeemSamVitBackbone

NUM_FEATURE_MAPS = 4

AutoBackbone.register(SeemFocalNetConfig, SeemFocalNetBackbone)
AutoBackbone.register(SeemDavitConfig, SeemDavitBackbone)
AutoBackbone.register(SeemSamVitConfig, SeemSamVitBackbone)
AutoBackbone.register(SeemEfficientNetLiteConfig, SeemEfficientNetLiteBackbone)


def build_backbone(config: PreTrainedConfig, **kwargs: Any) -> PreTrainedModel:
    """
    Build a backbone that returns four feature maps, finest first.

    Args:
        config: configuration of any class that `transformers.AutoBackbone` knows, for instance `SeemFocalNetConfig` or
            `ConvNextV2Config(out_features=["stage1", "stage2", "stage3", "stage4"])`.
        kwargs: passed to `AutoBackbone.from_config`, for instance `attn_implementation`.

    Returns:
        A model whose `forward(pixel_values).feature_maps` are four maps `(batch, channels, height, width)`, each half
        as large as the one before; `.channels` lists their channels.

    Raises:
        ValueError: the configuration selects another number of feature maps.
    """
    if len(config.out_features) != NUM_FEATURE_MAPS:
        raise ValueError(
            f"the backbone returns {len(config.out_features)} feature maps ({config.out_features}), SEEM needs "
            f"{NUM_FEATURE_MAPS}; set `out_features` of {type(config).__name__} to four of {config.stage_names}"
        )
    return AutoBackbone.from_config(config, **kwargs)
