"""From class and mask logits of one image to semantic, instance and panoptic results, equal to the official ones.

All results are sums, counts or maxima over the queries at each pixel, so that masks are looked at tile by tile; see
[`mask_tiles`].
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.cpu_ops import matmul
from .tiles import MaskGeometry, MaskTile, mask_tiles


def _class_probabilities(class_logits: Tensor) -> Tensor:
    """Softmax in at least float32."""
    return class_logits.softmax(dim=-1, dtype=torch.promote_types(class_logits.dtype, torch.float32))


def logit(probability: float) -> float:
    """The logit whose sigmoid is `probability`, between 0 and 1."""
    return math.log(probability / (1 - probability))


def _tile_scores(tile: MaskTile, weights: Tensor) -> Tensor:
    """(K, rows, columns) class scores; `weights` (K, Q) are the queries' class probabilities."""
    masks = tile.logits().sigmoid_().to(weights.dtype)
    with torch.autocast(masks.device.type, enabled=False):
        scores = matmul(weights[None], masks.flatten(1)[None])[0]
    return scores.unflatten(1, masks.shape[1:])


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """
    Class scores of every pixel: the sum over queries of class probability times mask probability.

    Args:
        class_logits (`torch.Tensor` of shape `(Q, K + 1)`): the last column means "no object".
        mask_logits (`torch.Tensor` of shape `(Q, h, w)`).
        geometry (`MaskGeometry`): the sizes of this image.

    Returns:
        `torch.Tensor` of shape `(K, *geometry.target_size)`, at least float32.
    """
    weights = _class_probabilities(class_logits)[:, :-1].T
    result = weights.new_empty(len(weights), *geometry.target_size)
    for tile in mask_tiles(mask_logits, geometry):
        result[:, tile.rows, tile.columns] = _tile_scores(tile, weights)
    return result


def semantic_segmentation(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """
    The class with the largest score of every pixel, the first of equal ones, without scores at full size.

    Args:
        class_logits, mask_logits, geometry: as in [`semantic_scores`].

    Returns:
        `torch.LongTensor` of shape `geometry.target_size`.
    """
    weights = _class_probabilities(class_logits)[:, :-1].T
    result = torch.empty(geometry.target_size, dtype=torch.long, device=mask_logits.device)
    for tile in mask_tiles(mask_logits, geometry):
        # where one class leads whatever the masks within their bounds, as inside roads and skies, that is all
        low, high = ((weights * bound.sigmoid().to(weights.dtype)).sum(1) for bound in tile.bounds())
        first = low.argmax()
        label = first
        if (high.index_fill(0, first, 0) > low[first] - 1e-5).any():
            label = _tile_scores(tile, weights).max(dim=0).indices  # twice as fast as `argmax`
        result[tile.rows, tile.columns] = label
    return result


def panoptic_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    thing_class_ids: set[int],
    threshold: float,
    mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict]]:
    """
    Segments that do not overlap: every pixel goes to the query with the largest class score times mask probability, if
    it lies in that query's mask; all segments of one stuff class are one.

    Args:
        class_logits (`torch.Tensor` of shape `(Q, K + 1)`): the last column means "no object".
        mask_logits (`torch.Tensor` of shape `(Q, h, w)`).
        geometry (`MaskGeometry`): the sizes of this image.
        thing_class_ids (`set[int]`): classes whose segments stay apart.
        threshold (`float`): queries with a class score not above it are left out.
        mask_threshold (`float`): probability from which a pixel lies in a mask.
        overlap_threshold (`float`): segments that keep less than this share of their mask are left out.

    Returns:
        `(segmentation, segments_info)`: int32 of shape `geometry.target_size`, 0 where there is no segment, and for
        every segment, in the order of the queries, `id` (from 1), `label_id`, `was_fused` (stuff) and `score` (of the
        class; of a fused segment's first query).
    """
    scores, labels = _class_probabilities(class_logits).max(dim=-1)
    keep = (labels != class_logits.shape[-1] - 1) & (scores > threshold)
    scores, labels, mask_logits = scores[keep], labels[keep], mask_logits[keep]
    count, device = len(labels), mask_logits.device
    if count == 0:
        return torch.zeros(geometry.target_size, dtype=torch.int32, device=device), []

    # count + the winning query where the pixel lies in its mask, else the winning query
    owner = torch.zeros(geometry.target_size, dtype=torch.int32, device=device)
    counts = torch.zeros(2 * count, dtype=torch.long, device=device)
    areas = torch.zeros(count, dtype=torch.long, device=device)
    logit_threshold = logit(mask_threshold)
    for tile in mask_tiles(mask_logits, geometry):
        low, high = (scores * bound.sigmoid().to(scores.dtype) for bound in tile.bounds())
        may_win = high >= low.max()
        live = may_win.index_fill_(0, tile.reaching(logit_threshold), True).nonzero().flatten()
        masks = tile.logits(live).sigmoid_().to(scores.dtype)
        inside = masks >= mask_threshold
        areas[live] += inside.flatten(1).sum(dim=1)
        index = (scores[live, None, None] * masks).max(dim=0, keepdim=True).indices  # of equal ones the first
        winner = live[index[0]] + count * inside.gather(0, index)[0]
        counts += winner.flatten().bincount(minlength=2 * count)
        owner[tile.rows, tile.columns] = winner.int()

    visible = counts[count:].tolist()
    owned = (counts[:count] + counts[count:]).tolist()
    segment_ids, segments_info, stuff = [0] * count, [], {}
    for query, (label, score, area) in enumerate(zip(labels.tolist(), scores.tolist(), areas.tolist())):
        if visible[query] == 0 or owned[query] / area < overlap_threshold:
            continue
        if label in stuff:
            segment_ids[query] = stuff[label]
            continue
        segment_ids[query] = len(segments_info) + 1
        fused = label not in thing_class_ids
        if fused:
            stuff[label] = segment_ids[query]
        segments_info.append({"id": segment_ids[query], "label_id": label, "was_fused": fused, "score": score})
    segmentation = torch.tensor([0] * count + segment_ids, dtype=torch.int32, device=device)[owner]
    return segmentation, segments_info


