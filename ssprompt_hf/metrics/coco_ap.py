"""Average precision and recall of instances as COCO defines them."""

from typing import Any, NamedTuple

import numpy as np

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from ..utils.arrays import as_array
from .run_masks import RunMasks, is_coded, run_masks, run_overlaps
from .segments import PredictedInstances, instance_overlaps, predicted_instances, true_segments
from .streaming import ImageRecords

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = (1, 10, 100)
AREAS = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}
"""Least and greatest area in pixels of the true instances that count, both included."""


class Detections(NamedTuple):
    """
    Of one image: D detections, best first within each class, at 4 ranges of area and 10 IoU thresholds.

    labels (D,), ranks (D,) within the class and image from 0, scores (D,) float64, matched and ignored bool
    (4, 10, D), positives int64 (4, K): true instances that count.
    """

    labels: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    matched: np.ndarray
    ignored: np.ndarray
    positives: np.ndarray


class CocoScores(ImageRecords):
    """
    Streaming average precision (AP) and recall (AR) of instance masks, as `pycocotools` computes them.

    Predictions are what `post_process_instance_segmentation` returns, or dicts of `masks` (M, H, W) bool or a list of
    M run-length codes of COCO, `labels` (N,), `scores` (N,), and perhaps `mask_of` (N,) where instances share masks.
    References are dicts of `label` (H, W) and `instance` (H, W), where things without instance are crowds; of
    `segmentation` and `segments_info` with `iscrowd`; or, for instances that overlap, of `masks` (G, H, W) bool or G
    codes, `labels` (G,) and perhaps `iscrowd` (G,) and `areas` (G,).

    Results, from 0 to 1, NaN where no true instance counts: `ap` (mean over IoU 0.50:0.05:0.95 and classes), `ap50`,
    `ap75`, `ap_small`, `ap_medium`, `ap_large`; `ar_1`, `ar_10`, `ar_100`, `ar_small`, `ar_medium`, `ar_large`;
    `per_class_ap`, `per_class_ap50`.

    Args and errors: those of `ImageRecords`.
    """

    def record(self, prediction: dict[str, Any], reference: dict[str, Any]) -> Detections:
        """The detections of one image and what they match."""
        predicted = predicted_instances(prediction, self.num_classes)
        if "masks" in reference:
            shared, areas, truth = self._free_truth(predicted, reference)
        else:
            segments = true_segments(reference, self.num_classes, self.thing_indices, self.ignore_index)
            chosen = np.isin(segments.labels, self.thing_indices) & (segments.labels != IGNORE_INDEX)
            shared, areas = instance_overlaps(predicted, segments)
            shared = shared[:, chosen]
            pixels = segments.areas[chosen]
            truth = segments.labels[chosen], segments.crowd[chosen], pixels, pixels
        return self._match(predicted, shared, areas, *truth)

    def _free_truth(self, predicted: PredictedInstances, reference: dict[str, Any]) -> tuple:
        coded = is_coded(reference["masks"])
        truth = run_masks(reference["masks"] if coded else as_array(reference["masks"]).astype(bool))
        labels = as_array(reference["labels"]).astype(np.int64).reshape(-1)
        crowd = as_array(reference.get("iscrowd", np.zeros(len(labels)))).astype(bool).reshape(-1)
        true_areas = as_array(reference.get("areas", truth.areas)).reshape(-1)
        for name, values in (("labels", labels), ("iscrowd", crowd), ("areas", true_areas)):
            if len(values) != len(truth):
                raise SSPromptError(f"The reference has {len(truth)} masks but {len(values)} {name}.")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)][0]
            raise SSPromptError(f"The reference has the label {wrong}; labels go from 0 to {self.num_classes - 1}.")
        guesses = predicted.masks
        if not isinstance(guesses, RunMasks) and guesses.ndim == 2:
            guesses = guesses == np.arange(1, len(predicted.labels) + 1)[:, None, None]
        guesses = run_masks(guesses)
        if len(truth) and len(guesses) and truth.shape != guesses.shape:
            raise SSPromptError(f"Predicted masks have shape {guesses.shape}, true ones {truth.shape}.")
        shared = run_overlaps(guesses, truth)[predicted.mask_of]
        areas = guesses.areas[predicted.mask_of]
        return shared, areas, (labels, crowd, truth.areas, true_areas)

    def _match(
        self,
        predicted: PredictedInstances,
        shared: np.ndarray,
        areas: np.ndarray,
        labels: np.ndarray,
        crowd: np.ndarray,
        mask_areas: np.ndarray,
        true_areas: np.ndarray,
    ) -> Detections:
        """`true_areas`, which decide on the range of area, may differ from the masks' number of pixels."""
        order = np.argsort(-predicted.scores, kind="stable")
        order = order[np.argsort(predicted.labels[order], kind="stable")]
        guesses = predicted.labels[order]
        first = np.searchsorted(guesses, guesses)  # where the class of each begins
        ranks = np.arange(len(order)) - first
        order, guesses, ranks = (x[ranks < MAX_DETECTIONS[-1]] for x in (order, guesses, ranks))
        shared, areas = shared[order], areas[order]

        ranges = np.array(list(AREAS.values()))[:, :, None]
        ignored_truth = crowd | (true_areas < ranges[:, 0]) | (true_areas > ranges[:, 1])  # (4, G)
        union = np.where(crowd, areas[:, None], areas[:, None] + mask_areas - shared)
        iou = np.divide(shared, union, out=np.zeros(shared.shape), where=shared > 0)

        matched = np.zeros((len(AREAS), len(IOU_THRESHOLDS), len(order)), bool)
        ignored = np.zeros_like(matched)
        for label in np.intersect1d(guesses, labels):
            rows, columns = np.flatnonzero(guesses == label), np.flatnonzero(labels == label)
            matched[:, :, rows], ignored[:, :, rows] = _match_class(
                iou[np.ix_(rows, columns)], ignored_truth[:, columns], crowd[columns]
            )
        outside = (areas < ranges[:, 0]) | (areas > ranges[:, 1])  # (4, D)
        ignored |= ~matched & outside[:, None]
        positives = np.stack([np.bincount(labels[~row], minlength=self.num_classes) for row in ignored_truth])
        return Detections(guesses, ranks, predicted.scores[order], matched, ignored, positives)

    def scores(self, records: list[Detections]) -> dict[str, Any]:
        """As the class describes; `records` as `record` gives them, in the order that decides between equal scores."""
        labels, ranks, scores = (np.concatenate([record[i] for record in records]) for i in range(3))
        matched, ignored = (np.concatenate([record[i] for record in records], axis=2) for i in (3, 4))
        positives = np.sum([record.positives for record in records], axis=0)
        order = np.argsort(-scores, kind="stable")
        precision = np.full((len(AREAS), len(IOU_THRESHOLDS), self.num_classes), np.nan)
        recall = np.full((len(AREAS), len(MAX_DETECTIONS), len(IOU_THRESHOLDS), self.num_classes), np.nan)
        for label in np.flatnonzero(positives.any(0)):
            rows = order[labels[order] == label]
            for area in np.flatnonzero(positives[:, label]):
                true = matched[area][:, rows] & ~ignored[area][:, rows]
                false = ~matched[area][:, rows] & ~ignored[area][:, rows]
                precision[area, :, label] = [
                    _interpolated_precision(*pair, positives[area, label]) for pair in zip(true, false)
                ]
                for number, limit in enumerate(MAX_DETECTIONS):
                    hits = true[:, ranks[rows] < limit].sum(1)
                    recall[area, number, :, label] = hits / positives[area, label]

        result = {"ap": _mean(precision[0]), "ap50": _mean(precision[0, 0]), "ap75": _mean(precision[0, 5])}
        result |= {f"ap{name}": _mean(values) for name, values in list(zip(AREAS, precision))[1:]}
        result |= {f"ar_{limit}": _mean(recall[0, number]) for number, limit in enumerate(MAX_DETECTIONS)}
        result |= {f"ar{name}": _mean(values[-1]) for name, values in list(zip(AREAS, recall))[1:]}
        result["per_class_ap"] = self.by_class(precision[0].mean(0))
        result["per_class_ap50"] = self.by_class(precision[0, 0])
        return result


