"""One pass over labelled images: what the model answers without and with the adapter, and which prompts say it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from ..data.dataset import SegmentationDataset
from ..metrics import confusion_matrix
from ..model import SSPromptModel
from ..models.seem.image_processing_seem import SeemImageProcessor
from ..segmentation.inference import semantic_segmentation
from ..segmentation.tiles import MaskGeometry, mask_tiles
from ..training.examples import EvaluationExamples
from ..training.feature_cache import compute_entry, model_inputs, spatial_prompts_are_adapted

STATES = ("zero_shot", "adapted")


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
def serve(
    class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry, class_map: Tensor, label: Tensor
) -> Serving:
    """
    The part of each spatial prompt in what one image is given.

    Args:
        class_logits: `(Q, K + 1)`, the last column means "no object".
        mask_logits: `(Q, h, w)`.
        geometry: of the image.
        class_map: int64 `(H, W)`, the class given to each pixel.
        label: int64 `(H, W)`, the truth; pixels of no class are left out.
    """
    probabilities = class_logits.float().softmax(dim=-1)[:, :-1]
    count, num_classes = probabilities.shape
    mass = torch.zeros(count, num_classes, dtype=torch.float64, device=class_logits.device)
    correct, wins = torch.zeros_like(mass), torch.zeros(count * num_classes, dtype=torch.long, device=mass.device)
    for tile in mask_tiles(mask_logits, geometry):
        given, truth = (labels[tile.rows, tile.columns].flatten() for labels in (class_map, label))
        known = truth < num_classes  # ignored pixels have a number beyond the classes
        given, right = given[known], (given == truth)[known]
        if len(given) == 0:
            continue
        parts = tile.logits().sigmoid_().float().flatten(1)[:, known] * probabilities[:, given]
        wins += torch.bincount(parts.argmax(dim=0) * num_classes + given, minlength=len(wins))
        shares = (parts / parts.sum(dim=0).clamp(min=torch.finfo(parts.dtype).tiny)).double()
        mass.index_add_(1, given, shares)
        correct.index_add_(1, given[right], shares[:, right])
    wins = wins.view(count, num_classes)
    return Serving(mass.cpu().numpy(), correct.cpu().numpy(), wins.cpu().numpy())


@torch.no_grad()
def observe(model: SSPromptModel, images: SegmentationDataset, image_processor: SeemImageProcessor) -> Observations:
    """
    Run all images through the base model and the adapted one; the frozen part runs once for both.

    Args:
        model: with an active adapter for the classes of `images`.
        images: with labels.
        image_processor: for the size that images are looked at in.
    """
    base, count = model.get_base_model(), len(images.classes)
    kind = "features" if spatial_prompts_are_adapted(base) else "predictions"
    examples = EvaluationExamples(images, image_processor, load_pixels=True)
    seen = Observations({}, {state: np.zeros((len(images), count, 3), np.int64) for state in STATES}, {})
    for index in logging.tqdm(range(len(images)), desc="looking at images", disable=None):
        example = examples[index]
        label = example["label"].to(model.device)
        size = examples.resized_size(tuple(label.shape))
        entry = compute_entry(base, example["pixel_values"].to(model.device), kind)
        geometry = MaskGeometry(tuple(entry["padded_size"].tolist()), size, tuple(label.shape))
        inputs = model_inputs([entry], model.device) | {"image_sizes": torch.tensor([size])}
        outputs = {"adapted": model(**inputs)}
        with model.base_model.zero_shot():
            outputs["zero_shot"] = model(**inputs)
        for state, output in outputs.items():
            logits = output.class_queries_logits[0], output.masks_queries_logits[0]
            class_map = semantic_segmentation(*logits, geometry)
            confusion = confusion_matrix(class_map, label, count).cpu().numpy()
            served = serve(*logits, geometry, class_map, label)
            seen.confusions[state] = seen.confusions.get(state, 0) + confusion
            seen.serving[state] = seen.serving[state] + served if state in seen.serving else served
            pixels = np.diagonal(confusion), confusion.sum(axis=1), confusion[:, :count].sum(axis=0)
            seen.images[state][index] = np.stack(pixels, axis=-1)
    return seen
