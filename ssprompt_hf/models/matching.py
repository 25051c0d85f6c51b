"""Hungarian matching of queries to segments and the losses on the pairs: Mask2Former's, as in transformers."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from ..errors import SSPromptError
from .transformers_compat import Mask2FormerLoss


@dataclass
class MatchingWeights:
    """Weights of matching cost and loss; the defaults are those SEEM and Mask2Former are trained with."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75

    def of_losses(self) -> dict[str, float]:
        """The weight of each part of the loss, by its name in the criterion's result."""
        return {
            "loss_cross_entropy": self.class_weight,
            "loss_mask": self.mask_weight,
            "loss_dice": self.dice_weight,
        }

    def criterion(self, num_classes: int, cls: type[Mask2FormerLoss] = Mask2FormerLoss) -> Mask2FormerLoss:
        """Mask2Former's criterion for queries with `num_classes + 1` logits."""
        return cls(SimpleNamespace(num_labels=num_classes, **dataclasses.asdict(self)), self.of_losses())


def universal_segmentation_loss(
    predictions: Iterable[tuple[torch.Tensor, torch.Tensor]],
    mask_labels: list[torch.Tensor],
    class_labels: list[torch.Tensor],
    weights: MatchingWeights | None = None,
) -> torch.Tensor:
    """
    The loss that `Mask2FormerForUniversalSegmentation` returns, with random points of PyTorch's generator.

    Args:
        predictions: class logits `(B, Q, K + 1)` and mask logits `(B, Q, h, w)`, of one decoder layer or of several,
            whose losses are added up.
        mask_labels: one `(M, H, W)` an image, over the padded image; bool or float. M may be 0.
        class_labels: one int64 `(M,)` an image, each 0 to K - 1.
        weights: of costs and losses.

    Returns:
        a scalar, in float32.

    Raises:
        SSPromptError: labels for another number of images, masks without a class or the other way round, or labels
            that are no class.
    """
    weights = weights or MatchingWeights()
    total, criterion = 0.0, None
    for class_logits, mask_logits in predictions:
        device, num_classes = class_logits.device, class_logits.shape[-1] - 1
        if criterion is None:
            check_segments(mask_labels, class_labels, len(class_logits), num_classes)
            criterion = weights.criterion(num_classes)
            mask_labels = [masks.to(device, torch.float) for masks in mask_labels]
            class_labels = [labels.to(device) for labels in class_labels]
        # half precision makes the matching unstable
        with torch.autocast(device.type, enabled=False):
            parts = criterion.to(device)(mask_logits.float(), class_logits.float(), mask_labels, class_labels)
        total = total + sum(weight * parts[name] for name, weight in weights.of_losses().items())
    return total


def check_segments(
    mask_labels: list[torch.Tensor], class_labels: list[torch.Tensor], num_images: int, num_classes: int
) -> None:
    """
    Raises:
        SSPromptError: labels for another number of images, masks without a class or the other way round, or labels
            that are no class.
    """
    if not len(mask_labels) == len(class_labels) == num_images:
        raise SSPromptError(
            f"mask_labels are for {len(mask_labels)} and class_labels for {len(class_labels)} images, but there are "
            f"{num_images}"
        )
    for index, (masks, labels) in enumerate(zip(mask_labels, class_labels)):
        if len(masks) != len(labels):
            raise SSPromptError(f"image {index} has {len(masks)} mask_labels, but {len(labels)} class_labels")
        if outside := [label for label in labels.tolist() if not 0 <= label < num_classes]:
            raise SSPromptError(
                f"class_labels of image {index} hold {outside[0]}, but the model has {num_classes} classes (0 to "
                f"{num_classes - 1}): set the class names of the data set"
            )


def segments_of_classes(labels: torch.Tensor, ignore_index: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """
    Segments of class maps: one for each class that is in an image.

    Args:
        labels: integer `(B, H, W)`, class index.
        ignore_index: of pixels without a class.

    Returns:
        `mask_labels`, bool `(M, H, W)` an image, and `class_labels`, int64 `(M,)` an image.
    """
    found = [image.unique() for image in labels]
    found = [classes[classes != ignore_index].long() for classes in found]
    return [image == classes[:, None, None] for image, classes in zip(labels, found)], found
