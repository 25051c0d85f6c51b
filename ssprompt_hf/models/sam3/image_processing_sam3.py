"""Images to SAM 3's inputs, without torchvision, which transformers' `Sam3ImageProcessor` needs."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import (
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack

from ...errors import SSPromptError
from ...segmentation.policy import InferencePolicy
from ..interface import PromptableImageProcessor

MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class Sam3ImageProcessorKwargs(ImagesKwargs, total=False):
    """
    mask_size (`dict[str, int]`, *optional*):
        Of transformers' `Sam3ImageProcessor`, for its segmentation maps; without effect here.
    patch_size (`int`, *optional*, defaults to 14):
        The side of an image must be a multiple of it.
    """

    mask_size: dict[str, int]
    patch_size: int


class Sam3ImageProcessorPil(PromptableImageProcessor, PilBackend):
    r"""
    Does what transformers' `Sam3ImageProcessor` does to images: resize to a square, rescale, normalise. Reads the same
    files, and writes files that it reads.

    Resizing is PyTorch's own, antialiased, as torchvision calls it: of bytes where the processor has AVX2, else of
    floats that are rounded to bytes. The two differ by at most one step of 255.

    Args:
        kwargs ([`Sam3ImageProcessorKwargs`]):
            `do_resize`, `size` (`{"height": 1008, "width": 1008}`), `resample`, `do_rescale`, `rescale_factor`,
            `do_normalize`, `image_mean`, `image_std`, `do_convert_rgb` and `patch_size`.
    """

    valid_kwargs = Sam3ImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes", "original_sizes"]

    do_convert_rgb = True
    do_resize = True
    size = {"height": 1008, "width": 1008}
    default_to_square = True
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    mask_size = {"height": 288, "width": 288}
    patch_size = 14

    def preprocess(self, images: ImageInput, **kwargs: Unpack[Sam3ImageProcessorKwargs]) -> BatchFeature:
        """
        Prepare a batch of images, of any sizes.

        Args:
            images (`ImageInput`): B images: PIL, or arrays (H, W, 3) or (3, H, W) on the scale 0 to 255.

        Returns:
            `BatchFeature` with

            - `pixel_values` (B, 3, *size) float32;
            - `image_sizes` (B, 2) int64, the same square for all: images fill it;
            - `original_sizes` (B, 2) int64, height and width before resizing.
        """
        return super().preprocess(images, **kwargs)

    def _preprocess_image_like_inputs(self, images: ImageInput, **kwargs: Any) -> BatchFeature:
        conversion = {key: kwargs.pop(key) for key in ("do_convert_rgb", "input_data_format")}
        images = self._prepare_image_like_inputs(images, **conversion)
        pixel_values = torch.stack([self._pixel_values(image, **kwargs) for image in images]).contiguous()
        sizes = np.array([pixel_values.shape[-2:]] * len(images), dtype=np.int64)
        original_sizes = np.array([image.shape[-2:] for image in images], dtype=np.int64)
        data = {"pixel_values": pixel_values.numpy(), "image_sizes": sizes, "original_sizes": original_sizes}
        return BatchFeature(data, tensor_type=kwargs["return_tensors"])

    def _pixel_values(self, image: np.ndarray, **kwargs: Any) -> torch.Tensor:
        """float32 `(3, H, W)` of `(3, h, w)`."""
        if kwargs["do_resize"]:
            image = self.resize(image, kwargs["size"], kwargs["resample"])
        pixels = _tensor(image).float()
        if not kwargs["do_normalize"]:
            return pixels * kwargs["rescale_factor"] if kwargs["do_rescale"] else pixels
        # as transformers folds both into one, to the bit
        scale = 1 / kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        mean, std = (torch.tensor(kwargs[name])[:, None, None] * scale for name in ("image_mean", "image_std"))
        return (pixels - mean) / std

    def resize(self, image: np.ndarray, size: SizeDict, resample: int | None = None, **kwargs: Any) -> np.ndarray:
        """
        Args:
            image: `(C, h, w)`, bytes or floats.
            size: with `height` and `width`.
            resample: bilinear or bicubic.

        Raises:
            SSPromptError: another resampling, or a size that is given by its sides' lengths.
        """
        if resample not in MODES:
            raise SSPromptError(f"resample is {resample}; it must be {' or '.join(map(str, MODES))}")
        if not (size.height and size.width):
            raise SSPromptError(f"size is {dict(size)}; it must have height and width")
        if image.shape[-2:] == (size.height, size.width):
            return image
        # whole pixels in memory, as pictures have them: four times as fast
        values = _tensor(np.moveaxis(image, 0, -1)).permute(2, 0, 1)
        is_bytes, mode = values.dtype == torch.uint8, MODES[resample]
        # torchvision's rule, so that pixels are the same on every machine where it could be installed
        rounds_last = is_bytes and mode == "bilinear" and "AVX2" not in torch.backends.cpu.get_cpu_capability()
        if rounds_last or not (is_bytes or values.is_floating_point()):
            values = values.float()
        target = (size.height, size.width)
        values = F.interpolate(values[None], size=target, mode=mode, align_corners=False, antialias=True)[0]
        return (values.round().to(torch.uint8) if rounds_last else values).numpy()

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.resized_size`]: the square."""
        return (self.size["height"], self.size["width"]) if self.do_resize else tuple(size)

    def with_image_size(self, image_size: int) -> "Sam3ImageProcessorPil":
        """
        A copy that makes squares of `image_size` pixels. SAM 3 was trained on 1008; smaller squares are faster, and
        the model takes its positions as if it had been built for them.

        Raises:
            SSPromptError: not a positive multiple of `patch_size`.
        """
        if image_size < self.patch_size or image_size % self.patch_size:
            near = max(1, round(image_size / self.patch_size)) * self.patch_size
            raise SSPromptError(
                f"image_size is {image_size}, but SAM 3 takes multiples of {self.patch_size}: {near} is the nearest"
            )
        return type(self).from_dict({**self.to_dict(), "size": {"height": image_size, "width": image_size}})

    def inference_policy(self) -> InferencePolicy:
        """See [`PromptableImageProcessor.inference_policy`]: the defaults of `Sam3Processor`, which shows instances
        from 0.3 and takes half as the threshold of masks and, here, of panoptic segments."""
        return InferencePolicy(segment_threshold=0.5, instance_threshold=0.3)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Without a copy where the array is in one piece and may be written to; PyTorch warns of others."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
