"""Evaluation in `SSPromptTrainer`: pixels are counted image by image, and only counts are gathered."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction

from ..data.dataset import SegmentationDataset
from ..errors import SSPromptError
from ..metrics import confusion_matrix, scores_from_confusion
from ..segmentation.export import PredictionExporter
from ..segmentation.inference import semantic_segmentation
from ..segmentation.tiles import MaskGeometry
from .evaluation import TaskEvaluation
from .examples import EvaluationExamples, collate_examples
from .feature_cache import model_inputs


class ScoringTrainer(Trainer):
    """
    A trainer that evaluates segmentation. The features of an image come from `_entry` and `feature_cache`, which
    `SSPromptTrainer` adds.
    """

    def __init__(self, **kwargs: Any):
        self.compare_zero_shot = False
        self.exporter: PredictionExporter | None = None
        self._evaluated: dict[tuple[int, bool], EvaluationExamples] = {}
        super().__init__(data_collator=collate_examples, compute_metrics=self._add_confusions, **kwargs)

    def get_eval_dataloader(self, eval_dataset: SegmentationDataset | str | None = None) -> DataLoader:
        """Batches of `eval_dataset`, or of the one given at the beginning (under a name, if there are several),
        divided among the processes."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise SSPromptError("evaluation needs an eval_dataset")
        self._check_classes(dataset)
        # what is not looked up in the cache is read by the loader's workers
        load_pixels = self.feature_cache.storage == "none" or not self._stores_evaluation
        # kept, as they know the digests of images that were read before
        self._eval_examples = self._evaluated.setdefault(
            (id(dataset), load_pixels),
            EvaluationExamples(dataset, self.image_processor, task=self.args.task, load_pixels=load_pixels),
        )
        loader = DataLoader(
            self._eval_examples,
            batch_size=self.args.eval_batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
        )
        return self.accelerator.prepare(loader)

    @property
    def _stores_evaluation(self) -> bool:
        """Whether features are kept: those of images that are evaluated once need not be."""
        # files that stood in for memory are gone when training ends
        gone = self.feature_cache.storage != self.args.feature_cache and not self.is_in_train
        return self._shares_cache or (self.args.eval_strategy != "no" and not gone)

    def evaluate_with_zero_shot(self, eval_dataset: SegmentationDataset | None = None) -> dict[str, dict]:
        """
        Scores of the adapted model and of the base model as it came, with one pass of the frozen part.

        Returns:
            `{"zero_shot": scores, "adapted": scores}`, each as `evaluate_by_class` gives them.
        """
        self.compare_zero_shot = True
        try:
            self.evaluate(eval_dataset)
        finally:
            self.compare_zero_shot = False
        adapted, zero_shot = self._scores_by_class()
        return {"adapted": adapted, "zero_shot": zero_shot}

    def evaluate_by_class(self, eval_dataset: SegmentationDataset | None = None) -> dict[str, Any]:
        """
        Scores of the model, from 0 to 1.

        Returns:
            what `scores_from_confusion` gives, by class name, and for other tasks than semantic what
            `TaskEvaluation.scores` gives.
        """
        self.evaluate(eval_dataset)
        return self._scores_by_class()[0]

    def _scores_by_class(self) -> list[dict[str, Any]]:
        names = self._eval_examples.dataset.classes.names
        return [
            scores_from_confusion(matrix, names) | scores
            for matrix, scores in zip(self._confusions, self._task_scores)
        ]

    def predict(self, *args: Any, **kwargs: Any):
        """Raises `SSPromptError`: label maps of many images are too large to be gathered."""
        raise SSPromptError("use SSPromptModel.predict for label maps, and evaluate for scores")

    def evaluation_loop(self, *args: Any, **kwargs: Any):
        """As in `transformers`, with empty counts to begin with."""
        self._confusions: torch.Tensor | int = 0
        classes = self._eval_examples.dataset.classes
        exporters = [self.exporter, None][: 1 + self.compare_zero_shot]
        self._task_evaluations = [
            TaskEvaluation(self.args.task, classes, self.image_processor, exporter) for exporter in exporters
        ]
        self._task_scores: list[dict[str, Any]] = []
        return super().evaluation_loop(*args, **kwargs)

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """One stack of confusion matrices an image, `(B, 1 or 2, K, K + 1)`; they are all that is gathered."""
        count, num_classes = len(inputs["index"]), len(self._eval_examples.dataset.classes)
        confusions = []
        for index, label, instance, pixel_values in zip(
            inputs["index"].tolist(),
            inputs["label"],
            inputs.get("instance") or [None] * count,
            inputs.get("pixel_values") or [None] * count,
        ):
            entry = self._entry(self._eval_examples, index, pixel_values=pixel_values, store=self._stores_evaluation)
            size = self._eval_examples.resized_size(tuple(label.shape))
            geometry = MaskGeometry(tuple(entry["padded_size"].tolist()), size, tuple(label.shape))
            matrices = []
            for context, evaluation in zip(self._compared(), self._task_evaluations):
                with context:
                    outputs = model(**model_inputs([entry], self.args.device), image_sizes=torch.tensor([size]))
                logits = outputs.class_queries_logits[0], outputs.masks_queries_logits[0]
                class_map = semantic_segmentation(*logits, geometry)
                label = label.to(class_map.device)
                matrices.append(confusion_matrix(class_map, label, num_classes))
                evaluation.add(index, outputs, class_map, {"label": label, "instance": instance}, geometry)
            confusions.append(torch.stack(matrices))
        return None, torch.stack(confusions), inputs["index"].to(self.args.device)

    def _compared(self) -> Iterator[contextlib.AbstractContextManager]:
        yield contextlib.nullcontext()
        if self.compare_zero_shot:
            # the default prompts of the adapter's classes, which the base model itself need not know
            yield self.model.base_model.zero_shot() if isinstance(self.model, PeftModel) else contextlib.nullcontext()

    def _add_confusions(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self._confusions = self._confusions + torch.as_tensor(prediction.predictions).sum(0).cpu()
        if not compute_result:
            return {}
        self._task_scores = [evaluation.scores(self.args.world_size > 1) for evaluation in self._task_evaluations]
        scores = scores_from_confusion(self._confusions[0], self._eval_examples.dataset.classes.names)
        metrics = {name: value for name, value in scores.items() if not isinstance(value, dict)}
        metrics |= {name: value for name, value in self._task_scores[0].items() if not isinstance(value, dict)}
        return metrics | {f"iou_{name}": value for name, value in scores["per_class_iou"].items()}
