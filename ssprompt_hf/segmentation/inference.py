"""From a prediction to semantic, instance and panoptic results; for SEEM equal to the official ones.

`predict`, `evaluate` and `explain` all call [`class_map`], [`instances`] and [`panoptic`] with the same
[`InferencePolicy`], and so do the `post_process_*` methods of image processors. All results are sums, counts or maxima
over the masks at each pixel, so that masks are looked at tile by tile; see `tiles.py`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SSPromptError
from .policy import InferencePolicy
from .predictions import Prediction, ScoredMasks
from .tiles import MaskGeometry, mask_tiles


def logit(probability: float) -> float:
    """
    The logit whose sigmoid is `probability`; infinite for 0 and 1, between which all probabilities of pixels lie.

    Raises:
        SSPromptError: it is no probability.
    """
    if not 0 <= probability <= 1:
        raise SSPromptError(f"mask_threshold is {probability}; it is a probability, from 0 to 1")
    return math.inf * (2 * probability - 1) if probability in (0, 1) else math.log(probability / (1 - probability))


@torch.no_grad()
def class_map(prediction: Prediction, index: int, geometry: MaskGeometry) -> Tensor:
    """int64 of the target size: the class of every pixel of image `index`."""
    return prediction.class_map(index, geometry)


@torch.no_grad()
def panoptic(
    prediction: Prediction, index: int, geometry: MaskGeometry, thing_class_ids: set[int], policy: InferencePolicy
) -> tuple[Tensor, list[dict]]:
    """Segments of image `index` that do not overlap; see [`panoptic_segmentation`]."""
    masks = prediction.panoptic_masks(index, policy.segment_threshold)
    return panoptic_segmentation(masks, geometry, thing_class_ids, policy.mask_threshold, policy.overlap_threshold)


@torch.no_grad()
def instances(
    prediction: Prediction,
    index: int,
    geometry: MaskGeometry,
    thing_class_ids: set[int],
    policy: InferencePolicy,
    return_masks: bool = True,
    return_map: bool = True,
) -> "Instances":
    """The `policy.top_k` candidates of image `index`, whatever their score; see [`instance_segmentation`]."""
    masks = prediction.instance_masks(index, thing_class_ids, policy.top_k)
    return instance_segmentation(masks, geometry, policy.mask_threshold, return_masks, return_map)


def _probability(values: Tensor, masks: ScoredMasks) -> Tensor:
    return values.sigmoid() if masks.are_logits else values


def _value_threshold(mask_threshold: float, masks: ScoredMasks) -> float:
    return logit(mask_threshold) if masks.are_logits else mask_threshold


def panoptic_segmentation(
    scored: ScoredMasks,
    geometry: MaskGeometry,
    thing_class_ids: set[int],
    mask_threshold: float,
    overlap_threshold: float,
) -> tuple[Tensor, list[dict]]:
    """
    Segments that do not overlap: every pixel goes to the mask with the largest class score times mask probability, if
    it lies in that mask; all segments of one stuff class are one.

    Args:
        scored (`ScoredMasks`): one mask each.
        geometry (`MaskGeometry`): the sizes of this image.
        thing_class_ids (`set[int]`): classes whose segments stay apart.
        mask_threshold (`float`): probability from which a pixel lies in a mask.
        overlap_threshold (`float`): segments that keep less than this share of their mask are left out.

    Returns:
        `(segmentation, segments_info)`: int32 of shape `geometry.target_size`, 0 where there is no segment, and for
        every segment, in the order of the masks, `id` (from 1), `label_id`, `was_fused` (stuff) and `score` (of the
        class; of a fused segment's first mask).
    """
    scores, labels, masks = scored.scores, scored.labels, scored.masks
    count, device = len(labels), masks.device
    if count == 0:
        return torch.zeros(geometry.target_size, dtype=torch.int32, device=device), []

    # count + the winning mask where the pixel lies in it, else the winning mask
    owner = torch.zeros(geometry.target_size, dtype=torch.int32, device=device)
    counts = torch.zeros(2 * count, dtype=torch.long, device=device)
    areas = torch.zeros(count, dtype=torch.long, device=device)
    threshold = _value_threshold(mask_threshold, scored)
    for tile in mask_tiles(masks, geometry):
        low, high = (scores * _probability(bound, scored).to(scores.dtype) for bound in tile.bounds())
        may_win = high >= low.max()
        live = may_win.index_fill_(0, tile.reaching(threshold), True).nonzero().flatten()
        probabilities = _probability(tile.values(live), scored).to(scores.dtype)
        inside = probabilities >= mask_threshold
        areas[live] += inside.flatten(1).sum(dim=1)
        index = (scores[live, None, None] * probabilities).max(dim=0, keepdim=True).indices  # of equal ones the first
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
    N instances in the order of the candidates, of M masks, and one map of them.

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

    def shown(self, threshold: float, overlap_threshold: float = 0.0) -> tuple[Tensor, list[dict]]:
        """
        A map of the instances with a score of `threshold` or more, of which others leave something to be seen, and at
        least a share of `overlap_threshold`.

        Returns:
            `(segmentation, segments_info)`: int32 (H, W), 0 where there is none, and dicts of `id` (from 1),
            `label_id`, `was_fused` (never) and `score`.
        """
        visible = self.segmentation.flatten().bincount(minlength=len(self.scores) + 1)[1:]
        keep = (self.scores >= threshold) & (visible > 0) & (visible >= overlap_threshold * self.areas)
        indices = keep.nonzero().flatten()
        ids = torch.zeros(len(keep) + 1, dtype=torch.int32, device=keep.device)
        ids[indices + 1] = torch.arange(1, len(indices) + 1, dtype=torch.int32, device=keep.device)
        return ids[self.segmentation], self.infos(indices)

    def infos(self, indices: Tensor) -> list[dict]:
        """`id` (from 1), `label_id`, `was_fused` (never) and `score` of some of them."""
        segments = zip(self.labels[indices].tolist(), self.scores[indices].tolist())
        return [
            {"id": number, "label_id": label, "was_fused": False, "score": score}
            for number, (label, score) in enumerate(segments, start=1)
        ]


def instance_segmentation(
    scored: ScoredMasks,
    geometry: MaskGeometry,
    mask_threshold: float = 0.5,
    return_masks: bool = True,
    return_map: bool = True,
) -> Instances:
    """
    Masks, areas and scores of candidates.

    Args:
        scored (`ScoredMasks`): the candidates. Where it says so, an instance's score is multiplied by the mean mask
            probability inside its mask.
        geometry (`MaskGeometry`): the sizes of this image.
        mask_threshold (`float`): probability above which a pixel lies in a mask.
        return_masks (`bool`): whether to keep the masks, which may overlap, at full size.
        return_map (`bool`): whether to make the map, for which the masks are computed again unless they are kept.
    """
    scores, labels, mask_of, masks = scored.scores, scored.labels, scored.mask_of, scored.masks
    count, device = len(masks), masks.device
    areas = torch.zeros(count, dtype=torch.long, device=device)
    totals = torch.zeros(count, dtype=torch.double, device=device)
    query_masks = None
    if return_masks:
        query_masks = torch.zeros(count, *geometry.target_size, dtype=torch.bool, device=device)
    threshold = _value_threshold(mask_threshold, scored)
    for tile in mask_tiles(masks, geometry):
        live = tile.reaching(threshold)
        values = tile.values(live)
        inside = values > threshold
        areas[live] += inside.flatten(1).sum(dim=1)
        if scored.weighs_masks:
            # float32 above 2**-5 or so adds up exactly in float64, however the pixels are shared out among tiles
            totals[live] += (_probability(values, scored) * inside).flatten(1).double().sum(dim=1)
        if return_masks:
            query_masks[live, tile.rows, tile.columns] = inside
    mask_scores = scores.new_ones(count)
    if scored.weighs_masks:
        mask_scores = (totals / (areas + 1e-6)).to(scores.dtype)
    segmentation = None
    if return_map:
        segmentation = torch.zeros(geometry.target_size, dtype=torch.int32, device=device)
        # Of one mask's instances only the best scored can be seen in the map.
        class_scores = scores.new_zeros(count).scatter_reduce(0, mask_of, scores, "amax")
        is_best = (scores == class_scores[mask_of]).nonzero().flatten()
        best_instance = torch.zeros(count, dtype=torch.int32, device=device)
        best_instance[mask_of[is_best]] = is_best.int()
        for tile in mask_tiles(masks, geometry):
            live = tile.reaching(threshold)
            if len(live) == 0:
                continue
            if return_masks:
                inside = query_masks[live, tile.rows, tile.columns]
            else:
                inside = tile.values(live) > threshold
            value, index = ((class_scores * mask_scores)[live, None, None] * inside).max(dim=0)
            segmentation[tile.rows, tile.columns] = (best_instance[live][index] + 1) * (value > 0)
    return Instances(scores * mask_scores[mask_of], labels, areas[mask_of], query_masks, mask_of, segmentation)
