"""Images to SAM 3's inputs, without torchvision, which transformers' `Sam3ImageProcessor` needs."""

from transformers.image_utils import IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD

from ...errors import SSPromptError
from ...segmentation.policy import InferencePolicy
from ..square_images import SquareImageProcessor, SquareImageProcessorKwargs


class Sam3ImageProcessorKwargs(SquareImageProcessorKwargs, total=False):
    """
    patch_size (`int`, *optional*, defaults to 14):
        The side of an image must be a multiple of it.
    """

    patch_size: int


class Sam3ImageProcessorPil(SquareImageProcessor):
    """
    Does what transformers' `Sam3ImageProcessor` does to images, reads the same files, and writes files that it reads.

    Args:
        kwargs ([`Sam3ImageProcessorKwargs`]): see [`SquareImageProcessor`]; `size` is 1008 x 1008 by default.
    """

    valid_kwargs = Sam3ImageProcessorKwargs

    size = {"height": 1008, "width": 1008}
    image_mean = IMAGENET_STANDARD_MEAN
    image_std = IMAGENET_STANDARD_STD
    mask_size = {"height": 288, "width": 288}
    patch_size = 14

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
