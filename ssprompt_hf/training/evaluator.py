"""What is counted of a model on labelled images: confusions, AP, PQ; with and without its adapter."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from ..data.dataset import SegmentationDataset
from ..metrics import confusion_matrix, scores_from_confusion
from ..models.interface import CachedFeatures, PromptableImageProcessor, PromptableModel
from ..segmentation.export import PredictionExporter
from ..segmentation.inference import class_map
from ..segmentation.predictions import Prediction
from ..segmentation.tiles import MaskGeometry
from .evaluation import TaskEvaluation
from .examples import EvaluationExamples

ADAPTED, ZERO_SHOT = "adapted", "zero_shot"

Observer = Callable[[int, str, Prediction, MaskGeometry, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with index, state, prediction (of one image), geometry, class map, label and confusion matrix."""


class Evaluator:
    """
    Scores a model on images that come one by one, in one or two states: as it is (`"adapted"`), and as the base model
    without its adapter, with the default prompts of the adapter's classes (`"zero_shot"`).

    Args:
        image_processor: of the base model, for sizes and thresholds.
        task: `"semantic"`, `"instance"` or `"panoptic"`: what is counted besides mean IoU.
        device: where counts are kept.
    """

    def __init__(self, image_processor: PromptableImageProcessor, task: str, device: torch.device | str = "cpu"):
        self.image_processor, self.task, self.device = image_processor, task, device
        self.states: tuple[str, ...] = (ADAPTED,)
        self.exporter: PredictionExporter | None = None
        self.observers: list[Observer] = []
        self._examples: dict[tuple[int, bool], EvaluationExamples] = {}

    def examples(self, dataset: SegmentationDataset) -> EvaluationExamples:
        """The images as they are read; kept, as they know the digests of images that were read before."""
        if id(dataset) not in self._examples:
            self._examples[id(dataset)] = EvaluationExamples(dataset, self.image_processor, task=self.task)
        return self._examples[id(dataset)]

    def begin(self, dataset: SegmentationDataset) -> None:
        """Forget what was counted."""
        self.classes = dataset.classes
        policy = self.image_processor.inference_policy()
        self._confusions: torch.Tensor | int = 0
        self._tasks = {
            state: TaskEvaluation(self.task, self.classes, policy, self.exporter if state == ADAPTED else None)
            for state in self.states
        }
        self.task_scores: dict[str, dict[str, Any]] = {}

    @torch.no_grad()
    def add(
        self,
        model: nn.Module,
        features: CachedFeatures,
        index: int,
        label: torch.Tensor,
        instance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Score one image in all states.

        Args:
            model: the adapted model, perhaps wrapped for several processes.
            features: of the image.
            index: its position in the data set.
            label, instance: `(H, W)` at the size of the result.

        Returns:
            int64 `(states, K, K + 1)` confusion matrices, which are to be summed over images and handed to
            `add_confusions`.
        """
        base = base_model(model)
        inputs = base.decoder_inputs([features], self.device)
        size = self.image_processor.resized_size(tuple(label.shape))
        matrices = []
        for state, context in self._contexts(model):
            with context:
                outputs = model(**inputs, image_sizes=torch.tensor([size]))
            prediction = base.predictions(outputs)[0]
            geometry = prediction.geometry(size, tuple(label.shape))
            predicted = class_map(prediction, 0, geometry)
            label = label.to(predicted.device)
            matrices.append(confusion_matrix(predicted, label, len(self.classes)))
            reference = {"label": label, "instance": instance}
            self._tasks[state].add(index, prediction, predicted, reference, geometry)
            for observe in self.observers:
                observe(index, state, prediction, geometry, predicted, label, matrices[-1])
        return torch.stack(matrices)

    def _contexts(self, model: nn.Module) -> Iterator[tuple[str, contextlib.AbstractContextManager]]:
        for state in self.states:
            without = state == ZERO_SHOT and isinstance(_unwrapped(model), PeftModel)
            yield state, _unwrapped(model).base_model.zero_shot() if without else contextlib.nullcontext()

    def add_confusions(self, confusions: torch.Tensor) -> None:
        """Sums of what `add` returned, of all processes: `(states, K, K + 1)`."""
        self._confusions = self._confusions + confusions.cpu()

    def compute(self, gather: bool = False) -> None:
        """Scores of all images so far, for `scores`; with `gather` those of all processes."""
        self.task_scores = {state: task.scores(gather) for state, task in self._tasks.items()}

    def scores(self) -> dict[str, dict[str, Any]]:
        """
        By state, from 0 to 1: what `scores_from_confusion` gives, by class name, and for other tasks than semantic
        what `TaskEvaluation.scores` gives.
        """
        return {
            state: scores_from_confusion(matrix, self.classes.names) | self.task_scores[state]
            for state, matrix in zip(self.states, self._confusions)
        }


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without what distributes a model over processes."""
    return getattr(model, "module", model)


def base_model(model: nn.Module) -> PromptableModel:
    """The base model inside an adapted one."""
    model = _unwrapped(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model
