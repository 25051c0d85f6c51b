"""What a base model says of images and classes, in the two forms there are.

* [`QueryPrediction`]: queries propose masks and share their class probability out among all classes and "no object",
  by a softmax. The class scores of a pixel are sums over the queries (MaskFormer, SEEM).
* [`ClassPrediction`]: every class is asked about by itself, and has a map of its own, between 0 and 1, and perhaps
  masks of its instances (SAM 3).
"""

import abc
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..utils.cpu_ops import matmul
from .tiles import MaskGeometry, MaskTile, Size, mask_tiles


class ScoredMasks(NamedTuple):
    """
    N scored and labelled masks of one image, of M different masks.

    Args:
        scores: `(N,)` float, 0 to 1.
        labels: `(N,)` int64, class indices.
        mask_of: `(N,)` int64, the mask of each.
        masks: `(M, h, w)`, logits or probabilities at their own resolution.
        are_logits: which of the two.
        weighs_masks: whether an instance's score is still to be multiplied by the mean probability inside its mask.
    """

    scores: Tensor
    labels: Tensor
    mask_of: Tensor
    masks: Tensor
    are_logits: bool = True
    weighs_masks: bool = False


class PromptParts(NamedTuple):
    """
    Who speaks in the class scores of one image: the score of class k at a pixel is made of the probabilities of the
    masks there times `weights[:, k]`.

    Args:
        masks: `(M, h, w)` logits.
        weights: `(M, K)`.
        prompt_of: `(M,)` int64, the spatial prompt that each mask comes from.
        num_prompts: how many spatial prompts there are.
    """

    masks: Tensor
    weights: Tensor
    prompt_of: Tensor
    num_prompts: int


class Prediction(abc.ABC):
    """Of B images, about K classes."""

    num_classes: int
    supports_instances = True
    """Whether there are masks of single objects, for instance and panoptic results."""

    @abc.abstractmethod
    def class_scores(self, size: Size | None = None) -> Tensor:
        """
        Class scores at the resolution of the masks, or enlarged to `size` as inference would enlarge them.

        Returns:
            `(B, K, h, w)`, float32 at least, not negative, differentiable. A class that an image was not asked about
            has the score 0.
        """

    @abc.abstractmethod
    def image(self, index: int) -> "Prediction":
        """The prediction about one image, as a batch of one."""

    @abc.abstractmethod
    def geometry(self, image_size: Size, target_size: Size) -> MaskGeometry:
        """How masks become maps of `target_size`, for an image of `image_size` in the pixel values."""

    @abc.abstractmethod
    def class_map(self, index: int, geometry: MaskGeometry) -> Tensor:
        """int64 of the target size: the class with the largest score at every pixel of an image, the first of equal
        ones."""

    @abc.abstractmethod
    def panoptic_masks(self, index: int, threshold: float) -> ScoredMasks:
        """The masks of an image whose best class has a score above `threshold`, in the order of the queries."""

    @abc.abstractmethod
    def instance_masks(self, index: int, thing_class_ids: set[int], top_k: int) -> ScoredMasks:
        """The `top_k` best pairs of mask and class of an image, of which those of things."""

    @abc.abstractmethod
    def prompt_parts(self, index: int) -> PromptParts:
        """Which spatial prompts speak in the class scores of an image."""


def mix_scores(class_queries_logits: Tensor, masks_queries_logits: Tensor) -> Tensor:
    """
    Class scores of semantic inference: the sum over queries of class probability times mask probability.

    Args:
        class_queries_logits: `(B, Q, K + 1)`; the last class, "no object", is dropped after the softmax.
        masks_queries_logits: `(B, Q, h, w)`.

    Returns:
        float32 (float64 for float64 input) `(B, K, h, w)`, not negative, in general not summing to 1.
    """
    dtype = torch.promote_types(class_queries_logits.dtype, torch.float32)
    probabilities = class_queries_logits.softmax(dim=-1, dtype=dtype)[..., :-1]
    masks = masks_queries_logits.to(dtype).sigmoid().flatten(2)
    # under autocast the product would be one of half precision, where small probabilities vanish
    with torch.autocast(masks.device.type, enabled=False):
        return matmul(probabilities.transpose(1, 2), masks).unflatten(2, masks_queries_logits.shape[-2:])


