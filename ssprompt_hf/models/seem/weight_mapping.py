"""Names and shapes of the official SEEM checkpoints, in terms of this package.

Each part of the model has an ordered list of `(pattern, replacement)` rules; the first pattern that matches the whole
rest of an official name gives our name. Braces in a replacement name the equal parts into which the tensor is split
along its first axis: `self_attn.{q_proj,k_proj,v_proj}.weight` takes a packed `in_proj_weight` apart. A final `^T`
transposes the matrix: the official code multiplies by it from the right where we have a linear layer.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from .configuration_seem import SeemConfig, SeemDavitConfig, SeemFocalNetConfig, SeemSamVitConfig, SeemTextConfig

Rules = tuple[tuple[str, str], ...]

# Tensors of official checkpoints that are no part of the model. They may be there or not.
UNUSED_OFFICIAL_NAMES = (
    r"criterion\..+",  # class weights of the training loss
    r"dilation_kernel",  # a constant: grows simulated strokes in training
    r"pixel_(mean|std)",  # constants: our image processor has them
    # Captioning in X-Decoder, whose checkpoints SEEM's training starts from; SEEM's decoder does not use it.
    r"sem_seg_head\.predictor\.(caping_embed|pos_embed_caping\.weight|self_attn_mask)",
)

FOCALNET_RULES: Rules = (
    (r"patch_embed\.proj\.(\w+)", r"embeddings.projection.\1"),
    (r"patch_embed\.norm\.(\w+)", r"embeddings.norm.\1"),
    (r"norm0\.(\w+)", r"hidden_states_norms.stage1.\1"),
    (r"norm1\.(\w+)", r"hidden_states_norms.stage2.\1"),
    (r"norm2\.(\w+)", r"hidden_states_norms.stage3.\1"),
    (r"norm3\.(\w+)", r"hidden_states_norms.stage4.\1"),
    (r"layers\.(\d+)\.downsample\.proj\.(\w+)", r"stages.\1.downsample.projection.\2"),
    (r"layers\.(\d+)\.downsample\.norm\.(\w+)", r"stages.\1.downsample.norm.\2"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.modulation\.f\.(\w+)", r"stages.\1.layers.\2.modulation.projection_in.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.modulation\.h\.(\w+)", r"stages.\1.layers.\2.modulation.projection_context.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.modulation\.proj\.(\w+)", r"stages.\1.layers.\2.modulation.projection_out.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.modulation\.ln\.(\w+)", r"stages.\1.layers.\2.modulation.layernorm.\3"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.dw([12])\.(\w+)", r"stages.\1.layers.\2.depthwise_conv\3.\4"),
    (r"layers\.(\d+)\.blocks\.(.+)", r"stages.\1.layers.\2"),
)

DAVIT_RULES: Rules = (
    (r"convs\.(\d+)\.proj\.(\w+)", r"convs.\1.conv.\2"),
    (r"convs\.(\d+)\.norm\.(\w+)", r"convs.\1.norm.\2"),
    (r"(blocks\.\d+\.\d+\.\w+_block\.conv[12])\.fn\.dw\.(\w+)", r"\1.\2"),
    (r"(blocks\.\d+\.\d+\.\w+_block)\.(?:window|channel)_attn\.norm\.(\w+)", r"\1.norm1.\2"),
    (r"(blocks\.\d+\.\d+\.\w+_block\.(?:window|channel)_attn)\.fn\.(.+)", r"\1.\2"),
    (r"(blocks\.\d+\.\d+\.\w+_block)\.ffn\.norm\.(\w+)", r"\1.norm2.\2"),
    (r"(blocks\.\d+\.\d+\.\w+_block\.ffn)\.fn\.net\.(.+)", r"\1.\2"),
)

SAM_VIT_RULES: Rules = (
    (r"pos_embed", r"pos_embed"),
    (r"patch_embed\.proj\.(\w+)", r"patch_embed.projection.\1"),
    (r"blocks\.(\d+)\.norm([12])\.(\w+)", r"layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.(attn|mlp)\.(.+)", r"layers.\1.\2.\3"),
    (r"neck\.down_4\.(.+)", r"feature_pyramid.levels.0.\1"),
    (r"neck\.down_8\.(.+)", r"feature_pyramid.levels.1.\1"),
    (r"neck\.down_16\.(.+)", r"feature_pyramid.levels.2.\1"),
    (r"neck\.down_32\.(.+)", r"feature_pyramid.levels.3.\1"),
)

# The official code counts FPN levels from 1, finest first.
FPN_RULES: Rules = (
    (r"input_proj\.(\w+)", r"input_projection.\1"),
    (r"mask_features\.(\w+)", r"mask_projection.\1"),
    *((rf"adapter_{level + 1}\.norm\.(\w+)", rf"lateral_layers.{level}.norm.\1") for level in range(3)),
    *((rf"adapter_{level + 1}\.(\w+)", rf"lateral_layers.{level}.conv.\1") for level in range(3)),
    *((rf"layer_{level + 1}\.norm\.(\w+)", rf"output_layers.{level}.norm.\1") for level in range(4)),
    *((rf"layer_{level + 1}\.(\w+)", rf"output_layers.{level}.conv.\1") for level in range(4)),
    (
        r"transformer\.encoder\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)",
        r"encoder.layers.\1.self_attn.{q_proj,k_proj,v_proj}.\2",
    ),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(\w+)", r"encoder.layers.\1.self_attn.out_proj.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.(\w+)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.(\w+)", r"encoder.layers.\1.final_layer_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.linear([12])\.(\w+)", r"encoder.layers.\1.fc\2.\3"),
    (r"transformer\.encoder\.norm\.(\w+)", r"encoder.layer_norm.\1"),
)

DEFORMABLE_RULES: Rules = (
    (r"input_proj\.(\d+)\.(\d+)\.(\w+)", r"input_projections.\1.\2.\3"),
    (r"mask_features\.(\w+)", r"mask_projection.\1"),
    (r"(adapter|layer)_(\d+)\.norm\.(\w+)", r"\1_\2.1.\3"),
    (r"(adapter|layer)_(\d+)\.(\w+)", r"\1_\2.0.\3"),
    (r"transformer\.level_embed", r"level_embed"),
    (r"transformer\.encoder\.layers\.(\d+)\.self_attn\.(.+)", r"encoder.layers.\1.self_attn.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm1\.(\w+)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.norm2\.(\w+)", r"encoder.layers.\1.final_layer_norm.\2"),
    (r"transformer\.encoder\.layers\.(\d+)\.linear([12])\.(\w+)", r"encoder.layers.\1.fc\2.\3"),
)

# In the official code the prompts belong to the mask decoder.
MASK_DECODER_RULES: Rules = (
    (r"query_feat\.weight", r"object_queries.weight"),
    (r"query_embed\.weight", r"mask_decoder.query_positions"),
    (r"level_embed\.weight", r"mask_decoder.level_embeddings"),
    (r"input_proj\.(\d+)\.(\w+)", r"mask_decoder.input_projections.\1.\2"),
    (r"decoder_norm\.(\w+)", r"mask_decoder.norm.\1"),
    (r"mask_embed\.(.+)", r"mask_decoder.mask_embedder.\1"),
    (r"class_embed", r"mask_decoder.class_projection.weight^T"),
    (
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.in_proj_(weight|bias)",
        r"mask_decoder.layers.\1.cross_attention.{q_proj,k_proj,v_proj}.\2",
    ),
    (
        r"transformer_cross_attention_layers\.(\d+)\.multihead_attn\.out_proj\.(\w+)",
        r"mask_decoder.layers.\1.cross_attention.out_proj.\2",
    ),
    (
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.in_proj_(weight|bias)",
        r"mask_decoder.layers.\1.self_attention.{q_proj,k_proj,v_proj}.\2",
    ),
    (
        r"transformer_self_attention_layers\.(\d+)\.self_attn\.out_proj\.(\w+)",
        r"mask_decoder.layers.\1.self_attention.out_proj.\2",
    ),
    (
        r"transformer_(cross|self)_attention_layers\.(\d+)\.norm\.(\w+)",
        r"mask_decoder.layers.\2.\1_attention_norm.\3",
    ),
    (r"transformer_ffn_layers\.(\d+)\.linear([12])\.(\w+)", r"mask_decoder.layers.\1.fc\2.\3"),
    (r"transformer_ffn_layers\.(\d+)\.norm\.(\w+)", r"mask_decoder.layers.\1.feedforward_norm.\2"),
    (r"mask_sptial_embed\.(\d+)", r"spatial_prompt_encoder.projections.\1.weight^T"),
    (r"pn_indicator\.weight", r"spatial_prompt_encoder.polarity"),
    (r"spatial_featured\.weight", r"memory_features"),
    (r"spatial_embed\.weight", r"memory_positions"),
)

_TEXT_LAYER = r"lang_encoder\.resblocks\.(\d+)\."
TEXT_RULES: Rules = (
    (r"logit_scale", r"logit_scale"),
    (r"lang_proj", r"text_model.projection.weight^T"),
    (r"lang_encoder\.token_embedding\.weight", r"text_model.text_encoder.embeddings.token_embedding.weight"),
    (r"lang_encoder\.positional_embedding", r"text_model.text_encoder.embeddings.position_embedding.weight"),
    (r"lang_encoder\.ln_final\.(\w+)", r"text_model.text_encoder.final_layer_norm.\1"),
    (
        _TEXT_LAYER + r"attn\.in_proj_(weight|bias)",
        r"text_model.text_encoder.encoder.layers.\1.self_attn.{q_proj,k_proj,v_proj}.\2",
    ),
    (_TEXT_LAYER + r"attn\.out_proj\.(\w+)", r"text_model.text_encoder.encoder.layers.\1.self_attn.out_proj.\2"),
    (_TEXT_LAYER + r"ln_([12])\.(\w+)", r"text_model.text_encoder.encoder.layers.\1.layer_norm\2.\3"),
    (_TEXT_LAYER + r"mlp\.c_fc\.(\w+)", r"text_model.text_encoder.encoder.layers.\1.mlp.fc1.\2"),
    (_TEXT_LAYER + r"mlp\.c_proj\.(\w+)", r"text_model.text_encoder.encoder.layers.\1.mlp.fc2.\2"),
)

BACKBONE_RULES = {"seem_focalnet": FOCALNET_RULES, "seem_davit": DAVIT_RULES, "seem_sam_vit": SAM_VIT_RULES}
PIXEL_DECODER_RULES = {"fpn": FPN_RULES, "deformable": DEFORMABLE_RULES}


def official_parts(config: SeemConfig) -> tuple[tuple[str, str, Rules], ...]:
    """The parts of the model: (official prefix, our prefix, rules) of each; the first prefix that fits holds."""
    return (
        ("backbone.", "model.backbone.", BACKBONE_RULES[config.backbone_config.model_type]),
        ("sem_seg_head.pixel_decoder.", "model.pixel_decoder.", PIXEL_DECODER_RULES[config.pixel_decoder_type]),
        ("sem_seg_head.predictor.lang_encoder.", "model.", TEXT_RULES),
        ("sem_seg_head.predictor.", "model.", MASK_DECODER_RULES),
    )


@dataclass(frozen=True)
class TensorMapping:
    """
    What becomes of one official tensor.

    Args:
        names: our names; several if the tensor is split into that many equal parts along its first axis, none if it is
            no part of the model.
        transposed: whether the matrix is to be transposed (before it is split).
    """

    names: tuple[str, ...] = ()
    transposed: bool = False

    def shape(self, official_shape: Iterable[int]) -> tuple[int, ...]:
        """Shape of each part, given the official shape."""
        shape = tuple(official_shape)
        if self.transposed:
            shape = shape[::-1]
        # Not divisible by the number of parts: no shape can match, which the caller will report.
        return (shape[0] // len(self.names), *shape[1:]) if len(self.names) > 1 and shape else shape

    def apply(self, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Our (name, tensor) pairs; views of `tensor`."""
        if not self.names:
            return
        if self.transposed:
            tensor = tensor.T
        yield from zip(self.names, tensor.chunk(len(self.names)) if len(self.names) > 1 else (tensor,))


