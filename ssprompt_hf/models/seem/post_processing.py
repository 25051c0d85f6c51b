"""The image processor's methods from the model's output to semantic, instance, panoptic and prompted results."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from ...segmentation.inference import instance_segmentation, logit, panoptic_segmentation
from ...segmentation.policy import InferencePolicy
from ...segmentation.predictions import QueryPrediction
from ...segmentation.tiles import MaskGeometry, Size, resize_masks


class SeemPostProcessingMixin:
    """
    The `post_process_*` methods of [`SeemImageProcessor`].

    They read `class_queries_logits` (B, Q, K + 1) and `masks_queries_logits` (B, Q, h, w) of the model's output,
    `class_masks_logits` (B, K, h, w) and `class_masks_shares` (K,) where it has them, and where the masks lie:
    `padded_size` (Hp, Wp), `image_sizes` (B, 2) and `original_sizes` (B, 2), which the model hands on from the image
    processor. An output without these counts as an image without padding at `mask_stride` times the resolution of its
    masks. `target_sizes` (B pairs of height and width) defaults to the original sizes.
    """

    mask_stride = 4
    thing_class_ids = None
    object_mask_threshold = 0.8
    overlap_threshold = 0.8

    def inference_policy(self) -> InferencePolicy:
        """See [`PromptableImageProcessor.inference_policy`]."""
        return InferencePolicy(segment_threshold=self.object_mask_threshold, overlap_threshold=self.overlap_threshold)

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

    def _per_image(self, outputs, target_sizes) -> Iterator[tuple[QueryPrediction, MaskGeometry]]:
        """A prediction of one image, and its geometry, for every image."""
        class_logits, mask_logits = outputs["class_queries_logits"], outputs["masks_queries_logits"]
        class_masks = outputs.get("class_masks_logits")
        for index, geometry in enumerate(self._geometries(outputs, mask_logits, target_sizes)):
            place = slice(index, index + 1)
            masks = (None, None) if class_masks is None else (class_masks[place], outputs["class_masks_shares"])
            yield QueryPrediction(class_logits[place], mask_logits[place], geometry.padded_size, *masks), geometry

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
    def post_process_semantic_segmentation(
        self,
        outputs: Any,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
    ) -> list[Tensor] | list[BatchFeature]:
        """
        Class ids of every pixel.

        Args:
            outputs: the model's output.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(B, 2)`, *optional*).
            return_segmentation_scores (`bool`, *optional*, defaults to `False`): also what they were chosen by, which
                takes 4 bytes a pixel and class.

        Returns:
            `list[torch.LongTensor]`: one (height, width) map an image; or for each image a `BatchFeature` of it, as
            `segmentation`, and of `segmentation_scores` (K, height, width), not negative.
        """
        images = list(self._per_image(outputs, target_sizes))
        maps = [image.class_map(0, geometry) for image, geometry in images]
        if not return_segmentation_scores:
            return maps
        scores = (image.score_maps(0, geometry) for image, geometry in images)
        return [
            BatchFeature({"segmentation": one, "segmentation_scores": own_scores})
            for one, own_scores in zip(maps, scores)
        ]

    @torch.no_grad()
    def post_process_panoptic_segmentation(
        self,
        outputs: Any,
        threshold: float | None = None,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float | None = None,
        thing_class_ids: list[int] | None = None,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
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
        for image, geometry in self._per_image(outputs, target_sizes):
            masks = image.panoptic_masks(0, threshold)
            segmentation, segments_info = panoptic_segmentation(masks, geometry, things, mask_threshold, overlap)
            results.append({"segmentation": segmentation, "segments_info": segments_info})
        return results

    @torch.no_grad()
    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.0,
        mask_threshold: float = 0.5,
        overlap_mask_area_threshold: float = 0.0,
        top_k: int = 100,
        thing_class_ids: list[int] | None = None,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
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
        for image, geometry in self._per_image(outputs, target_sizes):
            masks = image.instance_masks(0, things, top_k)
            found = instance_segmentation(
                masks, geometry, mask_threshold, return_binary_maps, return_map=not return_binary_maps
            )
            if return_binary_maps:
                indices = (found.scores >= threshold).nonzero().flatten()
                segmentation, segments_info = found.query_masks[found.mask_of[indices]], found.infos(indices)
            else:
                segmentation, segments_info = found.shown(threshold, overlap_mask_area_threshold)
            results.append({"segmentation": segmentation, "segments_info": segments_info})
        return results

    def post_process_grounding(
        self,
        outputs: Any,
        mask_threshold: float = 0.5,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
        binarize: bool = True,
    ) -> list[Tensor]:
        """
        Masks of phrases, from `grounding_masks_logits` (B, P, h, w).

        Returns:
            `list[torch.Tensor]`: (P, height, width) bool an image, or logits with `binarize=False`.
        """
        return self._prompted_masks(
            outputs, "grounding_masks_logits", mask_threshold, target_sizes, binarize, mode="bicubic"
        )

    def post_process_spatial(
        self,
        outputs: Any,
        mask_threshold: float = 0.5,
        target_sizes: Tensor | list[tuple[int, int]] | None = None,
        binarize: bool = True,
    ) -> list[Tensor]:
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
            masks = resize_masks(masks, geometry._replace(interpolation=mode))
            results.append(masks > logit(mask_threshold) if binarize else masks)
        return results


def _as_sizes(sizes, name: str, batch_size: int) -> list[Size] | None:
    """Pairs of (height, width), one an image, as integers."""
    if sizes is None:
        return None
    sizes = [tuple(int(side) for side in size) for size in sizes]
    if len(sizes) != batch_size or any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"`{name}` must hold one (height, width) for each of the {batch_size} images, got {sizes}.")
    return sizes
