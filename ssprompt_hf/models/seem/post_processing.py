"""From class and mask logits to semantic, instance, panoptic and prompted results, equal to the official ones.

Masks go from the resolution of the mask features to the padded input (bilinear), lose the padding, and go to the
target size (antialiased bicubic); only then does the sigmoid follow. At the target size they are looked at a few at a
time: all results are sums, counts or running maxima over the queries, so that not all masks are held at full size.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""(height, width) in pixels."""

_MAX_CHUNK_ELEMENTS = 2**24  # 64 MiB of float32 masks at the target size


class MaskGeometry(NamedTuple):
    """Where the masks of one image lie: padded input, image within it (top left), and size of the result."""

    padded_size: Size
    image_size: Size
    target_size: Size


def resize_masks(masks: Tensor, geometry: MaskGeometry, mode: str = "bicubic") -> Tensor:
    """
    Mask logits at the target size.

    Args:
        masks (`torch.Tensor` of shape `(N, h, w)`): logits at the resolution of the mask features.
        geometry (`MaskGeometry`): the sizes of this image.
        mode (`str`, *optional*): the second resize, `"bicubic"` (antialiased; generic and phrase masks) or
            `"bilinear"` (masks of spatial prompts).

    Returns:
        `torch.Tensor` of shape `(N, *geometry.target_size)`, float32 for half-precision input.
    """
    if masks.dtype in (torch.float16, torch.bfloat16):
        masks = masks.float()
    masks = F.interpolate(masks[None], size=geometry.padded_size, mode="bilinear", align_corners=False)
    height, width = geometry.image_size
    masks = masks[..., :height, :width]
    # At scale 1 both filters are the identity, exactly.
    if geometry.target_size != geometry.image_size:
        masks = F.interpolate(
            masks, size=geometry.target_size, mode=mode, align_corners=False, antialias=mode == "bicubic"
        )
    return masks[0]


