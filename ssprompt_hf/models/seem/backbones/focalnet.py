"""FocalNet as a backbone, in the two forms that SEEM was published with (Focal-T and Focal-L).

Source: "Focal Modulation Networks" (Yang et al., 2022). transformers' `FocalNetBackbone` returns maps after
down-sampling and without output norms, and has neither depth-wise convolutions nor a settable stem, hence this one.
All maps inside are channels-last, `(batch, height, width, channels)`, so that linear layers, norms and (as oneDNN and
cuDNN take this layout as it is) depth-wise convolutions need no copies between them.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput

from ....utils.cpu_ops import Conv1x1, Linear, map_tokens
from ...transformers_compat import ACT2FN, FocalNetDropPath, can_return_tuple
from ..configuration_seem import SeemFocalNetConfig


def _convolve(convolution: nn.Conv2d, hidden_states: torch.Tensor) -> torch.Tensor:
    """Apply a convolution to a channels-last map, `(batch, height, width, channels)`."""
    return convolution(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SeemFocalNetPatchEmbedding(nn.Module):
    """Convolution and norm: the stem, or the down-sampling between two stages."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, padding: int, eps: float):
        super().__init__()
        self.projection = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding)
        self.norm = nn.LayerNorm(out_channels, eps=eps)

    def forward(self, hidden_states: torch.Tensor, multiple: int) -> torch.Tensor:
        """Zero-pads height and width to multiples of `multiple` first; (B, H, W, C) to (B, h, w, out_channels)."""
        height, width = hidden_states.shape[1:3]
        if height % multiple or width % multiple:
            hidden_states = F.pad(hidden_states, (0, 0, 0, -width % multiple, 0, -height % multiple))
        return self.norm(_convolve(self.projection, hidden_states))


class SeemFocalNetModulation(nn.Module):
    """Focal modulation (section 3.2 of the paper): a query times a gated sum of context at growing scales."""

    def __init__(self, config: SeemFocalNetConfig, stage: int, channels: int):
        super().__init__()
        self.channels = channels
        self.num_levels = config.focal_levels[stage]
        self.normalize_modulator = config.normalize_modulator
        self.projection_in = Linear(channels, 2 * channels + self.num_levels + 1)
        self.projection_context = Conv1x1(channels, channels)
        self.projection_out = Linear(channels, channels)
        self.focal_layers = nn.ModuleList()
        for level in range(self.num_levels):
            kernel_size = config.focal_windows[stage] + 2 * level
            depthwise = nn.Conv2d(
                channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=False
            )
            self.focal_layers.append(nn.Sequential(depthwise, nn.GELU()))
        self.layernorm = None
        if config.use_post_layernorm_in_modulation:
            self.layernorm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        projected = self.projection_in(hidden_states)
        query, context, gates = projected.split((self.channels, self.channels, self.num_levels + 1), dim=-1)
        if self.normalize_modulator:
            gates = gates / (self.num_levels + 1)

        context = context.contiguous()
        gated = None
        for level, focal_layer in enumerate(self.focal_layers):
            context = _convolve(focal_layer, context)
            gate = gates[..., level : level + 1]
            gated = context * gate if gated is None else gated.addcmul_(context, gate)
        global_context = F.gelu(context.mean(dim=(1, 2), keepdim=True))
        gated = gated.addcmul_(global_context, gates[..., self.num_levels :])

        modulated = query * _convolve(self.projection_context, gated)
        if self.layernorm is not None:
            modulated = self.layernorm(modulated)
        return self.dropout(self.projection_out(modulated))


class SeemFocalNetMlp(nn.Module):
    def __init__(self, config: SeemFocalNetConfig, channels: int):
        super().__init__()
        self.fc1 = Linear(channels, int(channels * config.mlp_ratio))
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = Linear(int(channels * config.mlp_ratio), channels)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return map_tokens(self._forward_tokens, hidden_states, self.fc1.out_features)

    def _forward_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.dropout(self.activation(self.fc1(tokens)))
        return self.dropout(self.fc2(tokens))