def map_official_name(name: str, config: SeemConfig) -> TensorMapping:
    """
    Our names for the official tensor `name`.

    Args:
        name: name in an official state dict, such as `"backbone.layers.0.blocks.0.dw1.weight"`.
        config: the `SeemConfig` of the model; it decides which rules hold.

    Raises:
        KeyError: no rule knows the name.
    """
    if any(re.fullmatch(pattern, name) for pattern in UNUSED_OFFICIAL_NAMES):
        return TensorMapping()
    for official_prefix, prefix, rules in official_parts(config):
        if not name.startswith(official_prefix):
            continue
        rest = name[len(official_prefix) :]
        for pattern, replacement in rules:
            match = re.fullmatch(pattern, rest)
            if match is not None:
                ours = match.expand(prefix + replacement)
                return TensorMapping(tuple(_expand_braces(ours.removesuffix("^T"))), ours.endswith("^T"))
    raise KeyError(name)


def map_official_tensors(
    tensors: Iterable[tuple[str, torch.Tensor]], config: SeemConfig
) -> Iterator[tuple[str, torch.Tensor]]:
    """Rename, split, transpose and drop official tensors, one at a time; raises as `map_official_name`."""
    for name, tensor in tensors:
        yield from map_official_name(name, config).apply(tensor)


