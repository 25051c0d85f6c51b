"""From what SAM 3's heads say of one image and some classes to maps of the classes and to instances.

SAM 3 says three things of a class: whether it is in the image at all (presence), where (semantic head), and which
objects of it there are (a score and a mask for each query). Which of them gives the best map of several classes is an
open question (facebookresearch/sam3#611), so that there is a choice of readings.
"""

import torch
from torch import Tensor

from ...errors import SSPromptError
from ...segmentation.predictions import ClassInstances

READINGS = ("fused", "semantic", "instances")

INSTANCE_SCORE_FLOOR = 0.01
"""Instances with a score up to it are not kept. That is far below the 0.3 from which transformers shows instances, and
what average precision gains below it is nothing."""

INSTANCES_PER_IMAGE = 300
"""So many instances are kept, the best scored; each is a mask of 288 x 288. Metrics ask for 100."""


def check_reading(reading: str) -> None:
    """
    Raises:
        SSPromptError: there is no such reading.
    """
    if reading not in READINGS:
        raise SSPromptError(f"semantic_reading is {reading!r}; it must be one of {', '.join(READINGS)}")


def class_maps(
    semantic_logits: Tensor, queries_logits: Tensor, masks_logits: Tensor, presence_logits: Tensor, reading: str
) -> Tensor:
    """
    Where each class is, between 0 and 1.

    Args:
        semantic_logits: `(n, h, w)`, of n pairs of image and class.
        queries_logits: `(n, Q)`.
        masks_logits: `(n, Q, h, w)`.
        presence_logits: `(n,)`.
        reading: `"fused"`, that of SegEarth-OV3: at each pixel the larger of the semantic head and of all masks times
            their scores; or one of the two, `"semantic"` or `"instances"`. All of them times presence.

    Returns:
        `(n, h, w)`, float32 at least, differentiable.
    """
    dtype = torch.promote_types(semantic_logits.dtype, torch.float32)
    maps = None
    if reading != "instances":
        maps = semantic_logits.to(dtype).sigmoid()
    if reading != "semantic":
        masks = masks_logits.to(dtype).sigmoid() * queries_logits.to(dtype).sigmoid()[..., None, None]
        best = masks.max(1).values  # of equal ones the first gets the gradient; `amax` would share it out
        maps = best if maps is None else torch.maximum(maps, best)
    return maps * presence_logits.to(dtype).sigmoid()[:, None, None]


class InstanceList:
    """
    The best instances of one image, collected class by class, so that 150 classes take no more memory than a few.

    Args:
        image: its index in the batch.
        num_queries: how many queries the model has.
    """

    def __init__(self, image: int, num_queries: int):
        self.image, self.num_queries = image, num_queries
        self.parts: tuple[Tensor, ...] | None = None

    def add(self, classes: Tensor, queries_logits: Tensor, masks_logits: Tensor, presence_logits: Tensor) -> None:
        """
        Keep the best of some classes and of those before.

        Args:
            classes: `(n,)` int64.
            queries_logits, masks_logits, presence_logits: `(n, Q)`, `(n, Q, h, w)`, `(n,)`.
        """
        dtype = torch.promote_types(queries_logits.dtype, torch.float32)
        scores = queries_logits.to(dtype).sigmoid() * presence_logits.to(dtype).sigmoid()[:, None]
        pair, query = (scores > INSTANCE_SCORE_FLOOR).nonzero(as_tuple=True)
        best = _best(scores[pair, query])
        pair, query = pair[best], query[best]
        parts = (classes[pair], query, scores[pair, query], masks_logits[pair, query])
        if self.parts is not None:
            parts = tuple(torch.cat(both) for both in zip(self.parts, parts))
            best = _best(parts[2])
            if len(best) < len(parts[2]):
                parts = tuple(part[best] for part in parts)
        self.parts = parts

    @staticmethod
    def join(lists: list["InstanceList"]) -> ClassInstances:
        """The instances of a batch, in the order of images, classes as they were asked, and queries."""
        labels, queries, scores, masks = (torch.cat(parts) for parts in zip(*(images.parts for images in lists)))
        counts = torch.tensor([len(images.parts[0]) for images in lists], device=labels.device)
        image_of = torch.tensor([images.image for images in lists], device=labels.device).repeat_interleave(counts)
        return ClassInstances(image_of, labels, queries, scores, masks, lists[0].num_queries)


def _best(scores: Tensor) -> Tensor:
    """int64: where the best of `(n,)` scores are, in their order."""
    if len(scores) <= INSTANCES_PER_IMAGE:
        return torch.arange(len(scores), device=scores.device)
    return scores.topk(INSTANCES_PER_IMAGE).indices.sort().values