class SeemFocalNetLayer(GradientCheckpointingLayer):
    """
    Focal modulation and MLP, each with a residual connection.

    With post-norms the two published forms differ: in Focal-T (`use_depthwise_conv`) they follow the residual sum, in
    Focal-L they belong to the residual branch.
    """

    def __init__(self, config: SeemFocalNetConfig, stage: int, channels: int, drop_path: float):
        super().__init__()
        self.norm_input = not config.use_post_layernorm
        self.norm_branch = config.use_post_layernorm and not config.use_depthwise_conv
        self.norm_sum = config.use_post_layernorm and config.use_depthwise_conv
        self.depthwise_conv1 = self.depthwise_conv2 = None
        if config.use_depthwise_conv:
            self.depthwise_conv1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            self.depthwise_conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.modulation = SeemFocalNetModulation(config, stage, channels)
        self.norm2 = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.mlp = SeemFocalNetMlp(config, channels)
        self.drop_path = FocalNetDropPath(drop_path)
        self.gamma_1 = self.gamma_2 = None
        if config.use_layerscale:
            self.gamma_1 = nn.Parameter(torch.full((channels,), config.layerscale_value))
            self.gamma_2 = nn.Parameter(torch.full((channels,), config.layerscale_value))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) to (B, H, W, C)."""
        hidden_states = self._residual(hidden_states, self.depthwise_conv1, self.modulation, self.norm1, self.gamma_1)
        return self._residual(hidden_states, self.depthwise_conv2, self.mlp, self.norm2, self.gamma_2)

    def _residual(self, hidden_states, convolution, branch, norm, gamma):
        if convolution is not None:
            hidden_states = _convolve(convolution, hidden_states).add_(hidden_states)
        update = branch(norm(hidden_states) if self.norm_input else hidden_states)
        if self.norm_branch:
            update = norm(update)
        update = self.drop_path(update)
        hidden_states = hidden_states + update if gamma is None else torch.addcmul(hidden_states, update, gamma)
        return norm(hidden_states) if self.norm_sum else hidden_states


class SeemFocalNetStage(nn.Module):
    def __init__(self, config: SeemFocalNetConfig, stage: int, drop_paths: list[float]):
        super().__init__()
        channels = config.hidden_sizes[stage]
        self.layers = nn.ModuleList(SeemFocalNetLayer(config, stage, channels, rate) for rate in drop_paths)
        self.downsample = None
        if stage + 1 < len(config.depths):
            kernel_size, padding = (3, 1) if config.use_conv_embed else (2, 0)
            self.downsample = SeemFocalNetPatchEmbedding(
                channels, config.hidden_sizes[stage + 1], kernel_size, 2, padding, config.layer_norm_eps
            )

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, W, C) to this stage's map (B, H, W, C) and the next stage's input (B, ceil(H/2), ceil(W/2), 2C)."""
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        if self.downsample is None:
            return hidden_states, hidden_states
        return hidden_states, self.downsample(hidden_states, multiple=2)


class SeemFocalNetPreTrainedModel(PreTrainedModel):
    config: SeemFocalNetConfig
    base_model_prefix = "focalnet"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SeemFocalNetLayer"]
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, SeemFocalNetLayer) and module.gamma_1 is not None:
            init.constant_(module.gamma_1, self.config.layerscale_value)
            init.constant_(module.gamma_2, self.config.layerscale_value)


class SeemFocalNetBackbone(BackboneMixin, SeemFocalNetPreTrainedModel):
    """FocalNet; its feature maps are the normalised outputs of the stages."""

    has_attentions = False

    def __init__(self, config: SeemFocalNetConfig):
        super().__init__(config)
        self.num_features = [config.embed_dim] + list(config.hidden_sizes)
        self.embeddings = SeemFocalNetPatchEmbedding(
            config.num_channels,
            config.embed_dim,
            config.stem_kernel_size,
            config.stem_stride,
            config.stem_padding,
            config.layer_norm_eps,
        )
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        rates = torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(config.depths):
            first = sum(config.depths[:stage])
            self.stages.append(SeemFocalNetStage(config, stage, rates[first : first + depth]))
        self.hidden_states_norms = nn.ModuleDict(
            {
                name: nn.LayerNorm(channels, eps=config.layer_norm_eps)
                for name, channels in self.out_feature_channels.items()
                if name in self.out_features and name != "stem"
            }
        )
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """
        Args:
            pixel_values: normalised images, `(batch, 3, height, width)`, of any size.
            output_hidden_states: also return the maps before their output norms (the stem's first).

        Returns:
            `BackboneOutput` with `feature_maps`: for each name in `config.out_features` a map
            `(batch, channels, h, w)` in channels-last memory; the strides are `stem_stride` times 1, 2, 4 and 8.
        """
        patch_size = self.config.patch_size
        hidden_states = pixel_values.to(self.embeddings.projection.weight.dtype).permute(0, 2, 3, 1)
        hidden_states = self.dropout(self.embeddings(hidden_states, multiple=patch_size))
        all_hidden_states = (hidden_states.permute(0, 3, 1, 2),)
        feature_maps = all_hidden_states if "stem" in self.out_features else ()
        for name, stage in zip(self.stage_names[1:], self.stages):
            stage_output, hidden_states = stage(hidden_states)
            all_hidden_states += (stage_output.permute(0, 3, 1, 2),)
            if name in self.out_features:
                feature_maps += (self.hidden_states_norms[name](stage_output).permute(0, 3, 1, 2),)
        return BackboneOutput(
            feature_maps=feature_maps,
            hidden_states=all_hidden_states if output_hidden_states else None,
        )


__all__ = ["SeemFocalNetBackbone", "SeemFocalNetPreTrainedModel"]
