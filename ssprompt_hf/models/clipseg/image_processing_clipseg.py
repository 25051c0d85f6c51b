"""Images to CLIPSeg's inputs: transformers' `ViTImageProcessorPil`, and where an image lies in what it makes."""

from typing import Any

import numpy as np
from transformers import ViTImageProcessorPil
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, ImageInput
from transformers.processing_utils import ImagesKwargs, Unpack

from ...errors import SSPromptError
from ...segmentation.policy import InferencePolicy
from ..interface import PromptableImageProcessor


class CLIPSegImageProcessorKwargs(ImagesKwargs, total=False):
    """
    patch_size (`int`, *optional*, defaults to 16):
        The side of an image must be a multiple of it.
    """

    patch_size: int


class CLIPSegImageProcessorPil(PromptableImageProcessor, ViTImageProcessorPil):
    r"""
    Does what the processor of the published models does to images, bit for bit: resize to a square by Pillow, rescale,
    normalise. Reads the same files, and writes files that transformers reads.

    Without a file it takes squares of 352 pixels, and normalises as the original implementation does.

    Args:
        kwargs ([`CLIPSegImageProcessorKwargs`]):
            `do_resize`, `size` (`{"height": 352, "width": 352}`), `resample`, `do_rescale`, `rescale_factor`,
            `do_normalize`, `image_mean`, `image_std`, `do_convert_rgb` and `patch_size`.
    """

    valid_kwargs = CLIPSegImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes"]

    do_convert_rgb = True
    size = {"height": 352, "width": 352}
    default_to_square = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    patch_size = 16

    def preprocess(self, images: ImageInput, **kwargs: Unpack[CLIPSegImageProcessorKwargs]) -> BatchFeature:
        """
        Prepare a batch of images, of any sizes.

        Args:
            images (`ImageInput`): B images: PIL, or arrays (H, W, 3) or (3, H, W) on the scale 0 to 255.

        Returns:
            `BatchFeature` with

            - `pixel_values` (B, 3, *size) float32;
            - `image_sizes` (B, 2) int64, the same square for all: images fill it.
        """
        return super().preprocess(images, **kwargs)

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:
        return_tensors = kwargs.pop("return_tensors")
        kwargs.pop("patch_size", None)
        pixel_values = super()._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        sizes = np.array([image.shape[-2:] for image in pixel_values], dtype=np.int64)
        return BatchFeature({"pixel_values": pixel_values, "image_sizes": sizes}, tensor_type=return_tensors)

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, under the name of its own class."""
        return super().to_dict() | {"image_processor_type": "ViTImageProcessor"}

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.resized_size`]: the square."""
        return (self.size["height"], self.size["width"]) if self.do_resize else tuple(size)

    def with_image_size(self, image_size: int) -> "CLIPSegImageProcessorPil":
        """
        A copy that makes squares of `image_size` pixels. CLIPSeg was trained on 352; the model resizes its positions
        and the spatial prompts for others.

        Raises:
            SSPromptError: not a positive multiple of `patch_size`.
        """
        if image_size < self.patch_size or image_size % self.patch_size:
            near = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise SSPromptError(
                f"image_size is {image_size}, but CLIPSeg takes multiples of {self.patch_size}: {near} is the nearest"
            )
        return type(self).from_dict({**self.to_dict(), "size": {"height": image_size, "width": image_size}})

    def inference_policy(self) -> InferencePolicy:
        """See [`PromptableImageProcessor.inference_policy`]: the defaults. CLIPSeg makes class maps only, which
        need no threshold."""
        return InferencePolicy()
