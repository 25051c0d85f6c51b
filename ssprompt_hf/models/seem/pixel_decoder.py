"""The two pixel decoders of SEEM: an FPN with a transformer on its coarsest map, and Mask2Former's deformable one."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Mask2FormerConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from ...utils.cpu_ops import Conv1x1, Conv3x3, Linear, scaled_dot_product_attention
from ..transformers_compat import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerSinePositionEmbedding,
    multi_scale_deformable_attention,
    replace_modules,
)
from .configuration_seem import SeemConfig

NUM_GROUPS = 32  # of every group norm
NUM_LEVELS = 3  # the mask decoder attends to three scales


def sine_positions(height: int, width: int, channels: int, like: torch.Tensor) -> torch.Tensor:
    """
    Sine and cosine position embeddings of a map, `(1, channels, height, width)`, with the dtype and device of `like`.

    They are computed in float32 at least: half precision cannot tell neighbouring positions of a large map apart.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    positions = Mask2FormerSinePositionEmbedding.build_sine_position_embedding(
        (1, channels, height, width), like.device, dtype, channels // 2, normalize=True, scale=2 * math.pi
    )
    return positions.to(like.dtype)


class SeemPixelDecoderAttention(nn.Module):
    """Multi-head self-attention; positions are added to queries and keys only."""

    def __init__(self, hidden_size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = Linear(hidden_size, hidden_size)
        self.k_proj = Linear(hidden_size, hidden_size)
        self.v_proj = Linear(hidden_size, hidden_size)
        self.out_proj = Linear(hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """`hidden_states` (B, N, C), `positions` (1, N, C); returns (B, N, C)."""
        with_positions = hidden_states + positions
        query = self.q_proj(with_positions).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key = self.k_proj(with_positions).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        value = self.v_proj(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        attended = scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class SeemPixelDecoderEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: SeemConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attn = SeemPixelDecoderAttention(config.feature_size, config.num_attention_heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.feature_size)
        self.fc1 = Linear(config.feature_size, config.encoder_feedforward_dim)
        self.fc2 = Linear(config.encoder_feedforward_dim, config.feature_size)
        self.final_layer_norm = nn.LayerNorm(config.feature_size)

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """`hidden_states` (B, N, C), `positions` (1, N, C); returns (B, N, C)."""
        if self.pre_norm:
            hidden_states = hidden_states + self.self_attn(self.self_attn_layer_norm(hidden_states), positions)
            return hidden_states + self.fc2(F.relu(self.fc1(self.final_layer_norm(hidden_states))))
        hidden_states = self.self_attn_layer_norm(hidden_states + self.self_attn(hidden_states, positions))
        return self.final_layer_norm(hidden_states + self.fc2(F.relu(self.fc1(hidden_states))))


class SeemPixelDecoderEncoder(nn.Module):
    """Transformer on the coarsest map."""

    def __init__(self, config: SeemConfig):
        super().__init__()
        self.layers = nn.ModuleList(SeemPixelDecoderEncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.feature_size) if config.pre_norm else None

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        _, channels, height, width = features.shape
        positions = sine_positions(height, width, channels, like=features).flatten(2).transpose(1, 2)
        hidden_states = features.flatten(2).transpose(1, 2)
        for layer in self.layers:
            hidden_states = layer(hidden_states, positions)
        if self.layer_norm is not None:
            hidden_states = self.layer_norm(hidden_states)
        return hidden_states.transpose(1, 2).unflatten(-1, (height, width))


class SeemConvNorm(nn.Module):
    """Convolution without bias, then group norm."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.conv = convolution
        self.norm = nn.GroupNorm(NUM_GROUPS, convolution.out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(features))


def project(projection: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """`projection(features)`; if a float16 backbone hands over float32, computed so and then rounded."""
    dtype = next(projection.parameters()).dtype
    if features.dtype == dtype or torch.is_autocast_enabled(features.device.type):
        return projection(features)
    weights = {name: weight.to(features.dtype) for name, weight in projection.named_parameters()}
    return torch.func.functional_call(projection, weights, (features,)).to(dtype)


def add_upsampled(fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
    """Add `coarse` (B, C, h, w), enlarged to its nearest neighbours, to `fine` (B, C, H, W) in place."""
    (height, width), size = coarse.shape[-2:], fine.shape[-2:]
    if size != (2 * height, 2 * width):
        return fine.add_(F.interpolate(coarse, size=size, mode="nearest"))
    # One broadcast addition; the enlarged map, as large as the finest features, is never made.
    fine.unflatten(3, (width, 2)).unflatten(2, (height, 2)).add_(coarse[:, :, :, None, :, None])
    return fine


class SeemFPNPixelDecoder(nn.Module):
    """
    Feature pyramid, top down, whose coarsest map first passes a transformer encoder.

    Args:
        config: uses `feature_size`, `mask_feature_size`, `encoder_layers`, `encoder_feedforward_dim`,
            `num_attention_heads` and `pre_norm`.
        in_channels: channels of the backbone's maps, finest first.
    """

    def __init__(self, config: SeemConfig, in_channels: list[int]):
        super().__init__()
        if config.feature_size % NUM_GROUPS:
            raise ValueError(f"feature_size is {config.feature_size}; it must be a multiple of {NUM_GROUPS}")
        size = config.feature_size
        self.input_projection = Conv1x1(in_channels[-1], size)
        self.encoder = SeemPixelDecoderEncoder(config)
        self.lateral_layers = nn.ModuleList(
            SeemConvNorm(Conv1x1(channels, size, bias=False)) for channels in in_channels[:-1]
        )
        self.output_layers = nn.ModuleList(SeemConvNorm(Conv3x3(size, size, bias=False)) for _ in in_channels)
        self.mask_projection = Conv3x3(size, config.mask_feature_size)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            feature_maps: the backbone's maps, each `(batch, in_channels[i], height_i, width_i)`, finest first.

        Returns:
            `mask_features`: `(batch, mask_feature_size, height_0, width_0)`;
            `multi_scale_features`: three maps `(batch, feature_size, height, width)`, coarsest first.
        """
        features = self.encoder(project(self.input_projection, feature_maps[-1]))
        features = F.relu_(self.output_layers[-1](features))
        multi_scale_features = [features]
        for level in reversed(range(len(feature_maps) - 1)):
            features = add_upsampled(project(self.lateral_layers[level], feature_maps[level]), features)
            features = F.relu_(self.output_layers[level](features))
            multi_scale_features.append(features)
        return self.mask_projection(features), multi_scale_features[:NUM_LEVELS]


class SeemDeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """
    Mask2Former's, with sampling in float32 at least, as in the official code.

    Half precision cannot address the pixels of a map, and PyTorch's sampling of half-precision maps on the CPU returns
    arbitrary values for positions outside of them.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        spatial_shapes_list: list[tuple[int, int]],
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states, position_embeddings: `(B, N, C)`, all levels one after another.
            encoder_hidden_states: `(B, N, C)`, what is sampled.
            spatial_shapes_list: height and width of every level; no image is padded, so that every query's reference
                point is the centre of its pixel.

        Returns:
            `(B, N, C)` and the weights of the sampled points, `(B, N, heads, levels, points)`.
        """
        dtype, device = torch.promote_types(hidden_states.dtype, torch.float32), hidden_states.device
        queries = hidden_states + position_embeddings
        values = self.value_proj(encoder_hidden_states).unflatten(-1, (self.n_heads, -1)).to(dtype)
        points = (self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(queries).to(dtype).unflatten(-1, (*points, 2))
        weights = self.attention_weights(queries).unflatten(-1, (self.n_heads, -1)).softmax(-1, dtype=dtype)
        weights = weights.unflatten(-1, points[1:])
        centres = []
        for height, width in spatial_shapes_list:
            rows = (torch.arange(height, dtype=dtype, device=device) + 0.5) / height
            columns = (torch.arange(width, dtype=dtype, device=device) + 0.5) / width
            centres.append(torch.stack([columns.repeat(height), rows.repeat_interleave(width)], dim=-1))
        sizes = torch.tensor([(width, height) for height, width in spatial_shapes_list], dtype=dtype, device=device)
        locations = torch.cat(centres)[None, :, None, None, None] + offsets / sizes[:, None]
        sampled = multi_scale_deformable_attention(values, spatial_shapes_list, locations, weights)
        return self.output_proj(sampled.to(hidden_states.dtype)), weights


class SeemDeformablePositions(nn.Module):
    """`sine_positions` with the arguments of the module that it replaces."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, shape: torch.Size, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """`(1, channels, height, width)` for maps of `shape`."""
        return sine_positions(*shape[-2:], self.channels, like=torch.empty(0, device=device, dtype=dtype))


class SeemDeformablePixelDecoder(Mask2FormerPixelDecoder):
    """
    Mask2Former's pixel decoder (deformable attention over the three coarser maps), set up from a `SeemConfig`.

    Args:
        config: uses `feature_size`, `mask_feature_size`, `encoder_layers`, `encoder_feedforward_dim` and
            `num_attention_heads`.
        in_channels: channels of the backbone's four maps, finest first.
    """

    def __init__(self, config: SeemConfig, in_channels: list[int]):
        mask2former = Mask2FormerConfig(
            feature_size=config.feature_size,
            mask_feature_size=config.mask_feature_size,
            encoder_layers=config.encoder_layers,
            encoder_feedforward_dim=config.encoder_feedforward_dim,
            num_attention_heads=config.num_attention_heads,
            dropout=0.0,
            feature_strides=[4, 8, 16, 32],
            common_stride=4,
        )
        super().__init__(mask2former, in_channels)
        self.position_embedding = SeemDeformablePositions(config.feature_size)
        replace_modules(
            self.encoder,
            {
                Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention: lambda old: SeemDeformableAttention(
                    old.d_model, old.n_heads, old.n_levels, old.n_points
                )
            },
        )

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Takes and returns what [`SeemFPNPixelDecoder`] does."""
        # As in the official code, autocast does not reach in here.
        dtype = self.level_embed.dtype
        with torch.autocast(feature_maps[0].device.type, enabled=False):
            outputs = super().forward([features.to(dtype) for features in feature_maps])
        return outputs.mask_features, list(outputs.multi_scale_features)


def init_deformable_weights(module: nn.Module) -> None:
    """
    Initialise what the general rules of a `PreTrainedModel` leave open in [`SeemDeformablePixelDecoder`].

    The points that a query samples start on a ring around it, one direction a head ("Deformable DETR", Zhu et al.,
    2021, appendix A.4). To be called from `_init_weights` with every module; does nothing for other modules.
    """
    if isinstance(module, SeemDeformablePixelDecoder):
        init.normal_(module.level_embed)
    elif isinstance(module, SeemDeformableAttention):
        angles = torch.arange(module.n_heads) * (2 * math.pi / module.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(dim=-1, keepdim=True)
        distances = torch.arange(1, module.n_points + 1)
        ring = directions[:, None, None] * distances[:, None]  # (heads, 1, points, 2)
        init.copy_(module.sampling_offsets.bias, ring.expand(-1, module.n_levels, -1, -1).flatten())
        for layer in (module.sampling_offsets.weight, module.attention_weights.weight, module.attention_weights.bias):
            init.zeros_(layer)


PIXEL_DECODERS = {"fpn": SeemFPNPixelDecoder, "deformable": SeemDeformablePixelDecoder}


def build_pixel_decoder(
    config: SeemConfig, in_channels: list[int]
) -> SeemFPNPixelDecoder | SeemDeformablePixelDecoder:
    """The pixel decoder that `config.pixel_decoder_type` names, for backbone maps of `in_channels`, finest first."""
    return PIXEL_DECODERS[config.pixel_decoder_type](config, in_channels)
