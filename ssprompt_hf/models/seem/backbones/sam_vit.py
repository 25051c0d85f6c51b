"""SAM's ViT as a backbone: transformers' layers, with a simple feature pyramid in place of SAM's neck.

Sources: "Segment Anything" (Kirillov et al., 2023); the pyramid follows "Exploring Plain Vision Transformer Backbones
for Object Detection" (Li et al., 2022), section 3.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_outputs import BackboneOutput

from ...transformers_compat import SamVisionAttention, SamVisionLayer, can_return_tuple
from ..configuration_seem import SeemSamVitConfig


class SeemSamVitPatchEmbedding(nn.Module):
    """Non-overlapping patches, without SAM's demand for one image size."""

    def __init__(self, config: SeemSamVitConfig):
        super().__init__()
        self.projection = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, H / patch_size, W / patch_size, hidden_size)."""
        return self.projection(pixel_values).permute(0, 2, 3, 1)


class SeemSimpleFeaturePyramid(nn.Module):
    """Four maps at 4, 2, 1 and 1/2 times the resolution of a single one; all norms span all channels."""

    def __init__(self, in_channels: int, channels: list[int]):
        super().__init__()
        finest = max(channels[0] * 2, in_channels // 2)
        fine = max(channels[1], in_channels // 2)
        coarsest = max(channels[3], in_channels * 2)
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, finest, 2, stride=2),
                    nn.GroupNorm(1, finest),
                    nn.GELU(),
                    nn.ConvTranspose2d(finest, finest // 2, 2, stride=2),
                    nn.GroupNorm(1, finest // 2),
                    *self._output_layers(finest // 2, channels[0]),
                ),
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, fine, 2, stride=2),
                    nn.GroupNorm(1, fine),
                    *self._output_layers(fine, channels[1]),
                ),
                nn.Sequential(*self._output_layers(in_channels, channels[2])),
                nn.Sequential(
                    nn.Conv2d(in_channels, coarsest, 2, stride=2),
                    nn.GroupNorm(1, coarsest),
                    *self._output_layers(coarsest, channels[3]),
                ),
            ]
        )

    @staticmethod
    def _output_layers(in_channels: int, out_channels: int) -> list[nn.Module]:
        return [nn.Conv2d(in_channels, out_channels, 1), nn.GroupNorm(1, out_channels), nn.GELU()]

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, C, h, w) to maps (B, channels[i], h * scale, w * scale), finest first."""
        return tuple(level(hidden_states) for level in self.levels)


class SeemSamVitPreTrainedModel(PreTrainedModel):
    config: SeemSamVitConfig
    base_model_prefix = "sam_vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SamVisionLayer"]
    _supports_sdpa = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SamVisionAttention) and module.use_rel_pos:
            init.zeros_(module.rel_pos_h)
            init.zeros_(module.rel_pos_w)
        elif isinstance(module, SeemSamVitBackbone) and module.pos_embed is not None:
            init.zeros_(module.pos_embed)


class SeemSamVitBackbone(BackboneMixin, SeemSamVitPreTrainedModel):
    """SAM's image encoder; its feature maps come from the feature pyramid."""

    def __init__(self, config: SeemSamVitConfig):
        super().__init__(config)
        self.num_features = list(config.feature_pyramid_channels)
        self.patch_embed = SeemSamVitPatchEmbedding(config)
        self.pos_embed = None
        if config.use_abs_pos:
            grid = config.image_size // config.patch_size
            self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, config.hidden_size))
        self.layers = nn.ModuleList(
            SamVisionLayer(config, window_size=0 if index in config.global_attn_indexes else config.window_size)
            for index in range(config.num_hidden_layers)
        )
        self.feature_pyramid = SeemSimpleFeaturePyramid(config.hidden_size, config.feature_pyramid_channels)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, `(batch, 3, height, width)`. SEEM's models were trained with images padded
                to `config.image_size` squared, and the official code takes no other size. Here other sizes are padded
                to multiples of two patches, and the absolute positions are interpolated.
            output_hidden_states: also return the output of every layer, `(batch, h, w, hidden_size)`.

        Returns:
            `BackboneOutput` with `feature_maps`: for each name in `config.out_features` a map
            `(batch, channels, h, w)`; the strides are `patch_size` divided by 4, 2, 1 and 1/2.
        """
        height, width = pixel_values.shape[-2:]
        multiple = 2 * self.config.patch_size
        if height % multiple or width % multiple:
            pixel_values = F.pad(pixel_values, (0, -width % multiple, 0, -height % multiple))
        hidden_states = self.patch_embed(pixel_values.to(self.patch_embed.projection.weight.dtype))
        if self.pos_embed is not None:
            hidden_states = hidden_states + self._positions(*hidden_states.shape[1:3])
        all_hidden_states = (hidden_states,)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
            all_hidden_states += (hidden_states,)
        maps = self.feature_pyramid(hidden_states.permute(0, 3, 1, 2))
        return BackboneOutput(
            feature_maps=tuple(maps[index] for index in self.out_indices),
            hidden_states=all_hidden_states if output_hidden_states else None,
        )

    def _positions(self, height: int, width: int) -> torch.Tensor:
        if (height, width) == self.pos_embed.shape[1:3]:
            return self.pos_embed
        positions = F.interpolate(
            self.pos_embed.permute(0, 3, 1, 2), size=(height, width), mode="bicubic", align_corners=False
        )
        return positions.permute(0, 2, 3, 1)


__all__ = ["SeemSamVitBackbone", "SeemSamVitPreTrainedModel"]
