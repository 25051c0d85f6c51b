"""From the pixels of an image to the scores of its classes, as one module without choices."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..models.interface import PromptableImageProcessor


class MergedModel(nn.Module):
    """
    A base model with its prompts and classes, normalisation and padding before it and semantic inference behind it.

    Args:
        model: a [`PromptableModel`] in evaluation mode, with nothing left to be merged.
        image_processor: of the model; its mean, standard deviation and padding are taken over.
        size: (H, W) of all images; None for any.
        returns_map: whether to return class maps in place of class scores.
    """

    def __init__(
        self,
        model: nn.Module,
        image_processor: PromptableImageProcessor,
        size: tuple[int, int] | None,
        returns_map: bool,
    ):
        super().__init__()
        self.model = model
        self.size = size
        self.returns_map = returns_map
        self.padded_size = None if size is None else image_processor.padded_size(size)
        self.divisor = image_processor.padded_size((1, 1))
        settings = image_processor.to_dict()
        scale = 1 / settings["rescale_factor"] if settings.get("do_rescale") else 1.0
        normalizes = settings.get("do_normalize")
        self.register_buffer("mean", _channels(settings["image_mean"] if normalizes else (0, 0, 0)) * scale)
        self.register_buffer("std", _channels(settings["image_std"] if normalizes else (1, 1, 1)) * scale)

    def inputs(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What the base model gets of `pixel_values`, normalised and padded, as its image processor would give it."""
        height, width = pixel_values.shape[-2:]
        if self.padded_size is None:
            # in this form, and not as a remainder, torch.export can tell sizes of feature maps from one another
            rows, columns = self.divisor
            padded = rows * ((height + rows - 1) // rows), columns * ((width + columns - 1) // columns)
        else:
            padded = self.padded_size
        return F.pad((pixel_values - self.mean) / self.std, (0, padded[1] - width, 0, padded[0] - height))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Args:
            pixel_values: float32 `(B, 3, H, W)`, RGB on the scale 0 to 255, already resized.

        Returns:
            float32 `(B, K, H, W)`, class scores as [`Prediction.class_scores`] has them; or int64 `(B, H, W)`, the
            class with the largest of them.
        """
        pixels = self.inputs(pixel_values)
        image_sizes = None
        if self.size is not None:
            image_sizes = torch.tensor([self.size]).expand(pixel_values.shape[0], 2)
        scores = self.model.predict_pixels(pixels, image_sizes).class_scores(tuple(pixels.shape[-2:]))
        height, width = pixel_values.shape[-2:]
        if self.size is None or pixels.shape[-2:] != pixel_values.shape[-2:]:
            # a slice would be a view, which a program has to know at once whether it is the whole
            rows, columns = (torch.arange(side, device=scores.device) for side in (height, width))
            scores = scores.index_select(2, rows).index_select(3, columns)
        return scores.argmax(1) if self.returns_map else scores


def _channels(values: float | Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