def _resized_chunks(masks: Tensor, geometry: MaskGeometry) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the first dimension and the masks in them at the target size."""
    step = max(1, _MAX_CHUNK_ELEMENTS // math.prod(max(geometry.padded_size, geometry.target_size, key=math.prod)))
    for start in range(0, masks.shape[0], step):
        rows = slice(start, min(start + step, masks.shape[0]))
        yield rows, resize_masks(masks[rows], geometry)


def _class_probabilities(class_logits: Tensor) -> Tensor:
    """Softmax in at least float32."""
    return class_logits.softmax(dim=-1, dtype=torch.promote_types(class_logits.dtype, torch.float32))


def semantic_scores(class_logits: Tensor, mask_logits: Tensor, geometry: MaskGeometry) -> Tensor:
    """
    Class scores of every pixel: the sum over queries of class probability times mask probability.

    Args:
        class_logits (`torch.Tensor` of shape `(Q, K + 1)`): the last column means "no object".
        mask_logits (`torch.Tensor` of shape `(Q, h, w)`).
        geometry (`MaskGeometry`): the sizes of this image.

    Returns:
        `torch.Tensor` of shape `(K, *geometry.target_size)`.
    """
    weights = _class_probabilities(class_logits)[:, :-1].T  # (K, Q)
    scores = weights.new_zeros(weights.shape[0], math.prod(geometry.target_size))
    for rows, masks in _resized_chunks(mask_logits, geometry):
        scores.addmm_(weights[:, rows], masks.sigmoid_().flatten(1).to(scores.dtype))
    return scores.view(-1, *geometry.target_size)


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

    best = scores.new_full(geometry.target_size, -1.0)
    owner = torch.zeros(geometry.target_size, dtype=torch.long, device=device)
    inside = torch.zeros(geometry.target_size, dtype=torch.bool, device=device)
    areas = torch.zeros(count, dtype=torch.long, device=device)
    for rows, masks in _resized_chunks(mask_logits, geometry):
        masks = masks.sigmoid_().to(scores.dtype)
        areas[rows] = (masks >= mask_threshold).flatten(1).sum(dim=1)
        value, index = (scores[rows, None, None] * masks).max(dim=0)
        better = value > best  # at equal values the first query wins
        best = torch.where(better, value, best)
        owner = torch.where(better, index + rows.start, owner)
        inside = torch.where(better, masks.gather(0, index[None])[0] >= mask_threshold, inside)

    owned = owner.flatten().bincount(minlength=count).tolist()
    visible = owner[inside].bincount(minlength=count).tolist()
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
    segmentation = torch.tensor(segment_ids, dtype=torch.int32, device=device)[owner]
    return segmentation * inside, segments_info


class Instances(NamedTuple):
    """
    N instances in the official order, of M queries, and one map of them.

    scores (N,) float, labels (N,) int64, areas (N,) int64 in pixels, query_masks (M, H, W) bool or None, mask_of (N,)
    int64: the mask of each instance; segmentation (H, W) int32: index + 1 of the best-scored instance at every pixel,
    0 where there is none.
    """

    scores: Tensor
    labels: Tensor
    areas: Tensor
    query_masks: Tensor | None
    mask_of: Tensor
    segmentation: Tensor

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
    # Of one query's instances only the best scored can be seen in the map.
    best_class_score = scores.new_zeros(count).scatter_reduce(0, query_of, scores, "amax")
    is_best = (scores == best_class_score[query_of]).nonzero().flatten()
    best_instance = torch.zeros(count, dtype=torch.long, device=device)
    best_instance[query_of[is_best]] = is_best
    mask_scores, areas = scores.new_zeros(count), torch.zeros(count, dtype=torch.long, device=device)
    best = scores.new_zeros(geometry.target_size)
    segmentation = torch.zeros(geometry.target_size, dtype=torch.int32, device=device)
    query_masks = None
    if return_masks:
        query_masks = torch.empty(count, *geometry.target_size, dtype=torch.bool, device=device)
    logit_threshold = math.log(mask_threshold / (1 - mask_threshold))
    for rows, masks in _resized_chunks(mask_logits[queries], geometry):
        inside = masks > logit_threshold
        areas[rows] = inside.flatten(1).sum(dim=1)
        total = (masks.sigmoid_() * inside).flatten(1).sum(dim=1)
        mask_scores[rows] = (total / (areas[rows] + 1e-6)).to(scores.dtype)
        value, index = ((best_class_score[rows] * mask_scores[rows])[:, None, None] * inside).max(dim=0)
        better = value > best
        best = torch.where(better, value, best)
        segmentation = torch.where(better, best_instance[rows][index].int() + 1, segmentation)
        if return_masks:
            query_masks[rows] = inside
    return Instances(scores * mask_scores[query_of], labels, areas[query_of], query_masks, query_of, segmentation)


class SeemPostProcessingMixin:
    """
    The `post_process_*` methods of [`SeemImageProcessor`].

    They read `class_queries_logits` (B, Q, K + 1) and `masks_queries_logits` (B, Q, h, w) of the model's output, and
    where the masks lie: `padded_size` (Hp, Wp), `image_sizes` (B, 2) and `original_sizes` (B, 2), which the model
    hands on from the image processor. An output without them counts as an image without padding at `mask_stride` times
    the resolution of its masks. `target_sizes` (B pairs of height and width) defaults to the original sizes.
    """

    mask_stride = 4
    thing_class_ids = None
    object_mask_threshold = 0.8
    overlap_threshold = 0.8

    def _geometries(self, outputs, masks: Tensor, target_sizes) -> list[MaskGeometry]:
        batch_size = masks.shape[0]
        padded_size = outputs.get("padded_size")
        if padded_size is None:
            padded_size = tuple(side * self.mask_stride for side in masks.shape[-2:])
        image_sizes = _as_sizes(outputs.get("image_sizes"), "image_sizes", batch_size) or [padded_size] * batch_size
        if target_sizes is None:
            target_sizes = outputs.get("original_sizes")
        target_sizes = _as_sizes(target_sizes, "target_sizes", batch_size) or image_sizes
        padded_size = tuple(int(side) for side in padded_size)
        return [MaskGeometry(padded_size, *sizes) for sizes in zip(image_sizes, target_sizes)]

    def _per_image(self, outputs, target_sizes) -> Iterator[tuple[Tensor, Tensor, MaskGeometry]]:
        class_logits, mask_logits = outputs["class_queries_logits"], outputs["masks_queries_logits"]
        yield from zip(class_logits, mask_logits, self._geometries(outputs, mask_logits, target_sizes))

    def _things(self, thing_class_ids, num_classes: int) -> set[int]:
        if thing_class_ids is None:
            thing_class_ids = self.thing_class_ids
        if thing_class_ids is None:
            return set(range(num_classes))
        if outside := sorted(set(thing_class_ids) - set(range(num_classes))):
            raise ValueError(
                f"`thing_class_ids` holds {outside}, but the output has {num_classes} classes, 0 to "
                f"{num_classes - 1}: pass the thing ids of the classes in use."
            )
        return set(thing_class_ids)

    @torch.no_grad()
    def post_process_semantic_segmentation(self, outputs, target_sizes=None) -> list[Tensor]:
        """
        Class ids of every pixel.

        Returns:
            `list[torch.LongTensor]`: one (height, width) map an image.
        """
        return [semantic_scores(*image).argmax(dim=0) for image in self._per_image(outputs, target_sizes)]

    @torch.no_grad()
    def post_process_panoptic_segmentation(
        self,
        outputs,
        threshold: float | None = None,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float | None = None,
        thing_class_ids: list[int] | None = None,
        target_sizes=None,
    ) -> list[dict]:
        """
        Panoptic result; see [`panoptic_segmentation`].

        Args:
            outputs: the model's output.
            threshold (`float`, *optional*): least class score, by default `object_mask_threshold`.
            mask_threshold (`float`, *optional*, defaults to 0.5): probability from which a pixel lies in a mask.
            overlap_mask_area_threshold (`float`, *optional*): least share of its mask that a segment must keep, by
                default `overlap_threshold`.
            thing_class_ids (`list[int]`, *optional*): by default the processor's; if it has none, all classes.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(B, 2)`, *optional*).

        Returns:
            `list[dict]`: for each image `segmentation` (height, width) int32, 0 where there is no segment, and
            `segments_info`, dicts of `id`, `label_id`, `was_fused` and `score`.
        """
        threshold = self.object_mask_threshold if threshold is None else threshold
        overlap = self.overlap_threshold if overlap_mask_area_threshold is None else overlap_mask_area_threshold
        things = self._things(thing_class_ids, outputs["class_queries_logits"].shape[-1] - 1)
        results = []
        for image in self._per_image(outputs, target_sizes):
            segmentation, segments_info = panoptic_segmentation(*image, things, threshold, mask_threshold, overlap)
            results.append({"segmentation": segmentation, "segments_info": segments_info})
        return results

    @torch.no_grad()
    def post_process_instance_segmentation(
        self,
        outputs,
        threshold: float = 0.0,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.0,
        top_k: int = 100,
        thing_class_ids: list[int] | None = None,
        target_sizes=None,
        return_binary_maps: bool = False,
    ) -> list[dict]:
        """
        Instances; see [`instance_segmentation`].

        Args:
            outputs: the model's output.
            threshold (`float`, *optional*, defaults to 0.0): least score of an instance.
            mask_threshold (`float`, *optional*, defaults to 0.5): probability above which a pixel lies in a mask.
            overlap_mask_area_threshold (`float`, *optional*, defaults to 0.0): instances of which better-scored ones
                leave less than this share to be seen, or nothing, are left out. Not used with `return_binary_maps`.
            top_k (`int`, *optional*, defaults to 100): how many pairs of query and class are looked at.
            thing_class_ids (`list[int]`, *optional*): by default the processor's; if it has none, all classes.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(B, 2)`, *optional*).
            return_binary_maps (`bool`, *optional*, defaults to `False`): masks, which may overlap, in place of a map.

        Returns:
            `list[dict]`: for each image `segmentation`, (height, width) int32 with 0 where there is no instance, or
            (N, height, width) bool in the order of `segments_info`, dicts of `id`, `label_id`, `was_fused` (never) and
            `score`, in the official order, which is not sorted.
        """
        things = self._things(thing_class_ids, outputs["class_queries_logits"].shape[-1] - 1)
        results = []
        for image in self._per_image(outputs, target_sizes):
            instances = instance_segmentation(*image, things, top_k, mask_threshold, return_binary_maps)
            keep = instances.scores >= threshold
            if not return_binary_maps:
                visible = instances.segmentation.flatten().bincount(minlength=len(keep) + 1)[1:]
                keep &= (visible > 0) & (visible >= overlap_mask_area_threshold * instances.areas)
            indices = keep.nonzero().flatten()
            if return_binary_maps:
                segmentation = instances.query_masks[instances.mask_of[indices]]
            else:
                ids = torch.zeros(len(keep) + 1, dtype=torch.int32, device=keep.device)
                ids[indices + 1] = torch.arange(1, len(indices) + 1, dtype=torch.int32, device=keep.device)
                segmentation = ids[instances.segmentation]
            segments = zip(instances.labels[indices].tolist(), instances.scores[indices].tolist())
            segments_info = [
                {"id": number, "label_id": label, "was_fused": False, "score": score}
                for number, (label, score) in enumerate(segments, start=1)
            ]
            results.append({"segmentation": segmentation, "segments_info": segments_info})
        return results

    def post_process_grounding(self, outputs, mask_threshold: float = 0.5, target_sizes=None, binarize: bool = True):
        """
        Masks of phrases, from `grounding_masks_logits` (B, P, h, w).

        Returns:
            `list[torch.Tensor]`: (P, height, width) bool an image, or logits with `binarize=False`.
        """
        return self._prompted_masks(
            outputs, "grounding_masks_logits", mask_threshold, target_sizes, binarize, mode="bicubic"
        )

    def post_process_spatial(self, outputs, mask_threshold: float = 0.5, target_sizes=None, binarize: bool = True):
        """
        Masks of the objects given by points, boxes, scribbles or masks, from `spatial_masks_logits` (B, O, h, w).

        Returns:
            `list[torch.Tensor]`: (O, height, width) bool an image, or logits with `binarize=False`.
        """
        return self._prompted_masks(
            outputs, "spatial_masks_logits", mask_threshold, target_sizes, binarize, mode="bilinear"
        )

    @torch.no_grad()
    def _prompted_masks(self, outputs, name, mask_threshold, target_sizes, binarize, mode) -> list[Tensor]:
        mask_logits = outputs.get(name)
        if mask_logits is None:
            raise ValueError(f"The output has no `{name}`: run the model with the prompts it comes from.")
        results = []
        for masks, geometry in zip(mask_logits, self._geometries(outputs, mask_logits, target_sizes)):
            masks = resize_masks(masks, geometry, mode)
            results.append(masks > math.log(mask_threshold / (1 - mask_threshold)) if binarize else masks)
        return results


def _as_sizes(sizes, name: str, batch_size: int) -> list[Size] | None:
    """Pairs of (height, width), one an image, as integers."""
    if sizes is None:
        return None
    sizes = [tuple(int(side) for side in size) for size in sizes]
    if len(sizes) != batch_size or any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"`{name}` must hold one (height, width) for each of the {batch_size} images, got {sizes}.")
    return sizes
