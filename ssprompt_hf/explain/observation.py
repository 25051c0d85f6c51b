"""What an evaluation shows besides scores: errors by image and class, and which prompts speak for which class."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..segmentation.predictions import Prediction
from ..segmentation.tiles import MaskGeometry, mask_tiles
from ..training.evaluator import ADAPTED, ZERO_SHOT

STATES = (ZERO_SHOT, ADAPTED)


@dataclass
class Serving:
    """
    Which of Q spatial prompts serve which of K classes: of every labelled pixel that is given class k, each prompt q
    has a share in the score, its probability of k times its mask there.

    Args:
        mass: float64 `(Q, K)`, these shares summed over pixels, so that a column sums to the pixels of its class.
        correct: float64 `(Q, K)`, the same over the pixels that really are of class k.
        wins: int64 `(Q, K)`, pixels in which the prompt has the largest share.
    """

    mass: np.ndarray
    correct: np.ndarray
    wins: np.ndarray

    def __add__(self, other: "Serving") -> "Serving":
        return Serving(self.mass + other.mass, self.correct + other.correct, self.wins + other.wins)

    def class_shares(self) -> np.ndarray:
        """`(Q, K)`: what part of each class comes from each prompt; columns sum to 1, or 0 if a class is never
        given."""
        total = self.mass.sum(axis=0, keepdims=True)
        return np.divide(self.mass, total, out=np.zeros_like(self.mass), where=total > 0)


@dataclass
class Observations:
    """
    What was counted over N images, by state (`STATES`).

    Args:
        confusions: int64 `(K, K + 1)`, as `confusion_matrix` gives them, summed.
        images: int64 `(N, K, 3)`, of each image and class the pixels that are right, those of the truth and those of
            the prediction.
        serving: see `Serving`.
    """

    confusions: dict[str, np.ndarray]
    images: dict[str, np.ndarray]
    serving: dict[str, Serving]


@torch.no_grad()
def serve(prediction: Prediction, geometry: MaskGeometry, class_map: Tensor, label: Tensor) -> Serving:
    """
    The part of each spatial prompt in what one image is given.

    Args:
        prediction: of this image alone.
        geometry: of the image.
        class_map: int64 `(H, W)`, the class given to each pixel.
        label: integer `(H, W)`, the truth; pixels of no class are left out.
    """
    masks, weights, prompt_of, count = prediction.prompt_parts(0)
    num_classes = weights.shape[1]
    mass = torch.zeros(count, num_classes, dtype=torch.float64, device=masks.device)
    correct, wins = torch.zeros_like(mass), torch.zeros(count * num_classes, dtype=torch.long, device=mass.device)
    for tile in mask_tiles(masks, geometry) if len(masks) else ():
        given, truth = (labels[tile.rows, tile.columns].flatten() for labels in (class_map, label))
        known = truth < num_classes  # ignored pixels have a number beyond the classes
        given, right = given[known], (given == truth)[known]
        if len(given) == 0:
            continue
        parts = tile.values().sigmoid_().float().flatten(1)[:, known] * weights[:, given]
        wins += torch.bincount(prompt_of[parts.argmax(dim=0)] * num_classes + given, minlength=len(wins))
        shares = (parts / parts.sum(dim=0).clamp(min=torch.finfo(parts.dtype).tiny)).double()
        shares = shares.new_zeros(count, len(given)).index_add_(0, prompt_of, shares)
        mass.index_add_(1, given, shares)
        correct.index_add_(1, given[right], shares[:, right])
    wins = wins.view(count, num_classes)
    return Serving(mass.cpu().numpy(), correct.cpu().numpy(), wins.cpu().numpy())


class Observer:
    """
    Looks on while an [`Evaluator`] scores images, and keeps what it sees in `seen`.

    Args:
        num_images, num_classes: of the data set.
    """

    def __init__(self, num_images: int, num_classes: int):
        images = {state: np.zeros((num_images, num_classes, 3), np.int64) for state in STATES}
        self.seen = Observations({}, images, {})

    def __call__(
        self,
        index: int,
        state: str,
        prediction: Prediction,
        geometry: MaskGeometry,
        class_map: Tensor,
        label: Tensor,
        confusion: Tensor,
    ) -> None:
        """One image in one state; see `Evaluator.observers`."""
        seen, confusion = self.seen, confusion.cpu().numpy()
        served = serve(prediction, geometry, class_map, label)
        seen.confusions[state] = seen.confusions.get(state, 0) + confusion
        seen.serving[state] = seen.serving[state] + served if state in seen.serving else served
        pixels = np.diagonal(confusion), confusion.sum(axis=1), confusion[:, : len(confusion)].sum(axis=0)
        seen.images[state][index] = np.stack(pixels, axis=-1)