def _match_class(iou: np.ndarray, ignored_truth: np.ndarray, crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Greedy matching within one class of one image: each detection, best first, takes the free true instance with the
    greatest IoU at or above the threshold; only where there is none, an ignored one, and crowds are never used up.

    Args:
        iou: float64 (D, G).
        ignored_truth: bool (4, G) by range of area.
        crowd: bool (G,).

    Returns:
        bool (4, 10, D): matched, and matched with an ignored instance.
    """
    ranges, thresholds = len(ignored_truth), np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[None, :, None]
    matched = np.zeros((ranges, len(IOU_THRESHOLDS), len(iou)), bool)
    ignored = np.zeros_like(matched)
    free = np.ones((ranges, len(IOU_THRESHOLDS), iou.shape[1]), bool)
    counting = ~ignored_truth[:, None]  # (4, 1, G)
    for row in np.flatnonzero(iou.max(1) >= IOU_THRESHOLDS[0]):
        possible = free & (iou[row] >= thresholds)
        best = possible & counting
        best = np.where(best.any(-1, keepdims=True), best, possible)
        # of equal overlaps the last wins
        column = iou.shape[1] - 1 - np.where(best, iou[row], -1.0)[..., ::-1].argmax(-1)
        found = possible.any(-1)
        matched[..., row] = found
        ignored[..., row] = found & np.take_along_axis(ignored_truth, column, 1)
        area, threshold = found.nonzero()
        taken = column[area, threshold]
        free[area, threshold, taken] = crowd[taken]
    return matched, ignored


def _interpolated_precision(true: np.ndarray, false: np.ndarray, positives: int) -> float:
    """The mean over 101 recalls of the greatest precision at that recall or more; bool (D,) detections, best first."""
    hits, misses = np.cumsum(true, dtype=np.float64), np.cumsum(false, dtype=np.float64)
    precision = hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(hits / positives, RECALLS, side="left")
    return float(np.append(precision, 0.0)[at].mean())


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
