"""Segments of an image as metrics count them: runs of equal pixels, tables of segments, overlaps of masks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from ..utils.arrays import as_array
from .run_masks import RunMasks, counts, is_coded, mask_runs, run_masks


def runs(*maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Where, row by row, pixels differ from the one before in any of the maps.

    Label maps have hundreds of times fewer runs than pixels, so that counting runs is much faster than counting
    pixels.

    Args:
        maps: arrays of one shape.

    Returns:
        starts and lengths of the runs in the flat maps, int64.
    """
    size = maps[0].size
    if not size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    change = np.empty(size, bool)
    change[0] = True
    for position, values in enumerate(maps):
        flat = values.reshape(-1)
        if position == 0:
            np.not_equal(flat[1:], flat[:-1], out=change[1:])
        else:
            change[1:] |= flat[1:] != flat[:-1]
    starts = np.flatnonzero(change)
    return starts, np.diff(starts, append=size)


def unique_inverse(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`numpy.unique(values, return_inverse=True)` of integers, without sorting where their range is small."""
    if not len(values):
        return values, np.zeros(0, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low > max(4 * len(values), 2**16):
        unique, inverse = np.unique(values, return_inverse=True)
        return unique, inverse.reshape(-1)
    shifted = values.astype(np.int64) - low
    table = np.zeros(high - low + 1, bool)
    table[shifted] = True
    return np.flatnonzero(table) + low, (np.cumsum(table) - 1)[shifted]


@dataclass(frozen=True)
class Segments:
    """
    S disjoint segments of an image, given by runs of pixels.

    Args:
        shape: (H, W).
        starts, lengths: runs, as `runs` gives them; int64 (R,).
        index: int64 (R,), the segment of each run.
        labels: int64 (S,), class indices; `IGNORE_INDEX` for void.
        crowd: bool (S,), regions of a countable class whose instances are not told apart.
        named_void: bool (S,), instances of classes that are ignored. They are void but for Cityscapes' AP.
    """

    shape: tuple[int, int]
    starts: np.ndarray
    lengths: np.ndarray
    index: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    named_void: np.ndarray

    @property
    def areas(self) -> np.ndarray:
        """int64 (S,), in pixels."""
        return counts(self.index, self.lengths, len(self.labels))

    def index_map(self) -> np.ndarray:
        """(H * W,), the segment of each pixel, as the smallest unsigned integers that hold it."""
        return np.repeat(self.index.astype(np.min_scalar_type(max(len(self.labels) - 1, 0))), self.lengths)

    def down_columns(self) -> "Segments":
        """The same segments by runs in the flat transposed image."""
        index = np.ascontiguousarray(self.index_map().reshape(self.shape).T).reshape(-1)
        starts, lengths = runs(index)
        return replace(self, starts=starts, lengths=lengths, index=index[starts].astype(np.int64))


def _integer_map(value: Any, name: str) -> np.ndarray:
    array = as_array(value)
    if array.ndim != 2 or array.dtype.kind not in "bui":
        raise SSPromptError(
            f"`{name}` is a (H, W) map of integers, not an array of shape {array.shape} and type {array.dtype}."
        )
    return np.ascontiguousarray(array)


def true_segments(
    reference: Mapping[str, Any],
    num_classes: int,
    thing_indices: list[int],
    ignore_index: int = IGNORE_INDEX,
    *others: np.ndarray,
) -> Segments:
    """
    The true segments of an image.

    Args:
        reference: either `label` (H, W), class indices or `ignore_index`, with `instance` (H, W), 0 where there is
            none: each instance of a countable class is a segment, its pixels without instance are one crowd, every
            other class is one segment. Or `segmentation` (H, W) and `segments_info`, dicts of `id`, `label_id` and
            perhaps `iscrowd`; all ids that are not listed are void.
        num_classes: K.
        thing_indices: the countable classes.
        ignore_index: the void label.
        others: further maps that the runs must not cross.

    Raises:
        SSPromptError: neither form; a label that is no class index; a size that is not that of `others`.
    """
    if "segments_info" in reference:
        ids = _integer_map(reference["segmentation"], "segmentation")
        _check_sizes(ids, others)
        starts, lengths = runs(ids, *others)
        found, index = unique_inverse(ids.reshape(-1)[starts])
        table = segment_table(reference["segments_info"], num_classes)
        labels = np.array([table[i]["label_id"] if i in table else ignore_index for i in found.tolist()], np.int64)
        crowd = np.array([bool(i in table and table[i].get("iscrowd", 0)) for i in found.tolist()], bool)
        labels[labels == ignore_index] = IGNORE_INDEX
        return Segments(ids.shape, starts, lengths, index, labels, crowd, np.zeros(len(labels), bool))
    if "label" not in reference:
        raise SSPromptError(
            f"A reference has `label` and `instance`, or `segmentation` and `segments_info`; got {list(reference)}."
        )
    label = _integer_map(reference["label"], "label")
    maps = [label]
    if reference.get("instance") is not None:
        maps.append(_integer_map(reference["instance"], "instance"))
    _check_sizes(label, [*maps[1:], *others])
    starts, lengths = runs(*maps, *others)
    classes = label.reshape(-1)[starts].astype(np.int64)
    void = classes == ignore_index
    if (~void & ((classes < 0) | (classes >= num_classes))).any():
        raise SSPromptError(
            f"Labels run from {classes[~void].min()} to {classes[~void].max()}; {num_classes} classes allow 0 to "
            f"{num_classes - 1}, and {ignore_index} for ignored pixels."
        )
    is_thing = np.zeros(num_classes + 1, bool)
    is_thing[thing_indices] = True
    classes[void] = num_classes
    instance = np.zeros(len(starts), np.int64)
    if len(maps) == 2:
        instance = maps[1].reshape(-1)[starts].astype(np.int64)
        instance[void] = instance[void] != 0
        instance[~void & ~is_thing[classes]] = 0
    elif is_thing[classes].any():
        raise SSPromptError("The reference has pixels of countable classes but no `instance` map.")
    low = int(instance.min(initial=0))
    span = int(instance.max(initial=0)) - low + 1
    keys, index = unique_inverse(classes * span + (instance - low))
    labels, numbers = keys // span, keys % span + low
    crowd = (numbers == 0) & is_thing[labels]
    named_void = (labels == num_classes) & (numbers != 0)
    labels[labels == num_classes] = IGNORE_INDEX
    return Segments(label.shape, starts, lengths, index, labels, crowd, named_void)


def segment_table(segments_info: list[dict], num_classes: int) -> dict[int, dict]:
    """
    The entries of `segments_info` by id.

    Raises:
        SSPromptError: an id twice, or a `label_id` that is no class index.
    """
    table: dict[int, dict] = {}
    for info in segments_info:
        if info["id"] in table:
            raise SSPromptError(f"Two segments have the id {info['id']}.")
        if not 0 <= info["label_id"] < num_classes:
            raise SSPromptError(
                f"Segment {info['id']} has the `label_id` {info['label_id']}; {num_classes} classes allow 0 to "
                f"{num_classes - 1}."
            )
        table[int(info["id"])] = info
    return table


def _check_sizes(truth: np.ndarray, others: Any) -> None:
    for other in others:
        if other.shape != truth.shape:
            raise SSPromptError(
                f"The prediction has shape {other.shape}, the reference {truth.shape}; resize the prediction to the "
                "reference's size."
            )


@dataclass(frozen=True)
class PredictedInstances:
    """
    N instances of an image, which may overlap.

    Args:
        labels: int64 (N,), class indices.
        scores: float64 (N,).
        masks: bool (M, H, W), integer (H, W) with the numbers of disjoint masks plus 1, or runs.
        mask_of: int64 (N,), the mask of each instance; instances of several classes may share one.
    """

    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | RunMasks
    mask_of: np.ndarray


def predicted_instances(prediction: Mapping[str, Any], num_classes: int) -> PredictedInstances:
    """
    The instances of one image, in either of two forms.

    Args:
        prediction: what `post_process_instance_segmentation` returns for one image: `segmentation`, (N, H, W) bool
            or (H, W) ids, and `segments_info`, dicts of `id`, `label_id` and `score`. Or `masks` (M, H, W) bool or M
            run-length codes of COCO, `labels` (N,), `scores` (N,) and, where M is not N or the order differs,
            `mask_of` (N,).
        num_classes: K.

    Raises:
        SSPromptError: neither form; numbers that do not agree; a class that is not there; a score that is no number.
    """
    if "segments_info" in prediction:
        masks, infos = as_array(prediction["segmentation"]), prediction["segments_info"]
        segment_table(infos, num_classes)
        labels = np.array([info["label_id"] for info in infos], np.int64)
        scores = np.array([info["score"] for info in infos], np.float64)
        mask_of = np.arange(len(labels))
        if masks.ndim == 2:
            masks = _integer_map(masks, "segmentation")
            position = np.zeros(max([info["id"] for info in infos] + [int(masks.max(initial=0))]) + 1, np.int32)
            position[[info["id"] for info in infos]] = mask_of + 1
            masks = position[masks]
    elif "masks" in prediction:
        masks, labels = prediction["masks"], as_array(prediction["labels"]).astype(np.int64).reshape(-1)
        masks = run_masks(masks) if is_coded(masks) else as_array(masks)
        scores = as_array(prediction["scores"]).astype(np.float64).reshape(-1)
        mask_of = prediction.get("mask_of")
        mask_of = np.arange(len(labels)) if mask_of is None else as_array(mask_of).astype(np.int64).reshape(-1)
    else:
        raise SSPromptError(
            "Predicted instances have `masks`, `labels` and `scores`, or `segmentation` and `segments_info`; got "
            f"{list(prediction)}."
        )
    count = len(masks)
    if not isinstance(masks, RunMasks):
        count = len(masks) if masks.ndim == 3 else len(labels)
        masks = np.ascontiguousarray(masks != 0 if masks.ndim == 3 and masks.dtype != bool else masks)
    if not len(labels) == len(scores) == len(mask_of) or (len(mask_of) and not 0 <= mask_of.max() < count):
        raise SSPromptError(
            f"{count} masks, {len(labels)} labels and {len(scores)} scores do not go together; give each instance one "
            "of each, or `mask_of`."
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise SSPromptError(
            f"Labels of instances run from {labels.min()} to {labels.max()}; {num_classes} classes allow 0 to "
            f"{num_classes - 1}."
        )
    if not np.isfinite(scores).all():
        raise SSPromptError("A score of an instance is not a finite number.")
    return PredictedInstances(labels, scores, masks, mask_of)


def instance_overlaps(predicted: PredictedInstances, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """
    Pixels that predicted instances share with segments of an image of the same size.

    Returns:
        int64 (N, S) shared pixels, int64 (N,) areas.

    Raises:
        SSPromptError: the sizes differ.
    """
    masks, size = predicted.masks, len(segments.labels)
    if not len(predicted.labels):
        return np.zeros((0, size), np.int64), np.zeros(0, np.int64)
    if tuple(masks.shape[-2:]) != tuple(segments.shape):
        raise SSPromptError(
            f"The prediction has shape {masks.shape[-2:]}, the reference {segments.shape}; resize the prediction to "
            "the reference's size."
        )
    if isinstance(masks, RunMasks):
        columns = segments.down_columns()
        shared = np.stack([_pixels_by_segment(*pair, columns) for pair in zip(masks.starts, masks.ends)])
    elif masks.ndim == 2:
        rows = len(predicted.labels) + 1
        index = segments.index_map()
        starts, lengths = runs(masks, index)
        pairs = masks.reshape(-1)[starts].astype(np.int64) * size + index[starts]
        shared = counts(pairs, lengths, rows * size).reshape(rows, size)[1:]
    else:
        flat = masks.reshape(len(masks), -1)
        shared = np.stack([_pixels_by_segment(*mask_runs(mask), segments) for mask in flat])
    shared = shared[predicted.mask_of]
    return shared, shared.sum(1)


def _pixels_by_segment(starts: np.ndarray, ends: np.ndarray, segments: Segments) -> np.ndarray:
    """int64 (S,): how many pixels of runs lie in each segment; from runs to runs, without pixels."""
    first = np.searchsorted(segments.starts, starts, side="right") - 1
    pieces = np.searchsorted(segments.starts, ends, side="left") - first  # runs of the image that each run crosses
    run = np.repeat(first - np.cumsum(pieces) + pieces, pieces) + np.arange(pieces.sum())
    left = np.maximum(segments.starts[run], np.repeat(starts, pieces))
    right = np.minimum(segments.starts[run] + segments.lengths[run], np.repeat(ends, pieces))
    return counts(segments.index[run], right - left, len(segments.labels))
