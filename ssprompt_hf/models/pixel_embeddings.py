"""What models can do that have pixels and classes in one space, besides what the interface asks of all."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .interface import CachedFeatures


class EmbedsPixels:
    """A mix-in for a [`PromptableModel`] that embeds pixels in the space of its semantic prompts."""

    def class_embedding_sums(self, outputs: Any, pixels: Callable[[tuple[int, int]], torch.Tensor]) -> torch.Tensor:
        """
        The embeddings of the pixels of each class.

        Args:
            outputs: of `forward`, for B images.
            pixels: what gives, for a size `(h, w)` of maps, how many pixels of each class lie in each cell, as float
                `(B, K, h, w)`.

        Returns:
            float32 `(K, D)`, their sum over all pixels of a class; zeros for classes without any.
        """
        raise NotImplementedError

    def pixel_features(self, features: "CachedFeatures") -> torch.Tensor:
        """`(1, C, h, w)`: what masks of an image are linear functions of, from what is cached of it."""
        raise NotImplementedError
