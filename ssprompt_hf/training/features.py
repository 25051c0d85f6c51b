"""The frozen part of the base model runs once per image, and once for its mirror image."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from ..models.interface import CachedFeatures, PromptableModel
from ..utils.digests import tensors_digest
from .feature_cache import FeatureCache

DTYPES = ("float32", "float16")


def weights_digest(model: nn.Module) -> str:
    """Hexadecimal digest of all parameters and persistent buffers of `model`: names, types, shapes and values."""
    return tensors_digest(model.state_dict())


def choose_stage(model: PromptableModel, stages: tuple[str, ...], padded_size: tuple[int, int], limit: float) -> str:
    """
    What to keep of each image: what makes steps fastest among what fits.

    Told from sizes alone, and whatever the storage is, so that runs with and without cache compute the same bits.

    Args:
        model: the base model.
        stages: its choices, smallest first.
        padded_size: of an image.
        limit: bytes an image.
    """
    fits = [stage for stage in stages if model.feature_bytes(padded_size, stage) <= limit]
    return fits[-1] if fits else stages[0]


class ImageFeatures:
    """
    Features of the images of a data set, from the cache or from the base model.

    Args:
        model: the base model inside the adapted one. It is put in eval mode.
        cache: where features are kept.
        preprocessing: a text that changes whenever pixel values of the same image would.
        stage: of `PromptableModel.feature_stages`.
        dtype: `"float16"` keeps floating-point tensors in half precision, whether they come from the cache or not:
            half the memory, rounded features.
        autocast: makes the context in which the model runs.
    """

    def __init__(
        self,
        model: nn.Module,
        cache: FeatureCache,
        preprocessing: str,
        stage: str,
        dtype: str = "float32",
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self.model, self.cache, self.stage, self.dtype, self.autocast = model, cache, stage, dtype, autocast
        versions = f"torch {torch.__version__} transformers {transformers.__version__}"
        settings = json.dumps(model.feature_settings(), sort_keys=True, default=str)
        self._context = f"{stage} {dtype} {preprocessing} {settings} {versions}"
        self._weights: dict[torch.dtype, str] = {}

    @property
    def fingerprint(self) -> str:
        """Of everything that features depend on but the image. Weights are hashed once; the base model is frozen."""
        dtype, device = self.model.dtype, self.model.device.type
        if dtype not in self._weights:
            modules = self.model.feature_modules(self.stage)
            self._weights[dtype] = " ".join(map(weights_digest, modules))
        autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        return hashlib.sha256(f"{self._context} {self._weights[dtype]} {device} {autocast}".encode()).hexdigest()

    def get(
        self,
        examples: Any,
        index: int,
        flipped: bool = False,
        pixel_values: torch.Tensor | None = None,
        store: bool = True,
        spill: bool = True,
    ) -> CachedFeatures:
        """
        What the frozen part says of an image.

        Args:
            examples: [`SegmentationExamples`], which read the image if it has to be.
            index: of the image.
            flipped: whether the mirror image is meant.
            pixel_values: `(1, 3, H, W)`, if they are at hand.
            store, spill: see `FeatureCache.get_or_compute`.
        """
        # pixel values at hand that are not to be kept need no name in the cache
        unnamed = self.cache.storage == "none" or (pixel_values is not None and not store)
        if self.model.training:
            self.model.eval()

        def compute() -> CachedFeatures:
            pixels = examples.pixel_values(index, flipped) if pixel_values is None else pixel_values
            return self._rounded(self.model.image_features(pixels.to(self.model.device), self.stage))

        with self.autocast():
            key = ""
            if not unnamed:
                digest = examples.image_digest(index)
                key = hashlib.sha256(f"{self.fingerprint} {digest} {flipped}".encode()).hexdigest()
            return self._restored(self.cache.get_or_compute(key, compute, store and not unnamed, spill))

    def _rounded(self, features: CachedFeatures) -> CachedFeatures:
        if self.dtype == "float32":
            return features
        return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in features.items()}

    def _restored(self, features: CachedFeatures) -> CachedFeatures:
        if self.dtype == "float32":
            return features
        dtype = self.model.dtype
        return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in features.items()}
