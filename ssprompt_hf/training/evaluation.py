"""Instance and panoptic scores of a model, and its predictions for export."""

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch

from ..data.classes import SegmentationClasses
from ..errors import SSPromptError
from ..metrics import CityscapesScores, CocoScores, PanopticScores
from ..metrics.streaming import ImageRecords
from ..segmentation.export import PredictionExporter
from ..segmentation.inference import instances, panoptic
from ..segmentation.policy import InferencePolicy
from ..segmentation.predictions import Prediction
from ..segmentation.tiles import MaskGeometry

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
        policy: the thresholds, which are those of `predict`; average precision ranks instances whatever their score.
        exporter: writes the predictions, too.
    """

    def __init__(
        self,
        task: str,
        classes: SegmentationClasses,
        policy: InferencePolicy,
        exporter: PredictionExporter | None = None,
    ):
        self.task, self.things, self.exporter = task, classes.thing_indices, exporter
        self.policy = policy
        self.metrics: dict[str, ImageRecords] = {}
        if task == "instance":
            self.metrics = {
                "coco_": CocoScores(classes.names, self.things),
                "cityscapes_": CityscapesScores(classes.names, self.things),
            }
        elif task == "panoptic":
            self.metrics = {"": PanopticScores(classes.names, self.things)}

    @torch.no_grad()
    def add(
        self, index: int, prediction: Prediction, class_map: torch.Tensor, reference: dict, geometry: MaskGeometry
    ) -> None:
        """
        One image.

        Args:
            index: its position in the data set, by which processes agree on what they have counted.
            prediction: of the model, for a batch of one.
            class_map: (H, W) predicted class indices.
            reference: `label` and `instance`, (H, W).
            geometry: of this image.

        Raises:
            SSPromptError: the task needs masks of single objects, and the base model has none.
        """
        if self.exporter is not None:
            self.exporter.add_semantic(index, class_map)
        if self.task != "semantic" and not prediction.supports_instances:
            raise SSPromptError(f"the base model has no masks of single objects: it cannot be scored for {self.task}")
        if self.task == "instance":
            found = instances(prediction, 0, geometry, set(self.things), self.policy, return_map=False)
            predicted = {
                "masks": found.query_masks.cpu().numpy(),
                "mask_of": found.mask_of.cpu().numpy(),
                "labels": found.labels.cpu().numpy(),
                "scores": found.scores.cpu().numpy(),
            }
            if self.exporter is not None:
                self.exporter.add_instances(index, **predicted)
        elif self.task == "panoptic":
            segmentation, infos = panoptic(prediction, 0, geometry, set(self.things), self.policy)
            predicted = {"segmentation": segmentation.cpu().numpy(), "segments_info": infos}
            if self.exporter is not None:
                self.exporter.add_panoptic(index, **predicted)
        for metric in self.metrics.values():
            metric.add(prediction=predicted, reference=reference, image_id=index)
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
