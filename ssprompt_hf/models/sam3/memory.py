"""What SAM 3 takes, told from its configuration without building weights."""

import math
from dataclasses import dataclass

import psutil
import torch
from torch import nn
from transformers import PretrainedConfig

MAX_PAIRS = 8
"""Pairs of image and class that are decoded together at most: beyond it a GPU gains nothing."""

SHARE = 0.5
"""Of a device's memory that decoding may take; weights, features and what PyTorch keeps for itself take the rest."""


@dataclass(frozen=True)
class Sam3Memory:
    """
    Args:
        parameters: of each part, and `"total"`; counts.
        cached_bytes: of the features of one image, in float32.
        decode_bytes: of decoding one pair of image and class, an estimate, without gradient.
        training_bytes: the same with gradient to the prompts.
    """

    parameters: dict[str, int]
    cached_bytes: int
    decode_bytes: int
    training_bytes: int


def memory(model_class: type[nn.Module], config: PretrainedConfig, image_size: int | None = None) -> Sam3Memory:
    """
    What a model takes, in float32; half of the bytes in bfloat16.

    Args:
        model_class: `Sam3ForPromptedSegmentation` or `Sam3LiteTextForPromptedSegmentation`.
        config: of the model.
        image_size: side of the square pixel values; by default the configuration's.
    """
    with torch.device("meta"):
        model = model_class(config)
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    parameters["total"] = sum(parameters.values())
    side = model.config.image_size if image_size is None else image_size
    return Sam3Memory(
        parameters,
        feature_bytes(model.config, (side, side)),
        decode_bytes(model.config, (side, side), with_gradient=False),
        decode_bytes(model.config, (side, side), with_gradient=True),
    )


def level_sizes(config: PretrainedConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """(h, w) of each level of the features that the decoder reads, finest first; it never reads the last one."""
    patch = config.vision_config.backbone_config.patch_size
    scales = config.vision_config.scale_factors[:-1]
    return [tuple(int(side // patch * scale) for side in size) for scale in scales]


def feature_bytes(config: PretrainedConfig, size: tuple[int, int]) -> int:
    """Bytes of the cached features of an image of this size in float32, its size (two int64) included."""
    pixels = sum(math.prod(level) for level in level_sizes(config, size))
    return 4 * config.vision_config.fpn_hidden_size * pixels + 16


def decode_bytes(config: PretrainedConfig, size: tuple[int, int], with_gradient: bool, element_size: int = 4) -> int:
    """
    Estimated peak of decoding one pair of image and class, in bytes.

    Counts the tensors that live together: without gradient, those of the mask decoder at the finest level; with
    gradient, what all layers save for the backward pass, for which frozen weights need no inputs, and a few maps that
    the backward pass needs besides. For SAM 3 at 1008 pixels in float32 that is 0.50 GB (0.48 measured) and 1.6 GB
    (1.3 GB measured before the backward pass).

    Args:
        config: of the model.
        size: of the pixel values.
        with_gradient: to the prompts.
        element_size: bytes of a number.
    """
    levels = [math.prod(level) for level in level_sizes(config, size)]
    finest, tokens, width = levels[0], levels[-1], config.mask_decoder_config.hidden_size
    decoder, encoder = config.detr_decoder_config, config.detr_encoder_config
    maps, masks = width * finest, decoder.num_queries * finest
    if not with_gradient:
        return element_size * (width * sum(levels) + 3 * maps + 2 * masks)
    queries = decoder.num_queries + 1  # and the presence token
    encoder_layer = tokens * (encoder.intermediate_size + 9 * width)
    decoder_layer = decoder.num_attention_heads * queries * tokens + tokens * 2 * width
    decoder_layer += queries * (decoder.intermediate_size + 12 * width)
    layers = encoder.num_layers * encoder_layer + decoder.num_layers * decoder_layer
    pixels = 3 * width * sum(levels[:-1]) + maps + masks
    backward = 2 * maps + 2 * masks
    return element_size * (layers + pixels + backward)


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return psutil.virtual_memory().total


def free_memory(device: torch.device) -> int:
    """Bytes that could be allocated on a device now, counting what PyTorch keeps for reuse."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return psutil.virtual_memory().available


def pairs_at_once(bytes_per_pair: int, device: torch.device) -> int:
    """
    How many pairs of image and class to decode together.

    On a CPU one: there is nothing to be gained, and only single pairs give transformers' own results to the bit.
    Elsewhere as many as half of the device's memory holds, up to `MAX_PAIRS`. The total memory decides, so that the
    same machine always chooses the same number and so gives the same bits; only where less than that is free, the
    number is smaller.
    """
    if device.type == "cpu":
        return 1
    pairs = min(MAX_PAIRS, int(SHARE * total_memory(device)) // bytes_per_pair)
    if pairs * bytes_per_pair > (free := free_memory(device)):
        pairs = free // bytes_per_pair
    return max(1, pairs)


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether a device has room for so many bytes of decoding, by the same rule."""
    return num_bytes <= min(SHARE * total_memory(device), free_memory(device))
