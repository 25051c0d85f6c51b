"""Instance and panoptic scores of a model, and its predictions for export."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch

from ..data.classes import SegmentationClasses
from ..metrics import CityscapesScores, CocoScores, PanopticScores
from ..metrics.streaming import ImageRecords
from ..segmentation.export import PredictionExporter
from ..segmentation.inference import instance_segmentation, panoptic_segmentation
from ..segmentation.tiles import MaskGeometry

TOP_K = 100
"""Pairs of query and class that are looked at for instances, as in the official evaluation."""


IMAGES_PER_TRIM = 10


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Gives memory that is free back to the system; None where the C library is not glibc."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


class TaskEvaluation:
    """
    What is counted beside mean IoU, one image after the other; memory does not grow with their size.

    Args:
        task: `"semantic"` (nothing more), `"instance"` (AP as COCO and as Cityscapes define it) or `"panoptic"` (PQ).
        classes: of the data set.
        image_processor: has the thresholds of panoptic segmentation.
        exporter: writes the predictions, too.
    """

    def __init__(
        self,
        task: str,
        classes: SegmentationClasses,
        image_processor: Any,
        exporter: PredictionExporter | None = None,
    ):
        self.task, self.things, self.exporter = task, classes.thing_indices, exporter
        self.image_processor = image_processor
        self.metrics: dict[str, ImageRecords] = {}
        if task == "instance":
            self.metrics = {
                "coco_": CocoScores(classes.names, self.things),
                "cityscapes_": CityscapesScores(classes.names, self.things),
            }
        elif task == "panoptic":
            self.metrics = {"": PanopticScores(classes.names, self.things)}

    @torch.no_grad()
    def add(self, index: int, outputs: Any, class_map: torch.Tensor, reference: dict, geometry: MaskGeometry):
        """
        One image.

        Args:
            index: its place in the data set, by which processes agree on what they have counted.
            outputs: of the model, for a batch of one.
            class_map: (H, W) predicted class indices.
            reference: `label` and `instance`, (H, W).
            geometry: of this image.
        """
        if self.exporter is not None:
            self.exporter.add_semantic(index, class_map)
        logits = outputs.class_queries_logits[0], outputs.masks_queries_logits[0]
        if self.task == "instance":
            instances = instance_segmentation(*logits, geometry, set(self.things), TOP_K, return_map=False)
            prediction = {
                "masks": instances.query_masks.cpu().numpy(),
                "mask_of": instances.mask_of.cpu().numpy(),
                "labels": instances.labels.cpu().numpy(),
                "scores": instances.scores.cpu().numpy(),
            }
            if self.exporter is not None:
                self.exporter.add_instances(index, **prediction)
        elif self.task == "panoptic":
            segmentation, infos = panoptic_segmentation(
                *logits,
                geometry,
                set(self.things),
                threshold=self.image_processor.object_mask_threshold,
                mask_threshold=0.5,
                overlap_threshold=self.image_processor.overlap_threshold,
            )
            prediction = {"segmentation": segmentation.cpu().numpy(), "segments_info": infos}
            if self.exporter is not None:
                self.exporter.add_panoptic(index, **prediction)
        for metric in self.metrics.values():
            metric.add(prediction=prediction, reference=reference, image_id=index)
        # Records that stay, between blocks that go, keep the heap from shrinking: by half a megabyte an image at
        # 1024x2048, all of it free.
        if self.metrics and index % IMAGES_PER_TRIM == 0 and (trim := _malloc_trim()):
            trim(0)

    def scores(self, gather: bool = False) -> dict[str, Any]:
        """
        Of all images so far, from 0 to 1, with the names of the metrics: `coco_ap`, `cityscapes_ap50`,
        `per_class_coco_ap`, ... or `pq`, `sq_things`, ...; empty for semantic segmentation.

        Args:
            gather: collect the images of all processes first, each of which then gets the scores.
        """
        result = {}
        for prefix, metric in self.metrics.items():
            if gather:
                metric.gather()
            for name, value in metric.compute().items():
                own = name.removeprefix("per_class_")
                result[("" if own == name else "per_class_") + prefix + own] = value
        return result
