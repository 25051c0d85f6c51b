"""Small checkpoints in the layout of the official code, made without it: names and shapes from a configuration."""

import torch

from ssprompt_hf.models.seem.configuration_seem import SeemConfig


def tiny_config(decoder_version: str = "v0") -> SeemConfig:
    """SEEM with a focal backbone, 0.2 M parameters."""
    backbone = {"model_type": "seem_focalnet", "embed_dim": 8, "depths": [1, 1, 1, 1]}
    text = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513}
    width = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim", "dim_feedforward"), 32)
    return SeemConfig(
        backbone_config=backbone,
        text_config={**text, "model_type": "seem_text", "projection_dim": 24},
        projection_dim=24,
        encoder_layers=1,
        encoder_feedforward_dim=32,
        num_attention_heads=4,
        decoder_layers=3,
        num_queries=5,
        num_spatial_memories=4,
        decoder_version=decoder_version,
        **width,
    )


def official_shapes(config: SeemConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in the official checkpoint of a model with a Focal-T-like backbone and an FPN."""
    shapes: dict[str, tuple[int, ...]] = {"dilation_kernel": (1, 1, 3, 3), "criterion.empty_weight": (134,)}

    def layer(name, *weight, bias=True, norm=False):
        """A linear layer or convolution, or with one dimension a normalisation."""
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]
        if norm:
            layer(f"{name}.norm", weight[0])

    def attention(name, width):
        shapes[f"{name}.in_proj_weight"], shapes[f"{name}.in_proj_bias"] = (3 * width, width), (3 * width,)
        layer(f"{name}.out_proj", width, width)

    backbone = config.backbone_config
    widths = [backbone.embed_dim * 2**stage for stage in range(4)]
    layer("backbone.patch_embed.proj", widths[0], 3, 7, 7)
    layer("backbone.patch_embed.norm", widths[0])
    for stage, (width, depth, levels) in enumerate(zip(widths, backbone.depths, backbone.focal_levels)):
        layer(f"backbone.norm{stage}", width)
        if stage < 3:
            layer(f"backbone.layers.{stage}.downsample.proj", 2 * width, width, 3, 3)
            layer(f"backbone.layers.{stage}.downsample.norm", 2 * width)
        for index in range(depth):
            block = f"backbone.layers.{stage}.blocks.{index}"
            for name in ("norm1", "norm2"):
                layer(f"{block}.{name}", width)
            for name in ("dw1", "dw2"):
                layer(f"{block}.{name}", width, 1, 3, 3)
            shapes[f"{block}.gamma_1"] = shapes[f"{block}.gamma_2"] = (width,)
            layer(f"{block}.mlp.fc1", 4 * width, width)
            layer(f"{block}.mlp.fc2", width, 4 * width)
            layer(f"{block}.modulation.f", 2 * width + levels + 1, width)
            layer(f"{block}.modulation.h", width, width, 1, 1)
            layer(f"{block}.modulation.proj", width, width)
            for level in range(levels):
                size = backbone.focal_windows[stage] + 2 * level
                layer(f"{block}.modulation.focal_layers.{level}.0", width, 1, size, size, bias=False)

    pixel, size = "sem_seg_head.pixel_decoder", config.feature_size
    layer(f"{pixel}.input_proj", size, widths[3], 1, 1)
    layer(f"{pixel}.mask_features", config.mask_feature_size, size, 3, 3)
    for level in range(1, 5):
        layer(f"{pixel}.layer_{level}", size, size, 3, 3, bias=False, norm=True)
        if level < 4:
            layer(f"{pixel}.adapter_{level}", size, widths[level - 1], 1, 1, bias=False, norm=True)
    for index in range(config.encoder_layers):
        block = f"{pixel}.transformer.encoder.layers.{index}"
        attention(f"{block}.self_attn", size)
        layer(f"{block}.linear1", config.encoder_feedforward_dim, size)
        layer(f"{block}.linear2", size, config.encoder_feedforward_dim)
        layer(f"{block}.norm1", size)
        layer(f"{block}.norm2", size)

    head, size = "sem_seg_head.predictor", config.hidden_dim
    for name, rows in (
        ("query_feat", config.num_queries),
        ("query_embed", config.num_queries),
        ("level_embed", 3),
        ("pn_indicator", 2),
        ("spatial_embed", config.num_spatial_memories),
        ("spatial_featured", config.num_spatial_memories),
    ):
        layer(f"{head}.{name}", rows, size, bias=False)
    for index in range(config.decoder_layers):
        for kind, name in (("cross", "multihead_attn"), ("self", "self_attn")):
            attention(f"{head}.transformer_{kind}_attention_layers.{index}.{name}", size)
            layer(f"{head}.transformer_{kind}_attention_layers.{index}.norm", size)
        block = f"{head}.transformer_ffn_layers.{index}"
        layer(f"{block}.linear1", config.dim_feedforward, size)
        layer(f"{block}.linear2", size, config.dim_feedforward)
        layer(f"{block}.norm", size)
    layer(f"{head}.decoder_norm", size)
    for index in range(3):
        layer(f"{head}.mask_embed.layers.{index}", config.mask_feature_size if index == 2 else size, size)
        shapes[f"{head}.mask_sptial_embed.{index}"] = (size, size)
    shapes[f"{head}.class_embed"] = (size, config.projection_dim)

    head, text = f"{head}.lang_encoder", config.text_config
    shapes[f"{head}.logit_scale"] = ()
    shapes[f"{head}.lang_proj"] = (text.hidden_size, config.projection_dim)
    shapes[f"{head}.lang_encoder.positional_embedding"] = (text.max_position_embeddings, text.hidden_size)
    layer(f"{head}.lang_encoder.token_embedding", text.vocab_size, text.hidden_size, bias=False)
    layer(f"{head}.lang_encoder.ln_final", text.hidden_size)
    for index in range(text.num_hidden_layers):
        block = f"{head}.lang_encoder.resblocks.{index}"
        attention(f"{block}.attn", text.hidden_size)
        layer(f"{block}.ln_1", text.hidden_size)
        layer(f"{block}.ln_2", text.hidden_size)
        layer(f"{block}.mlp.c_fc", text.intermediate_size, text.hidden_size)
        layer(f"{block}.mlp.c_proj", text.hidden_size, text.intermediate_size)
    return shapes


def official_state_dict(config: SeemConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """A random official state dict of the model with this configuration."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in official_shapes(config).items()}
