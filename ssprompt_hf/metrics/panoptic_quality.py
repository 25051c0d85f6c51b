"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019)."""

import math
from typing import Any

import numpy as np

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from ..utils.arrays import as_array
from .segments import counts, segment_table, true_segments, unique_inverse
from .streaming import ImageRecords


class PanopticScores(ImageRecords):
    """
    Streaming panoptic, segmentation and recognition quality of all classes, things and stuff.

    A predicted and a true segment of one class match where their IoU, not counting void pixels, is above 0.5. Crowds
    match nothing and are not missed. A predicted segment without match is left out if more than half of it lies in
    void pixels and the crowd of its class. Classes without segment, true or predicted, are left out of the means.

    Predictions are dicts of `segmentation` (H, W), ids of segments and 0 for none, and `segments_info`, dicts of `id`
    and `label_id`: what `post_process_panoptic_segmentation` returns. References are dicts of `label` (H, W), class
    indices or `ignore_index`, and `instance` (H, W), where things without instance are crowds; or of `segmentation`
    and `segments_info` with `iscrowd`. Where one class has several crowds, the last one counts, as in the official
    code.

    Results, from 0 to 1, NaN where there is no class: `pq`, `sq`, `rq`, each also for `_things` and `_stuff`;
    `per_class_pq`, `per_class_sq`, `per_class_rq`, with NaN for classes without segment.

    Args and errors: those of `ImageRecords`.
    """

    def record(self, prediction: dict[str, Any], reference: dict[str, Any]) -> np.ndarray:
        """float64 (4, K): true positives, false positives, false negatives, sum of the IoUs of the true positives."""
        predicted = as_array(prediction["segmentation"])
        if predicted.ndim != 2:
            raise SSPromptError(f"A panoptic `segmentation` has shape (H, W), not {predicted.shape}.")
        table = segment_table(prediction["segments_info"], self.num_classes)
        truth = true_segments(reference, self.num_classes, self.thing_indices, self.ignore_index, predicted)
        ids, index = unique_inverse(np.ascontiguousarray(predicted).reshape(-1)[truth.starts])
        if unknown := [i for i in ids.tolist() if i not in table and i != 0]:
            raise SSPromptError(f"The segmentation holds the id {unknown[0]}, which is not in `segments_info`.")
        guesses = np.array([table[i]["label_id"] if i in table else IGNORE_INDEX for i in ids.tolist()], np.int64)

        shape = len(ids), len(truth.labels)
        shared = counts(index * shape[1] + truth.index, truth.lengths, shape[0] * shape[1]).reshape(shape)
        areas, void = shared.sum(1), shared[:, truth.labels == IGNORE_INDEX].sum(1)
        union = areas[:, None] + truth.areas[None] - shared - void[:, None]
        can_match = (guesses[:, None] == truth.labels) & ~truth.crowd & (guesses != IGNORE_INDEX)[:, None]
        iou = np.divide(shared, union, out=np.zeros(shape), where=can_match)
        matched = iou > 0.5
        rows, columns = matched.nonzero()

        ignored = void.copy()
        for column in self._crowds(reference, truth):
            ignored += shared[:, column] * (guesses == truth.labels[column])
        wrong = ~matched.any(1) & (guesses != IGNORE_INDEX) & ~(ignored / np.maximum(areas, 1) > 0.5)
        missed = ~matched.any(0) & ~truth.crowd & (truth.labels != IGNORE_INDEX)

        def by_class(labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
            return np.bincount(labels, weights, minlength=self.num_classes)

        return np.stack(
            [
                by_class(guesses[rows]),
                by_class(guesses[wrong]),
                by_class(truth.labels[missed]),
                by_class(guesses[rows], iou[rows, columns]),
            ]
        ).astype(np.float64)

    def _crowds(self, reference: dict[str, Any], truth: Any) -> list[int]:
        """Columns of the crowds that count: one a class."""
        columns = np.flatnonzero(truth.crowd).tolist()
        if "segments_info" in reference:
            order = {int(info["id"]): number for number, info in enumerate(reference["segments_info"])}
            ids = unique_inverse(as_array(reference["segmentation"]).reshape(-1)[truth.starts])[0].tolist()
            columns.sort(key=lambda column: order[ids[column]])
        return list({int(truth.labels[column]): column for column in columns}.values())

    def scores(self, records: list[np.ndarray]) -> dict[str, Any]:
        """As the class describes; `records` as `record` gives them."""
        true, false, missed, iou = (
            # sums that do not depend on the order
            np.array([math.fsum(record[row, k] for record in records) for k in range(self.num_classes)])
            for row in range(4)
        )
        weight = true + false / 2 + missed / 2
        seen = weight > 0
        with np.errstate(invalid="ignore"):
            quality = {"pq": iou / weight, "sq": np.where(true > 0, iou / true, 0.0), "rq": true / weight}
        is_thing = np.isin(np.arange(self.num_classes), self.thing_indices)

        def mean(values: np.ndarray, chosen: np.ndarray) -> float:
            values = values[chosen & seen]
            return float(values.mean()) if len(values) else float("nan")

        result: dict[str, Any] = {}
        for suffix, chosen in (("", np.ones_like(is_thing)), ("_things", is_thing), ("_stuff", ~is_thing)):
            result |= {name + suffix: mean(values, chosen) for name, values in quality.items()}
        for name, values in quality.items():
            result[f"per_class_{name}"] = self.by_class(np.where(seen, values, np.nan))
        return result
