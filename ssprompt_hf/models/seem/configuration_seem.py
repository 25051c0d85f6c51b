"""Configurations of SEEM and of its parts.

The family differs in its backbone, its pixel decoder and the version of its mask decoder; all of it is configuration,
none of it is a class of its own.
"""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, CLIPTextConfig, FocalNetConfig, PreTrainedConfig, SamVisionConfig
from transformers.backbone_utils import BackboneConfigMixin


def _return_all_stages(kwargs: dict, num_stages: int) -> dict:
    """Backbone arguments with the last stages' features as default output: SEEM's pixel decoders read all four."""
    if kwargs.get("out_features") is None and kwargs.get("out_indices") is None:
        kwargs["out_features"] = [f"stage{index + 1}" for index in range(num_stages)]
    return kwargs


@strict
class SeemFocalNetConfig(FocalNetConfig):
    r"""
    FocalNet as SEEM uses it. The defaults are Focal-T ("focal_dw" in the official code).

    use_depthwise_conv (`bool`, *optional*, defaults to `True`):
        Two residual depth-wise 3x3 convolutions in every layer and post-norms after the residual sum (Focal-T), or
        neither (Focal-L, with post-norms on the residual branch).
    patch_size (`int`, *optional*, defaults to 4):
        Images are zero-padded at the right and bottom to multiples of this many pixels.
    stem_kernel_size (`int`, *optional*, defaults to 7), stem_stride (`int`, *optional*, defaults to 4),
    stem_padding (`int`, *optional*, defaults to 3; 2 in Focal-L):
        The convolution that turns pixels into the first feature map. A stride of 2 (with `patch_size=2`) gives
        features of strides 2 to 16.
    """

    model_type = "seem_focalnet"

    use_conv_embed: bool = True
    depths: list[int] | tuple[int, ...] = (2, 2, 6, 2)
    focal_levels: list[int] | tuple[int, ...] = (3, 3, 3, 3)
    focal_windows: list[int] | tuple[int, ...] = (3, 3, 3, 3)
    use_post_layernorm: bool = True
    use_layerscale: bool = True
    normalize_modulator: bool = True
    drop_path_rate: float | int = 0.0
    use_depthwise_conv: bool = True
    stem_kernel_size: int = 7
    stem_stride: int = 4
    stem_padding: int = 3

    def __post_init__(self, **kwargs):
        self.hidden_sizes = [self.embed_dim * 2**index for index in range(len(self.depths))]
        super().__post_init__(**_return_all_stages(kwargs, len(self.depths)))


