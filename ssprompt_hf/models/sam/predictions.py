"""What SAM and SAM 2 say of images and classes: one map a class, over the padded image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...segmentation.predictions import ClassPrediction
from ...segmentation.tiles import MaskGeometry, Size

MIN_CONFIDENCE = 0.01
"""Below it the confidence of SAM in its own mask, which is no probability and may be negative, counts as this much:
from a map that is 0 everywhere nothing could be learned any more."""


def class_maps(masks_logits: Tensor, iou_scores: Tensor, object_score_logits: Tensor | None) -> Tensor:
    """
    The score of each class at each pixel: the probability of its mask times the model's own confidence in it.

    Args:
        masks_logits: `(P, h, w)`, of P pairs of image and class.
        iou_scores: `(P,)`, the quality that the model expects of each mask; taken between `MIN_CONFIDENCE` and 1.
        object_score_logits: `(P,)`, whether there is an object at all; None in SAM.

    Returns:
        `(P, h, w)`, 0 to 1, float32 at least, differentiable.
    """
    dtype = torch.promote_types(masks_logits.dtype, torch.float32)
    confidence = iou_scores.to(dtype).clamp(MIN_CONFIDENCE, 1.0)
    if object_score_logits is not None:
        confidence = confidence * object_score_logits.to(dtype).sigmoid()
    return masks_logits.to(dtype).sigmoid() * confidence[:, None, None]


@dataclass
class MaskPrediction(ClassPrediction):
    """
    A [`ClassPrediction`] with one mask a class, and no single objects.

    Args:
        padded_size: of the pixel values that the maps cover, where images are padded; None where they fill them.
    """

    padded_size: Size | None = None

    def image(self, index: int) -> "MaskPrediction":
        return MaskPrediction(**vars(super().image(index)), padded_size=self.padded_size)

    def geometry(self, image_size: Size, target_size: Size) -> MaskGeometry:
        """As `post_process_masks` of transformers' processors: bilinear, without the padding."""
        if self.padded_size is None:
            return super().geometry(image_size, target_size)
        return MaskGeometry(tuple(self.padded_size), tuple(image_size), tuple(target_size), "bilinear")
