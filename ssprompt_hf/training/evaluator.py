"""What is counted of a model on labelled images: confusions, AP, PQ; with and without its adapters."""

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from torch import nn

from ..data.dataset import SegmentationDataset
from ..errors import SSPromptError
from ..metrics import confusion_matrix, scores_from_confusion
from ..models.interface import SPATIAL, CachedFeatures, PromptableImageProcessor, PromptableModel
from ..segmentation.export import PredictionExporter
from ..segmentation.inference import class_map
from ..segmentation.predictions import Prediction
from ..segmentation.tiles import MaskGeometry
from .evaluation import TaskEvaluation
from .examples import EvaluationExamples

ADAPTED, ZERO_SHOT = "adapted", "zero_shot"

Observer = Callable[[int, Hashable, Prediction, MaskGeometry, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with index, state, prediction (of one image), geometry, class map, label and confusion matrix."""


class State(NamedTuple):
    """
    With which prompts a model is scored.

    Args:
        adapter: name of one of its adapters; None for the model as it is.
        zero_shot: the base model's own spatial prompts, and the default prompts of the adapter's classes.
    """

    adapter: str | None = None
    zero_shot: bool = False

    def entered(self, model: nn.Module) -> contextlib.AbstractContextManager:
        """The context in which `model` has these prompts."""
        model = _unwrapped(model)
        if self == State() or not isinstance(model, PeftModel):
            return contextlib.nullcontext()
        return model.base_model.use_adapter(self.adapter, zero_shot=self.zero_shot)


AS_IT_IS = {ADAPTED: State()}
WITH_ZERO_SHOT = {ADAPTED: State(), ZERO_SHOT: State(zero_shot=True)}


class _Shared(NamedTuple):
    """What a state need not compute by itself: the first states with the same prompts, and with the same spatial ones;
    and whether several different states have these."""

    same: Hashable
    decoding: Hashable
    is_shared: bool


class Evaluator:
    """
    Scores a model on images that come one by one, in one or more states: as it is (`"adapted"`), as the base model
    without its adapter, with the default prompts of the adapter's classes (`"zero_shot"`), or with each of its
    adapters. All states are scored on the same features of an image. States with the same prompts are scored once;
    where semantic prompts do not take part in decoding, states with the same spatial prompts are decoded once. Each
    gets the scores, bit for bit, that it gets alone.

    Args:
        image_processor: of the base model, for sizes and thresholds.
        task: `"semantic"`, `"instance"` or `"panoptic"`: what is counted besides mean IoU.
        device: where counts are kept.
        autocast: makes the context in which the model runs.

    `states` are those to be scored, under the names by which `scores` has them; `exporters` write the predictions of
    some of them.
    """

    def __init__(
        self,
        image_processor: PromptableImageProcessor,
        task: str,
        device: torch.device | str = "cpu",
        autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ):
        self.image_processor, self.task, self.device, self.autocast = image_processor, task, device, autocast
        self.states: Mapping[Hashable, State] = AS_IT_IS
        self.exporters: dict[Hashable, PredictionExporter] = {}
        self.observers: list[Observer] = []
        self._shared: dict[Hashable, _Shared] = {}
        self._examples: dict[int, EvaluationExamples] = {}

    def examples(self, dataset: SegmentationDataset) -> EvaluationExamples:
        """The images as they are read; kept, as they know the digests of images that were read before."""
        if id(dataset) not in self._examples:
            self._examples[id(dataset)] = EvaluationExamples(dataset, self.image_processor, task=self.task)
        return self._examples[id(dataset)]

    def begin(self, dataset: SegmentationDataset, model: nn.Module) -> None:
        """Forget what was counted; from now on `model` is scored, with the prompts that it has now."""
        self.classes = dataset.classes
        policy = self.image_processor.inference_policy()
        self._confusions: torch.Tensor | int = 0
        self._shared = self._compare(model)
        self._tasks = {
            name: TaskEvaluation(self.task, self.classes, policy, self.exporters.get(name))
            for name, shared in self._shared.items()
            if shared.same == name
        }
        self.task_scores: dict[Hashable, dict[str, Any]] = {}

    @torch.no_grad()
    def _compare(self, model: nn.Module) -> dict[Hashable, _Shared]:
        if len(self.states) == 1:
            return {name: _Shared(name, name, False) for name in self.states}
        base, prompts = base_model(model), {}
        for name, state in self.states.items():
            with state.entered(model):
                prompts[name] = {key: base.get_submodule(slot.path).weight for key, slot in base.prompt_slots.items()}
        spatial = [name for name, slot in base.prompt_slots.items() if slot.kind == SPATIAL]

        def first_with(name: Hashable, slots) -> Hashable:
            return next(other for other in prompts if _all_equal(prompts[other], prompts[name], slots))

        # predictions that are written have to be those of their own state
        same = {name: name if name in self.exporters else first_with(name, base.prompt_slots) for name in prompts}
        decoding = {name: first_with(name, spatial) for name in prompts}
        count = Counter(decoding[name] for name in prompts if same[name] == name)
        return {name: _Shared(same[name], decoding[name], count[decoding[name]] > 1) for name in prompts}

    @property
    def num_decodings(self) -> int:
        """How often an image is decoded, where states with the same spatial prompts share that."""
        return len({shared.decoding for shared in self._shared.values()})

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
        size = self.image_processor.resized_size(tuple(label.shape))
        sizes = torch.tensor([size])
        waiting = Counter(shared.decoding for name, shared in self._shared.items() if shared.same == name)
        decoded: dict[Hashable, CachedFeatures | None] = {}
        results: dict[Hashable, tuple] = {}
        for name, state in self.states.items():
            shared = self._shared[name]
            if shared.same == name:
                with state.entered(model):
                    if shared.is_shared and shared.decoding not in decoded:
                        with self.autocast():
                            decoded[shared.decoding] = base.decoded_features(features, sizes)
                    inputs = base.decoder_inputs([decoded.get(shared.decoding) or features], self.device)
                    outputs = model(**inputs, image_sizes=sizes)
                waiting[shared.decoding] -= 1
                if not waiting[shared.decoding]:
                    decoded.pop(shared.decoding, None)
                prediction = base.predictions(outputs)[0]
                geometry = prediction.geometry(size, tuple(label.shape))
                predicted = class_map(prediction, 0, geometry)
                label = label.to(predicted.device)
                matrix = confusion_matrix(predicted, label, len(self.classes))
                reference = {"label": label, "instance": instance}
                self._tasks[name].add(index, prediction, predicted, reference, geometry)
                results[name] = prediction, geometry, predicted, label, matrix
            found = results[shared.same]
            for observe in self.observers:
                observe(index, name, *found)
            results[name] = found if self.observers else found[-1:]  # of large images, masks are large
        return torch.stack([results[name][-1] for name in self.states])

    def add_confusions(self, confusions: torch.Tensor) -> None:
        """Sums of what `add` returned, of all processes: `(states, K, K + 1)`."""
        self._confusions = self._confusions + confusions.cpu()

    def compute(self, gather: bool = False) -> None:
        """Scores of all images so far, for `scores`; with `gather` those of all processes."""
        own = {name: task.scores(gather) for name, task in self._tasks.items()}
        self.task_scores = {name: own[shared.same] for name, shared in self._shared.items()}

    def scores(self) -> dict[Hashable, dict[str, Any]]:
        """
        By state, from 0 to 1: what `scores_from_confusion` gives, by class name, and for other tasks than semantic
        what `TaskEvaluation.scores` gives.
        """
        return {
            name: scores_from_confusion(matrix, self.classes.names) | self.task_scores[name]
            for name, matrix in zip(self.states, self._confusions)
        }


def _all_equal(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None], slots) -> bool:
    """Whether two states have the same prompts, bit for bit, in `slots`."""
    pairs = [(one[slot], other[slot]) for slot in slots]
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _unwrapped(model: nn.Module) -> nn.Module:
    """Without what distributes a model over processes."""
    return getattr(model, "module", model)


def base_model(model: nn.Module) -> PromptableModel:
    """The base model inside an adapted one."""
    model = _unwrapped(model)
    return model.get_base_model() if isinstance(model, PeftModel) else model


def check_classes(model: PromptableModel, dataset: SegmentationDataset) -> None:
    """
    Raises:
        SSPromptError: the data set's classes are not those of the base model in number or order.
    """
    known, names = model.num_classes(), model.config.class_names
    # Other words for the same classes are the user's choice; the same words in another order are a mistake.
    positions = {name.casefold(): index for index, name in enumerate(names or [])}
    for index, name in enumerate(dataset.classes.names):
        if positions.get(name.casefold(), index) != index:
            raise SSPromptError(
                f"class {index} of {dataset.name} is {name!r}, which is class {positions[name.casefold()]} of the "
                "model: call set_class_names(dataset.classes.names, tokenizer) before the adapter is made"
            )
    if known != len(dataset.classes):
        raise SSPromptError(
            f"{dataset.name} has {len(dataset.classes)} classes, the model {known}: call "
            "set_class_names(dataset.classes.names, tokenizer) before the adapter is made"
        )
