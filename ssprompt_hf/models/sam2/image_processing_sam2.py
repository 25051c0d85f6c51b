"""Images to SAM 2's inputs, without torchvision, which transformers' `Sam2ImageProcessor` needs."""

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ...errors import SSPromptError
from ...segmentation.policy import InferencePolicy
from ..square_images import SquareImageProcessor


class Sam2ImageProcessorPil(SquareImageProcessor):
    """
    Does what transformers' `Sam2ImageProcessor` does to images, reads the same files, and writes files that it reads.

    Args:
        kwargs: see [`SquareImageProcessor`]; `size` is 1024 x 1024 by default.
    """

    size = {"height": 1024, "width": 1024}
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    mask_size = {"height": 256, "width": 256}

    def with_image_size(self, image_size: int) -> "Sam2ImageProcessorPil":
        """
        A copy, if that is the size anyway.

        Raises:
            SSPromptError: another size; the features of SAM 2 have one size.
        """
        own = (self.size["height"], self.size["width"])
        if own != (image_size, image_size):
            raise SSPromptError(f"image_size is {image_size}, but this SAM 2 takes {own[0]}x{own[1]}, and no others")
        return type(self).from_dict(self.to_dict())

    def inference_policy(self) -> InferencePolicy:
        """See [`PromptableImageProcessor.inference_policy`]."""
        return InferencePolicy()
