"""Images to SAM's inputs, without torchvision: transformers' own `SamImageProcessorPil`."""

from typing import Any

import transformers
from transformers.image_processing_utils import BatchFeature

from ...errors import SSPromptError
from ...segmentation.policy import InferencePolicy
from ..interface import PromptableImageProcessor


class SamImageProcessorPil(PromptableImageProcessor, transformers.SamImageProcessorPil):
    """
    `transformers.SamImageProcessorPil`, which also tells `image_sizes` (B, 2), as int64: height and width of each
    image in the square, at the top left. The longer side fills it. Reads and writes the same files.
    """

    model_input_names = ["pixel_values", "image_sizes", "original_sizes"]
    size_forms = (("longest_edge",),)

    def _preprocess_image_like_inputs(self, *args: Any, **kwargs: Any) -> BatchFeature:
        features = super()._preprocess_image_like_inputs(*args, **kwargs)
        features["image_sizes"] = features["reshaped_input_sizes"]
        return features

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.resized_size`]."""
        return self._get_preprocess_shape(size, self.size["longest_edge"]) if self.do_resize else tuple(size)

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.padded_size`]: the square."""
        return (self.pad_size["height"], self.pad_size["width"]) if self.do_pad else tuple(size)

    def with_image_size(self, image_size: int) -> "SamImageProcessorPil":
        """
        A copy, if that is the size anyway.

        Raises:
            SSPromptError: another size; SAM's positions are those of one size.
        """
        if image_size != self.size["longest_edge"]:
            raise SSPromptError(
                f"image_size is {image_size}, but this SAM takes images whose longer side has "
                f"{self.size['longest_edge']} pixels, and no others"
            )
        return type(self).from_dict(self.to_dict())

    def inference_policy(self) -> InferencePolicy:
        """See [`PromptableImageProcessor.inference_policy`]."""
        return InferencePolicy()