@strict
class SeemDavitConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    DaViT as SEEM uses it. The defaults are DaViT-d3.

    patch_size, patch_stride, patch_padding, patch_prenorm (`list`, one value a stage):
        The convolutional patch embedding before each of the four stages.
    embed_dim, num_heads, num_groups, depths (`list`, one value a stage):
        Channels, attention heads, channel groups and number of blocks (one spatial and one channel block each).
    window_size (`int`, *optional*, defaults to 7):
        Side of the windows of spatial attention, in tokens.
    """

    model_type = "seem_davit"

    in_channels: int = 3
    depths: list[int] | tuple[int, ...] = (1, 1, 9, 1)
    patch_size: list[int] | tuple[int, ...] = (7, 2, 2, 2)
    patch_stride: list[int] | tuple[int, ...] = (4, 2, 2, 2)
    patch_padding: list[int] | tuple[int, ...] = (3, 0, 0, 0)
    patch_prenorm: list[bool] | tuple[bool, ...] = (False, True, True, True)
    embed_dim: list[int] | tuple[int, ...] = (128, 256, 512, 1024)
    num_heads: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    num_groups: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 7
    drop_path_rate: float | int = 0.0
    mlp_ratio: float | int = 4.0
    qkv_bias: bool = True
    activation_function: str = "gelu"
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = [f"stage{index + 1}" for index in range(len(self.depths))]
        kwargs = _return_all_stages(kwargs, len(self.depths))
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)


@strict
class SeemSamVitConfig(BackboneConfigMixin, SamVisionConfig):
    r"""
    SAM's ViT with a simple feature pyramid in place of its neck. The defaults are ViT-B.

    feature_pyramid_channels (`list[int]`):
        Channels of the four maps that the pyramid returns, at strides 4, 8, 16 and 32 (for patches of 16 pixels).
    """

    model_type = "seem_sam_vit"

    image_size: int = 1024
    patch_size: int = 16
    feature_pyramid_channels: list[int] | tuple[int, ...] = (128, 256, 512, 1024)
    initializer_range: float = 0.02
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = [f"stage{index + 1}" for index in range(len(self.feature_pyramid_channels))]
        kwargs = _return_all_stages(kwargs, len(self.feature_pyramid_channels))
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)


@strict
class SeemEfficientNetLiteConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    EfficientNet-Lite, for small SEEM models. The defaults are Lite0.

    width_multiplier (`float`, *optional*, defaults to 1.0), depth_multiplier (`float`, *optional*, defaults to 1.0):
        What channels and numbers of blocks are multiplied by: 1.0 and 1.1 in Lite1, 1.1 and 1.2 in Lite2, 1.2 and 1.4
        in Lite3, 1.4 and 1.8 in Lite4.
    group_channels, group_depths (`list[int]`, one value for each of the seven groups of blocks):
        Channels and numbers of blocks before that. The first and the last group keep their number of blocks, and the
        stem keeps its channels, as in every Lite.
    """

    model_type = "seem_efficientnet_lite"

    num_channels: int = 3
    stem_channels: int = 32
    width_multiplier: float | int = 1.0
    depth_multiplier: float | int = 1.0
    group_channels: list[int] | tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    group_depths: list[int] | tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    expand_ratio: int = 6
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        self.stage_names = [f"stage{index + 1}" for index in range(4)]
        kwargs = _return_all_stages(kwargs, len(self.stage_names))
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Part of `@strict`-powered validation."""
        for name in ("group_channels", "group_depths"):
            if len(getattr(self, name)) != 7:
                raise ValueError(f"{name} is {getattr(self, name)}; it needs 7 values, one for each group of blocks")

    def scaled_channels(self) -> list[int]:
        """Channels of each group: multiples of eight, and not more than a tenth below what was asked for."""
        channels = []
        for asked in self.group_channels:
            asked = asked * self.width_multiplier
            rounded = max(8, int(asked + 4) // 8 * 8)
            channels.append(rounded if rounded >= 0.9 * asked else rounded + 8)
        return channels

    def scaled_depths(self) -> list[int]:
        """Number of blocks of each group."""
        first, *middle, last = self.group_depths
        return [first, *(math.ceil(depth * self.depth_multiplier) for depth in middle), last]


@strict
class SeemTextConfig(CLIPTextConfig):
    r"""
    The text encoder: CLIP's, with the layer-norm epsilon of the official code.
    """

    model_type = "seem_text"

    layer_norm_eps: float | None = 1e-12


@strict
class SeemConfig(PreTrainedConfig):
    r"""
    Configuration of a SEEM model. The defaults are SEEM with Focal-T and the v1 mask decoder (`seem-t-v1`).

    backbone_config (`dict` or `PreTrainedConfig`, *optional*):
        One of `SeemFocalNetConfig`, `SeemDavitConfig`, `SeemSamVitConfig`, `SeemEfficientNetLiteConfig`, or any
        transformers backbone that returns four feature maps.
    text_config (`dict` or `SeemTextConfig`, *optional*):
        The text encoder.
    use_text_model (`bool`, *optional*, defaults to `True`):
        Whether the model holds its text encoder. Without it, class embeddings must have been set (`class_names`) or
        be passed, and phrases cannot be used.
    use_spatial_prompt_encoder (`bool`, *optional*, defaults to `True`):
        Whether the model holds the encoder of strokes and the memory of interactive sessions.
    pixel_decoder_type (`str`, *optional*, defaults to `"fpn"`):
        `"fpn"` (FPN with a transformer on the coarsest map) or `"deformable"` (as in Mask2Former).
    decoder_version (`str`, *optional*, defaults to `"v1"`):
        `"v0"`: one object per spatial prompt, answered by a copy of all object queries. `"v1"`: several objects, each
        answered by `queries_per_object` copies.
    feature_size (`int`, *optional*, defaults to 512), mask_feature_size (`int`, *optional*, defaults to 512):
        Channels of the pixel decoder and of the mask features.
    projection_dim (`int`, *optional*, defaults to 512):
        Dimension of the space shared by queries and text, in which class scores are cosine similarities.
    num_queries (`int`, *optional*, defaults to 101):
        Number of object queries (the spatial prompts).
    num_point_tokens (`int`, *optional*):
        Points of a grid that the model was merged with; see `SeemPointTokens`. None in base models.
    num_point_coordinates (`int`, *optional*):
        The same for points that are sampled from each image; see `SeemPointCoordinates`.
    num_deep_prompts (`int`, *optional*):
        Offsets of each object query's states that the model was merged with; see `SeemDeepPrompts`. None in base
        models.
    num_class_masks (`int`, *optional*):
        Classes with a mask of their own that the model was merged with; see `SeemClassMasks`. None in base models.
    class_bias (`bool`, *optional*, defaults to `False`):
        Whether the class embeddings that the model was merged with have a bias; see `SeemClassEmbeddings`.
    prompts_per_class (`int`, *optional*, defaults to 1):
        Class embeddings of each class that the model was merged with.
    num_spatial_memories (`int`, *optional*, defaults to 32):
        Memory tokens that carry the previous mask of an interactive session.
    max_spatial_points (`int`, *optional*, defaults to 512):
        At most this many pixels of one image's strokes are looked at.
    size_divisibility (`int`, *optional*, defaults to 32):
        Images are zero-padded to multiples of this many pixels.
    known_phrases (`list[str]`, *optional*):
        All that the text encoder knows, for models with a closed vocabulary: a phrase that means none of these is told
        to be in no image. None for models with an open vocabulary.
    class_names (`list[str]`, *optional*):
        The classes whose embeddings the model holds, without the final "background".
    thing_class_ids (`list[int]`, *optional*):
        Which of them are countable; the others are stuff and are merged in panoptic results.
    object_mask_threshold (`float`, *optional*, defaults to 0.8),
    overlap_threshold (`float`, *optional*, defaults to 0.8):
        Panoptic post-processing: least class score of a segment, and least share of its mask that must stay visible.
    use_auxiliary_loss (`bool`, *optional*, defaults to `True`):
        Whether the loss for `mask_labels` and `class_labels` is summed over all decoder layers, as in Mask2Former.
    """

    model_type = "seem"
    sub_configs = {"backbone_config": AutoConfig, "text_config": SeemTextConfig}
    attribute_map = {"hidden_size": "hidden_dim", "num_hidden_layers": "decoder_layers"}

    backbone_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    use_text_model: bool = True
    use_spatial_prompt_encoder: bool = True
    pixel_decoder_type: str = "fpn"
    decoder_version: str = "v1"
    feature_size: int = 512
    mask_feature_size: int = 512
    hidden_dim: int = 512
    projection_dim: int = 512
    encoder_layers: int = 6
    encoder_feedforward_dim: int = 2048
    num_attention_heads: int = 8
    decoder_layers: int = 9
    dim_feedforward: int = 2048
    pre_norm: bool = False
    num_queries: int = 101
    num_point_tokens: int | None = None
    num_point_coordinates: int | None = None
    num_deep_prompts: int | None = None
    num_class_masks: int | None = None
    class_bias: bool = False
    prompts_per_class: int = 1
    num_spatial_memories: int = 32
    queries_per_object: int = 3
    max_spatial_points: int = 512
    size_divisibility: int = 32
    object_mask_threshold: float = 0.8
    overlap_threshold: float = 0.8
    use_auxiliary_loss: bool = True
    logit_scale_init_value: float = 2.6592
    initializer_range: float = 0.02
    prompt_templates: list[str] | None = None
    known_phrases: list[str] | None = None
    class_names: list[str] | None = None
    thing_class_ids: list[int] | None = None

    def __post_init__(self, **kwargs):
        if self.backbone_config is None:
            self.backbone_config = SeemFocalNetConfig()
        elif isinstance(self.backbone_config, dict):
            values = {"model_type": SeemFocalNetConfig.model_type, **self.backbone_config}
            self.backbone_config = AutoConfig.for_model(**values)
        if self.text_config is None:
            self.text_config = SeemTextConfig()
        elif isinstance(self.text_config, dict):
            self.text_config = SeemTextConfig(**self.text_config)
        if self.class_names is not None:
            kwargs["id2label"] = dict(enumerate(self.class_names))
            kwargs["label2id"] = {name: index for index, name in enumerate(self.class_names)}
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Part of `@strict`-powered validation."""
        if self.pixel_decoder_type not in ("fpn", "deformable"):
            raise ValueError(f"pixel_decoder_type is {self.pixel_decoder_type!r}; it must be 'fpn' or 'deformable'")
        if self.decoder_version not in ("v0", "v1"):
            raise ValueError(f"decoder_version is {self.decoder_version!r}; it must be 'v0' or 'v1'")
        if self.hidden_dim % self.num_attention_heads:
            raise ValueError(
                f"hidden_dim is {self.hidden_dim}; it must be a multiple of num_attention_heads "
                f"({self.num_attention_heads})"
            )


AutoConfig.register("seem_focalnet", SeemFocalNetConfig)
AutoConfig.register("seem_davit", SeemDavitConfig)
AutoConfig.register("seem_sam_vit", SeemSamVitConfig)
AutoConfig.register("seem_efficientnet_lite", SeemEfficientNetLiteConfig)
AutoConfig.register("seem_text", SeemTextConfig)
AutoConfig.register("seem", SeemConfig)

__all__ = [
    "SeemConfig",
    "SeemDavitConfig",
    "SeemEfficientNetLiteConfig",
    "SeemFocalNetConfig",
    "SeemSamVitConfig",
    "SeemTextConfig",
]