class Instances(NamedTuple):
    """
    N instances in the official order, of M queries, and one map of them.

    scores (N,) float, labels (N,) int64, areas (N,) int64 in pixels, query_masks (M, H, W) bool or None, mask_of (N,)
    int64: the mask of each instance; segmentation (H, W) int32 or None: index + 1 of the best-scored instance at every
    pixel, 0 where there is none.
    """

    scores: Tensor
    labels: Tensor
    areas: Tensor
    query_masks: Tensor | None
    mask_of: Tensor
    segmentation: Tensor | None

    @property
    def masks(self) -> Tensor | None:
        """(N, H, W) bool or None: a copy of the query's mask for every instance."""
        return None if self.query_masks is None else self.query_masks[self.mask_of]


def instance_segmentation(
    class_logits: Tensor,
    mask_logits: Tensor,
    geometry: MaskGeometry,
    thing_class_ids: set[int],
    top_k: int,
    mask_threshold: float = 0.5,
    return_masks: bool = True,
    return_map: bool = True,
) -> Instances:
    """
    The `top_k` best pairs of query and class, things only; an instance's score is its class probability times the mean
    mask probability inside its mask.

    Args:
        class_logits (`torch.Tensor` of shape `(Q, K + 1)`): the last column means "no object".
        mask_logits (`torch.Tensor` of shape `(Q, h, w)`).
        geometry (`MaskGeometry`): the sizes of this image.
        thing_class_ids (`set[int]`): pairs of other classes are left out, after the best were taken.
        top_k (`int`): number of pairs, at most Q * K.
        mask_threshold (`float`): probability above which a pixel lies in a mask.
        return_masks (`bool`): whether to keep the masks, which may overlap, at full size.
        return_map (`bool`): whether to make the map, for which the masks are computed again unless they are kept.
    """
    probabilities = _class_probabilities(class_logits)[:, :-1]
    num_classes = probabilities.shape[1]
    flat = probabilities.flatten()
    scores, pairs = flat.topk(min(top_k, flat.numel()), sorted=False)  # unsorted: the official order
    is_thing = torch.zeros(num_classes, dtype=torch.bool, device=pairs.device)
    is_thing[list(thing_class_ids)] = True
    keep = is_thing[pairs % num_classes]
    scores, pairs = scores[keep], pairs[keep]
    labels = pairs % num_classes
    queries, query_of = (pairs // num_classes).unique(return_inverse=True)  # one query may appear with several classes

    count, device = len(queries), mask_logits.device
    areas = torch.zeros(count, dtype=torch.long, device=device)
    totals = torch.zeros(count, dtype=torch.double, device=device)
    query_masks = None
    if return_masks:
        query_masks = torch.zeros(count, *geometry.target_size, dtype=torch.bool, device=device)
    logit_threshold = logit(mask_threshold)
    mask_logits = mask_logits[queries]
    for tile in mask_tiles(mask_logits, geometry):
        live = tile.reaching(logit_threshold)
        masks = tile.logits(live)
        inside = masks > logit_threshold
        areas[live] += inside.flatten(1).sum(dim=1)
        totals[live] += (masks.sigmoid_() * inside).flatten(1).sum(dim=1)
        if return_masks:
            query_masks[live, tile.rows, tile.columns] = inside
    mask_scores = (totals / (areas + 1e-6)).to(scores.dtype)
    segmentation = None
    if return_map:
        segmentation = torch.zeros(geometry.target_size, dtype=torch.int32, device=device)
        # Of one query's instances only the best scored can be seen in the map.
        class_scores = scores.new_zeros(count).scatter_reduce(0, query_of, scores, "amax")
        is_best = (scores == class_scores[query_of]).nonzero().flatten()
        best_instance = torch.zeros(count, dtype=torch.int32, device=device)
        best_instance[query_of[is_best]] = is_best.int()
        for tile in mask_tiles(mask_logits, geometry):
            live = tile.reaching(logit_threshold)
            if len(live) == 0:
                continue
            if return_masks:
                inside = query_masks[live, tile.rows, tile.columns]
            else:
                inside = tile.logits(live) > logit_threshold
            value, index = ((class_scores * mask_scores)[live, None, None] * inside).max(dim=0)
            segmentation[tile.rows, tile.columns] = (best_instance[live][index] + 1) * (value > 0)
    return Instances(scores * mask_scores[query_of], labels, areas[query_of], query_masks, query_of, segmentation)