def _expand_braces(name: str) -> list[str]:
    head, brace, rest = name.partition("{")
    if not brace:
        return [name]
    choices, _, tail = rest.partition("}")
    return [head + choice + tail for choice in choices.split(",")]


def config_from_official(hyperparameters: dict, vocab_size: int | None = None) -> SeemConfig:
    """
    Configuration of a model of the official code.

    Args:
        hyperparameters: its settings under the names of the official classes' arguments: `decoder_version`,
            `backbone`, `backbone_options`, `pixel_decoder`, `conv_dim`, `mask_dim`, `encoder_layers`, `hidden_dim`,
            `num_object_queries`, `nheads`, `dim_feedforward`, `decoder_layers`, `pre_norm`, `projection_dim`, `text`
            (`width`, `layers`, `heads`, `context_length`) and `size_divisibility`; optionally `max_spatial_len`,
            `spatial_memories`, `queries_per_stroke`, `object_mask_threshold` and `overlap_threshold`.
        vocab_size: of the tokenizer, if it is not CLIP's: the official code takes it from there.

    Raises:
        KeyError: a setting without a default is missing.
        ValueError: a setting has no counterpart here.
    """
    options = hyperparameters
    pixel_decoders = {"transformer_encoder_fpn": "fpn", "transformer_encoder_deform": "deformable"}
    if options["pixel_decoder"] not in pixel_decoders:
        raise ValueError(f"unknown official pixel decoder {options['pixel_decoder']!r}; known: {list(pixel_decoders)}")
    text = options["text"]
    # CLIP's start and end tokens are the last two of the vocabulary.
    vocabulary = {}
    if vocab_size is not None:
        vocabulary = {"vocab_size": vocab_size, "bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1}
    text_config = SeemTextConfig(
        hidden_size=text["width"],
        intermediate_size=4 * text["width"],
        num_hidden_layers=text["layers"],
        num_attention_heads=text["heads"],
        max_position_embeddings=text["context_length"],
        projection_dim=options["projection_dim"],
        **vocabulary,
    )
    return SeemConfig(
        backbone_config=backbone_config_from_official(options["backbone"], options["backbone_options"]),
        text_config=text_config,
        pixel_decoder_type=pixel_decoders[options["pixel_decoder"]],
        decoder_version=options["decoder_version"],
        feature_size=options["conv_dim"],
        mask_feature_size=options["mask_dim"],
        hidden_dim=options["hidden_dim"],
        projection_dim=options["projection_dim"],
        encoder_layers=options["encoder_layers"],
        num_attention_heads=options["nheads"],
        decoder_layers=options["decoder_layers"],
        dim_feedforward=options["dim_feedforward"],
        # A constant of the official deformable encoder; the other one is as wide as the decoder.
        encoder_feedforward_dim=1024 if options["pixel_decoder"].endswith("deform") else options["dim_feedforward"],
        pre_norm=options["pre_norm"],
        num_queries=options["num_object_queries"],
        num_spatial_memories=options.get("spatial_memories", 32),
        queries_per_object=options.get("queries_per_stroke", 3),
        # The official code has one limit per feature level, all equal in every published model.
        max_spatial_points=max(options.get("max_spatial_len", [512])),
        size_divisibility=options["size_divisibility"],
        object_mask_threshold=options.get("object_mask_threshold", 0.8),
        overlap_threshold=options.get("overlap_threshold", 0.8),
    )


def backbone_config_from_official(name: str, options: dict) -> SeemFocalNetConfig | SeemDavitConfig | SeemSamVitConfig:
    """
    Configuration of an official backbone.

    Args:
        name: the official name: `"focal"` (FocalNet), `"focal_dw"` (with depth-wise convolutions), `"davit"`, `"vit"`.
        options: the backbone's section of the official YAML file, with lower-case keys.

    Raises:
        ValueError: the name is not one of the four, or an option has no counterpart here.
    """
    # Stochastic depth is a setting of pretraining; a converted model is to be adapted with a frozen backbone.
    if name in ("focal", "focal_dw"):
        if not options.get("patch_norm", True):
            raise ValueError("patch_norm is False; only FocalNets with a norm after the patch embedding can be built")
        patch_size = options.get("patch_size", 4)
        overlapping = options.get("use_conv_embed", False)
        return SeemFocalNetConfig(
            embed_dim=options["embed_dim"],
            depths=list(options["depths"]),
            focal_levels=list(options["focal_levels"]),
            focal_windows=list(options["focal_windows"]),
            mlp_ratio=options.get("mlp_ratio", 4.0),
            hidden_dropout_prob=options.get("drop_rate", 0.0),
            patch_size=patch_size,
            use_conv_embed=overlapping,
            stem_kernel_size=7 if overlapping else patch_size,
            stem_stride=4 if overlapping else patch_size,
            stem_padding=(3 if name == "focal_dw" else 2) if overlapping else 0,
            normalize_modulator=options.get("scaling_modulator", False),
            use_post_layernorm=options.get("use_postln", False),
            use_post_layernorm_in_modulation=options.get("use_postln_in_modulation", False),
            use_layerscale=options.get("use_layerscale", False),
            use_depthwise_conv=name == "focal_dw",
        )
    if name == "davit":
        if not (options.get("conv_at_attn", True) and options.get("conv_at_ffn", True)):
            raise ValueError(
                "conv_at_attn and conv_at_ffn must be True: DaViT without its convolutions is not supported"
            )
        return SeemDavitConfig(
            embed_dim=list(options["dim_embed"]),
            depths=list(options["depths"]),
            num_heads=list(options["num_heads"]),
            num_groups=list(options["num_groups"]),
            patch_size=list(options["patch_size"]),
            patch_stride=list(options["patch_stride"]),
            patch_padding=list(options["patch_padding"]),
            patch_prenorm=list(options["patch_prenorm"]),
            window_size=options.get("window_size", 7),
        )
    if name == "vit":
        return SeemSamVitConfig(**_sam_vit_sizes(options))
    raise ValueError(f"unknown official backbone {name!r}; it must be 'focal', 'focal_dw', 'davit' or 'vit'")


def _sam_vit_sizes(options: dict) -> dict:
    published = {
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
        "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
    }
    renamed = {"embed_dim": "hidden_size", "depth": "num_hidden_layers", "num_heads": "num_attention_heads"}
    same = ("global_attn_indexes", "window_size", "image_size", "patch_size", "feature_pyramid_channels", "mlp_ratio")
    sizes = dict(published.get(options.get("size"), {}))
    sizes.update({renamed.get(key, key): value for key, value in options.items() if key in renamed or key in same})
    missing = [key for key in ("hidden_size", "num_hidden_layers", "num_attention_heads") if key not in sizes]
    if missing:
        raise ValueError(
            f"size {options.get('size')!r} is not one of {list(published)}, so options must give {missing}"
        )
    # Four global layers, at the end of each quarter, in all published sizes.
    quarter = sizes["num_hidden_layers"] // 4
    sizes.setdefault("global_attn_indexes", [quarter * (i + 1) - 1 for i in range(4)])
    return sizes
