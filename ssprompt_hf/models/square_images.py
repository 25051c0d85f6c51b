"""Images to squares without torchvision, which transformers' processors of SAM 2 and SAM 3 need."""

from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack

from ..errors import SSPromptError
from .interface import PromptableImageProcessor

MODES = {PILImageResampling.BILINEAR: "bilinear", PILImageResampling.BICUBIC: "bicubic"}


class SquareImageProcessorKwargs(ImagesKwargs, total=False):
    """
    mask_size (`dict[str, int]`, *optional*):
        Of transformers' own processors, for their segmentation maps; without effect here.
    """

    mask_size: dict[str, int]


class SquareImageProcessor(PromptableImageProcessor, PilBackend):
    r"""
    Resize to a square, rescale, normalise. A subclass gives the default values of the model.

    Resizing is PyTorch's own, antialiased, as torchvision calls it: of bytes where the processor has AVX2, else of
    floats that are rounded to bytes. The two differ by at most one step of 255.

    Args:
        kwargs ([`SquareImageProcessorKwargs`]):
            `do_resize`, `size` (with `height` and `width`), `resample`, `do_rescale`, `rescale_factor`,
            `do_normalize`, `image_mean`, `image_std` and `do_convert_rgb`.
    """

    valid_kwargs = SquareImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes", "original_sizes"]

    do_convert_rgb = True
    do_resize = True
    default_to_square = True
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True

    def preprocess(self, images: ImageInput, **kwargs: Unpack[SquareImageProcessorKwargs]) -> BatchFeature:
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
        pixel_values = torch.stack([self._pixel_values(image, **kwargs) for image in images])
        data = {
            "pixel_values": pixel_values.numpy(),
            "image_sizes": np.array([pixel_values.shape[-2:]] * len(images), dtype=np.int64),
            "original_sizes": np.array([image.shape[-2:] for image in images], dtype=np.int64),
        }
        return BatchFeature(data, tensor_type=kwargs["return_tensors"])

    def _pixel_values(self, image: np.ndarray, **kwargs: Any) -> torch.Tensor:
        """float32 `(3, H, W)` of `(3, h, w)`."""
        if kwargs["do_resize"]:
            image = self.resize(image, kwargs["size"], kwargs["resample"])
        pixels = torch.from_numpy(np.array(image)).float()
        if not kwargs["do_normalize"]:
            return pixels * kwargs["rescale_factor"] if kwargs["do_rescale"] else pixels
        # as transformers folds both into one, to the bit
        scale = 1 / kwargs["rescale_factor"] if kwargs["do_rescale"] else 1.0
        mean, std = (torch.tensor(kwargs[name]).reshape(-1, 1, 1) * scale for name in ("image_mean", "image_std"))
        return (pixels - mean) / std

    def resize(self, image: np.ndarray, size: SizeDict, resample: int | None = None, **kwargs: Any) -> np.ndarray:
        """
        Args:
            image: `(C, h, w)`, bytes or floats.
            size: with `height` and `width`.
            resample: bilinear or bicubic.

        Raises:
            SSPromptError: another resampling.
        """
        if resample not in MODES:
            raise SSPromptError(f"resample is {resample}; it must be {' or '.join(str(int(mode)) for mode in MODES)}")
        target, mode = (size.height, size.width), MODES[resample]
        if image.shape[-2:] == target:
            return image
        # whole pixels in memory, as pictures have them: four times as fast
        values = torch.from_numpy(np.array(np.moveaxis(image, 0, -1), order="C")).permute(2, 0, 1)
        is_bytes = values.dtype == torch.uint8
        # torchvision's rule, so that pixels are the same on every machine where it could be installed
        rounds_last = is_bytes and mode == "bilinear" and "AVX2" not in torch.backends.cpu.get_cpu_capability()
        if rounds_last or not (is_bytes or values.is_floating_point()):
            values = values.float()
        values = F.interpolate(values[None], size=target, mode=mode, align_corners=False, antialias=True)[0]
        return (values.round().to(torch.uint8) if rounds_last else values).numpy()

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.resized_size`]: the square."""
        return (self.size["height"], self.size["width"]) if self.do_resize else tuple(size)
