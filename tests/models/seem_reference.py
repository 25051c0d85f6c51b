"""Parts of SEEM with the official random weights, for comparison with the official outputs."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from ssprompt_hf.models.seem.backbone import build_backbone
from ssprompt_hf.models.seem.configuration_seem import SeemConfig
from ssprompt_hf.models.seem.pixel_decoder import build_pixel_decoder
from ssprompt_hf.models.seem.weight_mapping import config_from_official, map_official_name, map_official_tensors

PARTS = ("model.backbone.", "model.pixel_decoder.")


def image_encoder(config: SeemConfig) -> nn.ModuleDict:
    backbone = build_backbone(config.backbone_config)
    return nn.ModuleDict(
        {"backbone": backbone, "pixel_decoder": build_pixel_decoder(config, backbone.channels)}
    ).eval()


def mapped_shapes(layout: dict, config: SeemConfig) -> dict[str, tuple[int, ...]]:
    """Our names and shapes of the backbone's and pixel decoder's tensors of an official layout."""
    shapes = {}
    for name, shape in layout.items():
        mapping = map_official_name(name, config)
        shapes.update({ours: mapping.shape(shape) for ours in mapping.names})
    return {name.removeprefix("model."): shape for name, shape in shapes.items() if name.startswith(PARTS)}


def official_state_dict(folder: Path) -> dict[str, torch.Tensor]:
    sys.path.insert(0, str(folder.parent))
    try:
        from random_checkpoint import random_state_dict
    finally:
        sys.path.pop(0)
    spec = json.loads((folder / "spec.json").read_text())
    return random_state_dict(json.loads((folder / "layout.json").read_text()), spec["seed"])


def reference_image_encoder(folder: Path) -> tuple[nn.ModuleDict, SeemConfig]:
    """Backbone and pixel decoder of a reference model, in float64, with its weights."""
    hyperparameters = json.loads((folder / "spec.json").read_text())["hyperparameters"]
    config = config_from_official(hyperparameters)
    model = image_encoder(config)
    tensors = map_official_tensors(official_state_dict(folder).items(), config)
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors if name.startswith(PARTS)})
    return model.double(), config


def reference_pixels(folder: Path, name: str = "image_a") -> torch.Tensor:
    """A reference image, normalised and zero-padded, `(1, 3, H, W)`, float64."""
    options = json.loads((folder / "spec.json").read_text())["hyperparameters"]
    image = load_file(folder / "inputs.safetensors")[name].double()
    mean, std = (torch.tensor(options[key]).double()[:, None, None] for key in ("pixel_mean", "pixel_std"))
    multiple = options["size_divisibility"]
    return F.pad((image - mean) / std, (0, -image.shape[2] % multiple, 0, -image.shape[1] % multiple))[None]


def assert_close_to_largest(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5):
    """Largest difference at most `tolerance` times the largest expected value."""
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert difference < tolerance, f"differs by {difference:.1e} of the largest value"
