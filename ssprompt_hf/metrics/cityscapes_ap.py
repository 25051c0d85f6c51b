"""Average precision of instances as Cityscapes defines it."""

from typing import Any, NamedTuple

import numpy as np

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from .segments import instance_overlaps, predicted_instances, true_segments
from .streaming import ImageRecords

IOU_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


class Predictions(NamedTuple):
    """
    Of one image: E predictions that count at an IoU threshold, and what is missed.

    thresholds, labels uint8 (E,), scores float64 (E,), true bool (E,); missed int64 (10, K) true instances without
    match; has_truth, has_prediction bool (K,).
    """

    thresholds: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    true: np.ndarray
    missed: np.ndarray
    has_truth: np.ndarray
    has_prediction: np.ndarray


class CityscapesScores(ImageRecords):
    """
    Streaming average precision (AP) of instance masks, as the evaluation script of Cityscapes computes it.

    A true instance takes of all predictions of its class with an IoU above the threshold the one with the best score;
    the others are false. A prediction without match is left out if more than the threshold's share of it lies in void
    pixels, groups (things without instance) and true instances of its class below the least size. The area under the
    precision-recall curve is taken without interpolation. Distances are not looked at, so the script's AP100m and
    AP50m are not computed.

    Predictions and references are those of `CocoScores`, whose true instances must not overlap. As in the script,
    pixels of ignored classes are void only if they have no instance: Cityscapes tells apart caravans and trailers,
    which are ignored as classes, and predictions there are false.

    Args:
        class_names, thing_indices, ignore_index, num_process, process_id: as in `ImageRecords`.
        min_region_size: true instances with fewer pixels are ignored.

    Results, from 0 to 1, NaN for classes without true instance: `ap` (mean over IoU 0.50:0.05:0.95 and classes),
    `ap50`; `per_class_ap`, `per_class_ap50`.

    Raises:
        SSPromptError: as `ImageRecords`.
    """

    def __init__(self, *args: Any, min_region_size: int = 100, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.min_region_size = min_region_size

    def record(self, prediction: dict[str, Any], reference: dict[str, Any]) -> Predictions:
        """The predictions of one image, judged at every threshold."""
        if "masks" in reference:
            raise SSPromptError("Cityscapes' AP is of instances that do not overlap: give `label` and `instance`.")
        predicted = predicted_instances(prediction, self.num_classes)
        truth = true_segments(reference, self.num_classes, self.thing_indices, self.ignore_index)
        shared, areas = instance_overlaps(predicted, truth)
        keep = np.isin(predicted.labels, self.thing_indices) & (areas > 0)
        labels, scores, shared, areas = (x[keep] for x in (predicted.labels, predicted.scores, shared, areas))

        is_thing = np.isin(truth.labels, self.thing_indices) & (truth.labels != IGNORE_INDEX)
        small = truth.areas < self.min_region_size
        counting = is_thing & ~truth.crowd & ~small
        same = labels[:, None] == truth.labels
        void = (truth.labels == IGNORE_INDEX) & ~truth.named_void
        # a small group counts twice, as in the script
        weight = is_thing * (truth.crowd.astype(np.int64) + small)
        ignored = shared[:, void].sum(1) + (shared * same * weight).sum(1)

        # the script looks for matches of ignored instances, too: such predictions are not false
        iou = np.where(same & is_thing, shared / (truth.areas + areas[:, None] - shared), 0.0)
        lists: list[tuple[np.ndarray, ...]] = []
        missed = np.zeros((len(IOU_THRESHOLDS), self.num_classes), np.int64)
        for number, threshold in enumerate(IOU_THRESHOLDS):
            match = iou > threshold
            rows, columns = (match & counting).nonzero()
            # by instance and falling score; the first of each instance is true
            order = np.lexsort((-scores[rows], columns))
            rows, columns = rows[order], columns[order]
            true = np.diff(columns, prepend=-1) != 0
            false = np.flatnonzero(~match.any(1) & (ignored / areas <= threshold))
            chosen = np.concatenate([rows, false])
            lists.append(
                (
                    np.full(len(chosen), number, np.uint8),
                    labels[chosen].astype(np.uint8),
                    scores[chosen],
                    np.concatenate([true, np.zeros(len(false), bool)]),
                )
            )
            missed[number] = np.bincount(truth.labels[counting & ~match.any(0)], minlength=self.num_classes)
        has_truth, has_prediction = np.zeros((2, self.num_classes), bool)
        has_truth[truth.labels[counting]] = True
        has_prediction[labels] = True
        return Predictions(*(np.concatenate(parts) for parts in zip(*lists)), missed, has_truth, has_prediction)

    def scores(self, records: list[Predictions]) -> dict[str, Any]:
        """As the class describes; `records` as `record` gives them."""
        thresholds, labels, scores, true = (np.concatenate([record[i] for record in records]) for i in range(4))
        missed = np.sum([record.missed for record in records], axis=0)
        has_truth, has_prediction = (np.any([record[i] for record in records], axis=0) for i in (5, 6))
        precision = np.full((len(IOU_THRESHOLDS), self.num_classes), np.nan)
        precision[:, has_truth] = 0.0
        for label in np.flatnonzero(has_truth & has_prediction):
            for number in range(len(IOU_THRESHOLDS)):
                rows = (labels == label) & (thresholds == number)
                precision[number, label] = average_precision(scores[rows], true[rows], missed[number, label])
        evaluated = precision[:, has_truth]
        return {
            "ap": float(evaluated.mean()) if evaluated.size else float("nan"),
            "ap50": float(evaluated[0].mean()) if evaluated.size else float("nan"),
            "per_class_ap": self.by_class(precision.mean(0)),
            "per_class_ap50": self.by_class(precision[0]),
        }


def average_precision(scores: np.ndarray, true: np.ndarray, missed: int) -> float:
    """
    Area under a precision-recall curve, each precision weighted by half the distance of the recalls beside it.

    Args:
        scores: float (E,), of the predictions.
        true: bool (E,), which are right.
        missed: number of true instances that no prediction found.

    Returns:
        0 to 1; 0 without predictions.
    """
    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    _, first = np.unique(scores[order], return_index=True)
    below = np.concatenate([[0], np.cumsum(true[order])])[first]  # right ones with a lower score
    hits = true.sum() - below
    precision = np.append(hits / (len(scores) - first), 1.0)
    # without any true instance at all the recall would be 0 / 0
    recall = np.append(hits / max(true.sum() + missed, 1), 0.0)
    neighbours = np.concatenate([recall[:1], recall, [0.0]])
    return float(precision @ ((neighbours[:-2] - neighbours[2:]) / 2))
