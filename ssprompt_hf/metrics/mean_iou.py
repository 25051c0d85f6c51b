"""Mean intersection over union as an `evaluate` metric that keeps counts instead of pictures."""

from collections.abc import Iterable, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from ..errors import SSPromptError
from .confusion import confusion_matrix, scores_from_confusion

_DESCRIPTION = "Mean intersection over union of semantic segmentation, with per-class IoU and accuracies."
_INPUTS = """
Predictions and references are integer maps of class indices, one (H, W) map an image; images may differ in size.
Results: mean_iou, mean_accuracy, pixel_accuracy, per_class_iou, per_class_accuracy. A class that occurs neither in the
    truth
nor in the predictions is left out of the means.
"""


class MeanIoU(evaluate.Metric):
    """Streaming mean IoU: its whole state is one int64 (K, K + 1) confusion matrix.

    With several processes either give every process's images to one metric as per-image matrices (`confusion_matrix`,
    then `gather_for_metrics`, which drops the images that fill up the last batch, then `add_confusion`), or make one
    metric a process with `num_process` and `process_id`, as everywhere in `evaluate`: `compute` then adds the
    processes' counts through `torch.distributed` and returns the scores in process 0, None elsewhere.

    Args:
        num_classes: K; may be left out where `class_names` is given.
        class_names: names, for per-class results as dicts.
        ignore_index: label of pixels that do not count.
        kwargs: those of `evaluate.Metric`.

    Raises:
        SSPromptError: neither or contradicting `num_classes` and `class_names`.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_index: int = 255,
        **kwargs: Any,
    ):
        if num_classes is None and class_names is not None:
            num_classes = len(class_names)
        if num_classes is None or num_classes < 1 or (class_names is not None and len(class_names) != num_classes):
            raise SSPromptError(
                f"MeanIoU needs `num_classes` of 1 or more, or as many `class_names`; got {num_classes!r} and "
                f"{None if class_names is None else len(class_names)} names."
            )
        self.num_classes = num_classes
        self.class_names = class_names
        self.ignore_index = ignore_index
        self.reset()
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        image = datasets.Sequence(datasets.Sequence(datasets.Value("uint16")))
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": image, "references": image}),
        )

    def _build_data_dir(self) -> str:
        return ""  # the base class would make a folder for pictures that this metric never stores

    def __len__(self) -> int:
        """Images added since the last `compute` in this process."""
        return self._num_images

    @property
    def matrix(self) -> np.ndarray:
        """int64 (K, K + 1): the counts so far in this process."""
        return self._matrix.copy()

    def reset(self) -> None:
        """Forgets everything added."""
        self._matrix = np.zeros((self.num_classes, self.num_classes + 1), np.int64)
        self._num_images = 0

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one image, two (H, W) maps of the same size: numpy, torch on any device, or nested lists."""
        if kwargs:
            raise SSPromptError(f"MeanIoU.add takes `prediction` and `reference`, not {', '.join(kwargs)}.")
        reference = reference if isinstance(reference, torch.Tensor) else np.asarray(reference)
        prediction = prediction if isinstance(prediction, torch.Tensor) else np.asarray(prediction)
        self.add_confusion(confusion_matrix(prediction, reference, self.num_classes, self.ignore_index))

    def add_batch(self, *, predictions: Iterable = (), references: Iterable = (), **kwargs: Any) -> None:
        """Adds a batch: (B, H, W) arrays, or as many (H, W) maps of any sizes."""
        if kwargs:
            raise SSPromptError(f"MeanIoU.add_batch takes `predictions` and `references`, not {', '.join(kwargs)}.")
        predictions, references = list(predictions), list(references)
        if len(predictions) != len(references):
            raise SSPromptError(f"{len(predictions)} predictions but {len(references)} references.")
        for prediction, reference in zip(predictions, references):
            self.add(prediction=prediction, reference=reference)

    def add_confusion(self, matrix: np.ndarray | torch.Tensor) -> None:
        """Adds the counts of one image, (K, K + 1) or (K, K), or of several, (B, ...)."""
        matrix = np.asarray(matrix.cpu() if isinstance(matrix, torch.Tensor) else matrix)
        single = matrix[None] if matrix.ndim == 2 else matrix
        if single.ndim != 3 or single.shape[1] != self.num_classes or single.shape[2] - self.num_classes not in (0, 1):
            raise SSPromptError(
                f"Confusion matrices of {self.num_classes} classes have shape ({self.num_classes}, "
                f"{self.num_classes + 1}), alone or stacked, not {matrix.shape}."
            )
        self._matrix[:, : single.shape[2]] += single.sum(0, dtype=np.int64)
        self._num_images += len(single)

    def merge(self, other: "MeanIoU") -> None:
        """Adds the counts of another metric, for instance from another process."""
        images = len(self) + len(other)
        self.add_confusion(other.matrix)
        self._num_images = images

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any] | None:
        """Adds `predictions` and `references` where given, returns the scores of everything added, and starts afresh.

        Returns:
            The dict of `scores_from_confusion`; None in all processes but the first when there are several.

        Raises:
            SSPromptError: nothing was added, or `num_process` above 1 without an initialised `torch.distributed`.
        """
        if (predictions is None) != (references is None):
            raise SSPromptError("Give both `predictions` and `references`, or neither.")
        if kwargs:
            raise SSPromptError(f"MeanIoU.compute takes `predictions` and `references`, not {', '.join(kwargs)}.")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        matrix, num_images = self.matrix, len(self)
        if self.num_process > 1:
            matrix, num_images = _sum_over_processes(matrix, num_images, self.num_process)
        self.reset()
        if self.process_id > 0:
            return None
        if not num_images:
            raise SSPromptError("Nothing to compute: call `add`, `add_batch` or `add_confusion` first.")
        return scores_from_confusion(matrix, self.class_names)


def _sum_over_processes(matrix: np.ndarray, num_images: int, num_process: int) -> tuple[np.ndarray, int]:
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() != num_process:
        raise SSPromptError(
            f"MeanIoU(num_process={num_process}) adds the counts through `torch.distributed`, which is not "
            f"initialised with {num_process} processes."
        )
    on_gpu = torch.distributed.get_backend() == "nccl"
    counts = torch.tensor([*matrix.ravel().tolist(), num_images], device="cuda" if on_gpu else "cpu")
    torch.distributed.all_reduce(counts)
    counts = counts.cpu().numpy()
    return counts[:-1].reshape(matrix.shape), int(counts[-1])
