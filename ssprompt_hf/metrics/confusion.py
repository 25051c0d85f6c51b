"""Confusion matrices, which add up over images and processes, and the scores they give."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import LabelIdError, SSPromptError
from ..utils.arrays import as_array
from .segments import counts, runs


def confusion_matrix(
    prediction: np.ndarray | torch.Tensor,
    label: np.ndarray | torch.Tensor,
    num_classes: int,
    ignore_index: int = 255,
) -> np.ndarray | torch.Tensor:
    """Counts pixels by true and predicted class.

    Args:
        prediction: integers of any shape, class indices; any other number means "no class" and is a miss of the true
            class.
        label: integers of the same shape, class indices or `ignore_index`.
        num_classes: K.
        ignore_index: pixels with this label are not counted.

    Returns:
        int64 (K, K + 1), of the kind and on the device of `label`: row true class, column predicted class, last column
        pixels without predicted class. Matrices of images, batches and processes may be added.

    Raises:
        SSPromptError: the shapes differ.
        LabelIdError: a label is neither a class index nor ignored.
    """
    if tuple(prediction.shape) != tuple(label.shape):
        raise SSPromptError(
            f"The prediction has shape {tuple(prediction.shape)}, the label {tuple(label.shape)}; resize the "
            "prediction to the label's size."
        )
    weights = None
    if isinstance(label, torch.Tensor) and label.device.type != "cpu":
        prediction = torch.as_tensor(prediction, device=label.device)
        keep = label != ignore_index
        truth, guess = label[keep].long(), prediction[keep].long()
        guess = torch.where((guess < 0) | (guess >= num_classes), num_classes, guess)
    else:
        guess, truth = (np.ascontiguousarray(as_array(x)).reshape(-1) for x in (prediction, label))
        starts, weights = runs(truth, guess)
        keep = truth[starts] != ignore_index
        truth, guess = (x[starts[keep]].astype(np.int64) for x in (truth, guess))
        guess[(guess < 0) | (guess >= num_classes)] = num_classes
    if len(truth) and (truth.min() < 0 or truth.max() >= num_classes):
        raise LabelIdError(
            f"Labels run from {int(truth.min())} to {int(truth.max())}; {num_classes} classes allow 0 to "
            f"{num_classes - 1}, and {ignore_index} for ignored pixels."
        )
    pairs, size = truth * (num_classes + 1) + guess, num_classes * (num_classes + 1)
    if weights is None:
        return torch.bincount(pairs, minlength=size).reshape(num_classes, num_classes + 1)
    matrix = counts(pairs, weights[keep], size).reshape(num_classes, num_classes + 1)
    return torch.from_numpy(matrix) if isinstance(label, torch.Tensor) else matrix


def scores_from_confusion(matrix: Any, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean IoU and its relatives.

    A class that occurs neither in the truth nor in the predictions has no IoU (NaN) and is left out of the mean; one
    that is only predicted has IoU 0 and counts. A class that is not in the truth has no accuracy.

    Args:
        matrix: (K, K) or (K, K + 1) counts as `confusion_matrix` gives them.
        class_names: K names, for `per_class_iou` as a dict by name.

    Returns:
        `mean_iou`, `mean_accuracy` (mean recall), `pixel_accuracy` as floats from 0 to 1, NaN if there was no pixel;
        `per_class_iou`, `per_class_accuracy` as lists of K floats, or dicts by name.

    Raises:
        SSPromptError: another shape, or another number of names.
    """
    matrix = np.asarray(matrix.cpu() if isinstance(matrix, torch.Tensor) else matrix)
    num_classes = matrix.shape[0]
    if matrix.ndim != 2 or matrix.shape[1] not in (num_classes, num_classes + 1):
        raise SSPromptError(f"A confusion matrix has shape (K, K) or (K, K + 1), not {matrix.shape}.")
    if class_names is not None and len(class_names) != num_classes:
        raise SSPromptError(f"{len(class_names)} class names for {num_classes} classes.")
    hits = np.diagonal(matrix).astype(np.float64)
    truth, guessed = matrix.sum(1), matrix[:, :num_classes].sum(0)
    union = truth + guessed - hits
    iou = np.divide(hits, union, out=np.full(num_classes, np.nan), where=union > 0)
    accuracy = np.divide(hits, truth, out=np.full(num_classes, np.nan), where=truth > 0)

    def mean(values: np.ndarray) -> float:
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    def by_class(values: np.ndarray) -> list[float] | dict[str, float]:
        return values.tolist() if class_names is None else dict(zip(class_names, values.tolist()))

    return {
        "mean_iou": mean(iou),
        "mean_accuracy": mean(accuracy),
        "pixel_accuracy": float(hits.sum() / truth.sum()) if truth.sum() else float("nan"),
        "per_class_iou": by_class(iou),
        "per_class_accuracy": by_class(accuracy),
    }