@dataclass
class QueryPrediction(Prediction):
    """
    Queries with a softmax over classes, and perhaps one more mask of each whole class, which has a share `s` of the
    class's scores. It knows nothing of single objects.

        score_k = (1 - s_k) * sum_q p_qk * mask_q + s_k * class_mask_k

    Args:
        class_queries_logits: `(B, Q, K + 1)`; the last column means "no object".
        masks_queries_logits: `(B, Q, h, w)`, over the padded images.
        padded_size: of the padded images, in pixels.
        class_masks_logits: `(B, K, h, w)`, or None.
        class_masks_shares: `(K,)`, 0 to 1, or None.
    """

    class_queries_logits: Tensor
    masks_queries_logits: Tensor
    padded_size: Size
    class_masks_logits: Tensor | None = None
    class_masks_shares: Tensor | None = None

    @property
    def num_classes(self) -> int:
        return self.class_queries_logits.shape[-1] - 1

    def image(self, index: int) -> "QueryPrediction":
        one = slice(index, index + 1)
        return QueryPrediction(
            self.class_queries_logits[one],
            self.masks_queries_logits[one],
            self.padded_size,
            None if self.class_masks_logits is None else self.class_masks_logits[one],
            self.class_masks_shares,
        )

    def class_scores(self, size: Size | None = None) -> Tensor:
        def sized(masks):
            if size is None:
                return masks
            return F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)

        scores = mix_scores(self.class_queries_logits, sized(self.masks_queries_logits))
        if self.class_masks_logits is None:
            return scores
        shares = self.class_masks_shares.to(scores)[:, None, None]
        # with a share of 0 this is what the queries say, to the bit
        return (1 - shares) * scores + shares * sized(self.class_masks_logits).to(scores.dtype).sigmoid()

    def geometry(self, image_size: Size, target_size: Size) -> MaskGeometry:
        return MaskGeometry(tuple(self.padded_size), tuple(image_size), tuple(target_size))

    def _probabilities(self, index: int) -> Tensor:
        """`(Q, K + 1)`, softmax in at least float32."""
        logits = self.class_queries_logits[index]
        return logits.softmax(dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))

    def _mixture(self, index: int) -> tuple[Tensor, Tensor]:
        """`(K, M)` and `(M, h, w)` of an image: the class scores of a pixel are these weights times the probabilities
        of these M masks there."""
        weights = self._probabilities(index)[:, :-1].T
        masks, shares = self.masks_queries_logits[index], self.class_masks_shares
        # left out where they have no share: the longer sum could be rounded in another way
        if self.class_masks_logits is None or not shares.any():
            return weights, masks
        shares = shares.to(weights)
        weights = torch.cat([(1 - shares)[:, None] * weights, shares.diag()], dim=1)
        return weights, torch.cat([masks, self.class_masks_logits[index].to(masks.dtype)])

    def class_map(self, index: int, geometry: MaskGeometry) -> Tensor:
        weights, masks = self._mixture(index)
        result = torch.empty(geometry.target_size, dtype=torch.long, device=masks.device)
        for tile in mask_tiles(masks, geometry):
            # where one class leads whatever the masks within their bounds, as inside roads and skies, that is all
            bounds = [bound.sigmoid().to(weights.dtype) for bound in tile.bounds()]
            low, high = ((weights * bound).sum(1) for bound in bounds)
            first = low.argmax()
            label = first
            if (high.index_fill(0, first, 0) > low[first] - ROUNDING).any():
                label = _tile_labels(tile, weights, *bounds)
            result[tile.rows, tile.columns] = label
        return result

    def score_maps(self, index: int, geometry: MaskGeometry) -> Tensor:
        """`(K, height, width)` of the target size: the class scores that `class_map` compares."""
        weights, masks = self._mixture(index)
        scores = weights.new_empty(len(weights), *geometry.target_size)
        for tile in mask_tiles(masks, geometry):
            scores[:, tile.rows, tile.columns] = _tile_scores(tile, weights)
        return scores

    def panoptic_masks(self, index: int, threshold: float) -> ScoredMasks:
        scores, labels = self._probabilities(index).max(dim=-1)
        keep = (labels != self.num_classes) & (scores > threshold)
        masks = self.masks_queries_logits[index][keep]
        return ScoredMasks(scores[keep], labels[keep], torch.arange(len(masks), device=masks.device), masks)

    def instance_masks(self, index: int, thing_class_ids: set[int], top_k: int) -> ScoredMasks:
        probabilities = self._probabilities(index)[:, :-1]
        num_classes = probabilities.shape[1]
        flat = probabilities.flatten()
        scores, pairs = flat.topk(min(top_k, flat.numel()), sorted=False)  # unsorted: the official order
        is_thing = torch.zeros(num_classes, dtype=torch.bool, device=pairs.device)
        is_thing[list(thing_class_ids)] = True
        keep = is_thing[pairs % num_classes]
        scores, pairs = scores[keep], pairs[keep]
        # one query may appear with several classes
        queries, query_of = (pairs // num_classes).unique(return_inverse=True)
        masks = self.masks_queries_logits[index][queries]
        return ScoredMasks(scores, pairs % num_classes, query_of, masks, weighs_masks=True)

    def prompt_parts(self, index: int) -> PromptParts:
        weights, masks = self._mixture(index)
        num_prompts = len(self.masks_queries_logits[index])
        if self.class_masks_logits is not None:
            num_prompts += self.num_classes
        return PromptParts(masks, weights.float().T, torch.arange(len(masks), device=masks.device), num_prompts)


def _tile_scores(tile: MaskTile, weights: Tensor, queries: Tensor | slice = slice(None)) -> Tensor:
    """(K, rows, columns) class scores of some queries; `weights` (K, Q) are the queries' class probabilities."""
    masks = tile.values(queries).sigmoid_().to(weights.dtype)
    with torch.autocast(masks.device.type, enabled=False):
        scores = matmul(weights[:, queries][None], masks.flatten(1)[None])[0]
    return scores.unflatten(1, masks.shape[1:])


ROUNDING = 1e-5
"""More than scores can differ by rounding."""
MAX_LEFT_OUT = 0.03
"""By how much the scores of a tile may be uncertain at first; with `seem-nano` on street scenes 16 of 100 queries then
remain, and 0.8 % of the pixels have to be looked at once more."""


def _tile_labels(tile: MaskTile, weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """
    int64 (rows, columns): the class with the largest score.

    Most queries say nearly the same at all pixels of a tile. The others decide most pixels; where what is left out
    could make a difference, all queries are asked.

    Args:
        tile: logits of the masks.
        weights: (K, Q), the queries' class probabilities.
        low, high: (Q,), between which the mask probabilities of each query lie.
    """
    if tile.patch.device.type != "cpu":  # where choosing takes longer than asking all
        return _tile_scores(tile, weights).max(dim=0).indices
    with torch.autocast("cpu", enabled=False):
        return _cpu_tile_labels(tile, weights, low, high)


def _cpu_tile_labels(tile: MaskTile, weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
    spread = (high - low) * weights.amax(0)
    levels = MAX_LEFT_OUT * 0.5 ** torch.arange(8, dtype=spread.dtype)
    left_out = torch.where(spread <= levels[:, None], spread, 0).sum(1)  # at each level; the last is too low to matter
    level = int((left_out > MAX_LEFT_OUT).sum())
    rest = spread <= levels[min(level, len(levels) - 1)]
    live = (~rest).nonzero().flatten()
    if 2 * len(live) > len(rest):
        return _tile_scores(tile, weights).max(dim=0).indices  # twice as fast as `argmax`
    scores = _tile_scores(tile, weights, live).add_((weights[:, rest] @ low[rest])[:, None, None])
    best, labels = scores.max(dim=0)
    if len(scores) < 2:
        return labels
    second = scores.scatter_(0, labels[None], -torch.inf).amax(0)
    error = (weights[:, rest] @ (high - low)[rest]).max() + ROUNDING
    rows, columns = (best - second <= error).nonzero(as_tuple=True)
    if 8 * len(rows) > labels.numel():
        return _tile_scores(tile, weights).max(dim=0).indices
    if len(rows):
        masks = tile.at(rows, columns).sigmoid_().to(weights.dtype)
        labels[rows, columns] = (weights @ masks).max(dim=0).indices
    return labels


@dataclass
class ClassQueries:
    """
    What the queries say when they are asked about one class at a time, for the loss of instances.

    Args:
        scores_logits: `(P, Q)`, of each query in each pair of image and class; without the class's presence.
        masks_logits: `(P, Q, h, w)`.
    """

    scores_logits: Tensor
    masks_logits: Tensor


@dataclass
class ClassInstances:
    """
    N masks of instances, in the order of images and classes.

    Args:
        image_of, labels, query_of: `(N,)` int64: image, class and query of each.
        scores: `(N,)`, 0 to 1, with the class's presence.
        masks_logits: `(N, h, w)`.
        num_queries: how many queries the model has.
    """

    image_of: Tensor
    labels: Tensor
    query_of: Tensor
    scores: Tensor
    masks_logits: Tensor
    num_queries: int


@dataclass
class ClassPrediction(Prediction):
    """
    A map for each pair of an image and a class that it was asked about.

    Args:
        maps: `(P, h, w)`, 0 to 1: the class scores of the pixels, with all that the model knows of the class.
        image_of, class_of: `(P,)` int64: the pairs.
        batch_size, num_classes: B and K.
        presence_logits: `(P,)`: whether the class is in the image at all; None where the model does not say.
        queries: for training.
        instances: for inference.
    """

    maps: Tensor
    image_of: Tensor
    class_of: Tensor
    batch_size: int
    num_classes: int
    presence_logits: Tensor | None = None
    queries: ClassQueries | None = None
    instances: ClassInstances | None = None

    @property
    def supports_instances(self) -> bool:
        return self.queries is not None or self.instances is not None

    def image(self, index: int) -> "ClassPrediction":
        mine = (self.image_of == index).nonzero().flatten()
        queries, instances = self.queries, self.instances
        if queries is not None:
            queries = ClassQueries(queries.scores_logits[mine], queries.masks_logits[mine])
        if instances is not None:
            own = (instances.image_of == index).nonzero().flatten()
            instances = ClassInstances(
                torch.zeros_like(own),
                instances.labels[own],
                instances.query_of[own],
                instances.scores[own],
                instances.masks_logits[own],
                instances.num_queries,
            )
        return ClassPrediction(
            self.maps[mine],
            torch.zeros_like(mine),
            self.class_of[mine],
            1,
            self.num_classes,
            None if self.presence_logits is None else self.presence_logits[mine],
            queries,
            instances,
        )

    def class_scores(self, size: Size | None = None) -> Tensor:
        maps = self.maps.to(torch.promote_types(self.maps.dtype, torch.float32))
        if size is not None:
            maps = F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]
        scores = maps.new_zeros(self.batch_size, self.num_classes, *maps.shape[-2:])
        return scores.index_put((self.image_of, self.class_of), maps)

    def geometry(self, image_size: Size, target_size: Size) -> MaskGeometry:
        size = tuple(self.maps.shape[-2:])
        return MaskGeometry(size, size, tuple(target_size), "bilinear")

    def class_map(self, index: int, geometry: MaskGeometry) -> Tensor:
        maps = self.image(index).class_scores()[0]
        result = torch.empty(geometry.target_size, dtype=torch.long, device=maps.device)
        for tile in mask_tiles(maps, geometry):
            low, high = tile.bounds()
            first = low.argmax()
            label = first
            if (high.index_fill(0, first, -1) > low[first] - 1e-5).any():
                label = tile.values().max(dim=0).indices
            result[tile.rows, tile.columns] = label
        return result

    def _instances(self, index: int) -> ClassInstances:
        if self.instances is None:
            raise ValueError("the prediction holds no instances: the model was not asked for them")
        return self.image(index).instances

    def panoptic_masks(self, index: int, threshold: float) -> ScoredMasks:
        return self._scored(self._instances(index), lambda found: found.scores > threshold)

    def instance_masks(self, index: int, thing_class_ids: set[int], top_k: int) -> ScoredMasks:
        things = torch.zeros(self.num_classes, dtype=torch.bool, device=self.maps.device)
        things[list(thing_class_ids)] = True

        def choose(found: ClassInstances) -> Tensor:
            best = found.scores.topk(min(top_k, len(found.scores))).indices
            chosen = torch.zeros(len(found.scores), dtype=torch.bool, device=best.device)
            chosen[best] = True
            return chosen & things[found.labels]

        return self._scored(self._instances(index), choose)

    @staticmethod
    def _scored(found: ClassInstances, choose) -> ScoredMasks:
        keep = choose(found)
        masks = found.masks_logits[keep].float().sigmoid()
        mask_of = torch.arange(len(masks), device=masks.device)
        return ScoredMasks(found.scores[keep], found.labels[keep], mask_of, masks, are_logits=False)

    def prompt_parts(self, index: int) -> PromptParts:
        if not self.supports_instances:  # each map is the model's word as a whole: no prompt has a part of its own
            nobody = torch.zeros(0, dtype=torch.long, device=self.maps.device)
            return PromptParts(self.maps[:0], self.maps.new_zeros(0, self.num_classes), nobody, 0)
        found = self._instances(index)
        weights = found.scores.new_zeros(len(found.scores), self.num_classes)
        weights[torch.arange(len(weights)), found.labels] = found.scores
        return PromptParts(found.masks_logits, weights, found.query_of, found.num_queries)
