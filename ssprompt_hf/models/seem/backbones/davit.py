"""DaViT as a backbone: transformers' blocks (they serve Florence-2), with the output of every stage.

Source: "DaViT: Dual Attention Vision Transformers" (Ding et al., 2022).
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput

from ...transformers_compat import Florence2VisionBlock, Florence2VisionConvEmbed, can_return_tuple, replace_modules
from ..configuration_seem import SeemDavitConfig


class SeemDavitConv2d(nn.Conv2d):
    """Computes in float32 if its weights are float16, whose range the sums along DaViT's trunk can leave."""

    @classmethod
    def like(cls, old: nn.Conv2d) -> "SeemDavitConv2d":
        """One for the parameters of `old`."""
        return cls(old.in_channels, old.out_channels, old.kernel_size, padding=old.padding, groups=old.groups)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.weight.dtype != torch.float16:
            return super().forward(hidden_states)
        return self._conv_forward(hidden_states.float(), self.weight.float(), self.bias.float())


class SeemDavitLayerNorm(nn.LayerNorm):
    """Takes a trunk of higher precision than its weights, and returns theirs."""

    @classmethod
    def like(cls, old: nn.LayerNorm) -> "SeemDavitLayerNorm":
        """One for the parameters of `old`."""
        return cls(old.normalized_shape, eps=old.eps)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        dtype = hidden_states.dtype
        if dtype == self.weight.dtype:
            return super().forward(hidden_states)
        weight, bias = self.weight.to(dtype), self.bias.to(dtype)
        return F.layer_norm(hidden_states, self.normalized_shape, weight, bias, self.eps).to(self.weight.dtype)


class SeemDavitBlock(GradientCheckpointingLayer, Florence2VisionBlock):
    """A block of window attention and a block of channel attention; (B, C, H, W) to (B, C, H, W)."""

    def __init__(self, *args):
        super().__init__(*args)
        replace_modules(self, {nn.Conv2d: SeemDavitConv2d.like, nn.LayerNorm: SeemDavitLayerNorm.like})


class SeemDavitPreTrainedModel(PreTrainedModel):
    config: SeemDavitConfig
    base_model_prefix = "davit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SeemDavitBlock"]
    _supports_sdpa = True
    _can_compile_fullgraph = True


class SeemDavitBackbone(BackboneMixin, SeemDavitPreTrainedModel):
    """DaViT; its feature maps are the outputs of the stages, without norms."""

    def __init__(self, config: SeemDavitConfig):
        super().__init__(config)
        num_stages = len(config.depths)
        for name in ("embed_dim", "num_heads", "num_groups", "patch_size", "patch_stride", "patch_padding"):
            if len(getattr(config, name)) != num_stages:
                raise ValueError(f"{name} is {getattr(config, name)}; it needs {num_stages} values, as `depths` has")
        self.num_features = list(config.embed_dim)
        self.convs = nn.ModuleList(Florence2VisionConvEmbed(config, stage) for stage in range(num_stages))
        for convolution in self.convs:
            replace_modules(convolution, {nn.LayerNorm: SeemDavitLayerNorm.like})
        rates = iter(torch.linspace(0, config.drop_path_rate, 2 * sum(config.depths), device="cpu").tolist())
        self.blocks = nn.ModuleList(
            nn.ModuleList(SeemDavitBlock(config, stage, next(rates), next(rates)) for _ in range(depth))
            for stage, depth in enumerate(config.depths)
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, `(batch, 3, height, width)`, of any size.
            output_hidden_states: also return the output of every stage, whether in `config.out_features` or not.

        Returns:
            `BackboneOutput` with `feature_maps`: for each name in `config.out_features` a map
            `(batch, channels, h, w)` in channels-last memory; the strides are the running products of `patch_stride`.
            Those of a float16 model are float32.
        """
        dtype = self.convs[0].conv.weight.dtype
        hidden_states = pixel_values.to(dtype)
        outputs = ()
        for convolution, blocks in zip(self.convs, self.blocks):
            hidden_states = convolution(hidden_states if convolution.pre_norm else hidden_states.to(dtype))
            for block in blocks:
                hidden_states = block(hidden_states)
            outputs += (hidden_states,)
        return BackboneOutput(
            feature_maps=tuple(outputs[index] for index in self.out_indices),
            hidden_states=outputs if output_hidden_states else None,
        )


__all__ = ["SeemDavitBackbone", "SeemDavitPreTrainedModel"]
