"""The families of base models as the tests of all of them see them: one small description each.

A module in this folder has a [`TinyFamily`] as `TINY`; `tests/conftest.py` runs every test that takes `tiny` for all
of them. So a new family gets the whole suite (`test_every_family.py`, `test_every_family_trains.py`) by one module.
"""

import copy
from pathlib import Path

import torch
from torch import nn

from ssprompt_hf.models.interface import SEMANTIC, SPATIAL, ModelFamily, PromptableImageProcessor

NAMES = ["road", "sky", "car"]
THINGS = [2]
HALVES = {
    "both": {},
    SPATIAL: {"semantic_embedding": False, "semantic_weight": False},
    SEMANTIC: {"spatial_embedding": False, "spatial_weight": False},
}
"""Settings of SSPrompt by the kinds of prompts that are learned."""


MADE: dict[tuple, nn.Module] = {}
"""Models that were made; a copy takes half the time."""


class TinyFamily:
    """A family, and how to make a small model of it. The model is the same for the same arguments, in evaluation mode,
    and random in such a way that classes, prompts and pixels differ."""

    family: ModelFamily
    skips: dict[str, str] = {}
    """Name of a test in the suite -> why it makes no sense for this family."""

    tasks: tuple[str, ...] = ("semantic",)
    """That it can be trained for."""

    learning_rate = 0.03
    """At which ten steps lower the loss of two images."""

    def model(self, class_names: list[str] | None = NAMES, seed: int = 0) -> nn.Module:
        """A copy of what `make` makes."""
        key = type(self), None if class_names is None else tuple(class_names), seed
        if key not in MADE:
            MADE[key] = self.make(class_names, seed)
        return copy.deepcopy(MADE[key])

    def make(self, class_names: list[str] | None, seed: int) -> nn.Module:
        """With `THINGS` as its things if it has class names."""
        raise NotImplementedError

    def tokenizer(self):
        """Of its text encoder; None without one."""

    def image_processor(self, model: nn.Module) -> PromptableImageProcessor:
        """That makes `pixel_values` of the size that the model takes."""
        return model.default_image_processor()

    def pixel_values(self, count: int = 1) -> torch.Tensor:
        """`(count, 3, H, W)`, with structure at several scales."""
        raise NotImplementedError

    def reference(self, model: nn.Module, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """What transformers' own model with the same weights says, image by image and class by class, by the names of
        the output's tensors."""
        raise NotImplementedError

    def their_image_processor(self, ours: PromptableImageProcessor):
        """Transformers' own image processor with the same settings; skips the test where it cannot be had."""
        raise NotImplementedError

    def save(self, folder: Path, **arguments) -> Path:
        """A base model without classes, as it would be on the Hub."""
        model = self.model(**{"class_names": None, **arguments})
        for part in (model, self.image_processor(model), self.tokenizer()):
            if part is not None:
                part.save_pretrained(folder)
        return folder


def aligned(model: nn.Module) -> nn.Module:
    """A copy whose weights lie as if they had been made in memory. `from_pretrained` leaves them where they are in the
    file, at odd addresses, from which products are computed in other steps and rounded differently."""
    return copy.deepcopy(model)


@torch.no_grad()
def answers(model: nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """`(B, K, h, w)`: the class scores."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    sizes = torch.tensor([pixel_values.shape[-2:]] * len(pixel_values))
    return base.predict_pixels(pixel_values, sizes).class_scores()


@torch.no_grad()
def move(model: nn.Module, seed: int = 0) -> nn.Module:
    """Change all that is learned, as a training would that went far."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            size = parameter.square().mean().sqrt().clamp(min=0.2)
            parameter.add_(0.5 * size * torch.randn(parameter.shape, generator=generator))
    return model
