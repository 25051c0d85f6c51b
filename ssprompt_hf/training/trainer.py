"""`transformers.Trainer` for prompts: nothing but the prompts is trained, saved or computed more than once."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from peft import PeftModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer
from transformers.trainer_utils import EvalPrediction
from transformers.utils import logging

from ..data.dataset import SegmentationDataset
from ..data.few_shot import label_statistics
from ..errors import SSPromptError
from ..models.interface import CachedFeatures, PromptableImageProcessor, PromptableModel
from ..segmentation.predictions import Prediction
from ..tuners.base import PromptConfig
from ..tuners.base.model import adapted_kinds
from .arguments import SSPromptTrainingArguments
from .callbacks import add_callbacks
from .checkpoints import check_settings, checked_checkpoint, decisive_settings, whole_checkpoint, write_settings
from .class_masks import start_class_masks
from .defaults import active_config, learning_rate_scales, training_record, with_method_defaults
from .evaluator import AS_IT_IS, WITH_ZERO_SHOT, Evaluator, State, base_model, check_classes
from .examples import (
    EvaluationExamples,
    PromptDataLoader,
    SegmentationExamples,
    TrainingBatchSampler,
    collate_examples,
    preprocessing_text,
)
from .feature_cache import FeatureCache
from .features import ImageFeatures, choose_stage
from .losses import MatchingLoss, SemanticLoss
from .shrinkage import Shrinkage, TrainingPath

logger = logging.get_logger(__name__)


class SSPromptTrainer(Trainer):
    """
    Trains the prompts of an adapted model.

    The frozen part runs once per image and once per mirror image; what it computed is kept in the feature cache. Two
    processes give the result of one, up to rounding, and a run that was killed and resumed the result of one that was
    not, bit for bit: the order of images and their mirroring depend on the seed alone, and the loss of a batch is the
    mean over its images.

    Args:
        model: a `PeftModel` (`SSPromptModel`, or from `get_peft_model`) around a `PromptableModel` with class names.
        args: settings.
        image_processor: the base model's.
        train_dataset: images to learn from, already chosen.
        eval_dataset: images for `evaluate`, or several such by name.
        feature_cache: one that outlives this trainer, for further trainers over the same images; then the features of
            `eval_dataset` are kept, too. By default the cache is made by `args` and goes with the trainer.
        kwargs: those of `transformers.Trainer`.

    `evaluator` counts what `evaluate` scores; it may be given exporters of predictions, and observers. After training,
    `kept_share` tells how much of the way from the first to the last prompts was kept (see
    `SSPromptTrainingArguments.shrinkage`).

    Raises:
        SSPromptError: the data sets' classes are not those of the model in number or order, or nothing in the model
            can be trained.
    """

    def __init__(
        self,
        model: nn.Module,
        args: SSPromptTrainingArguments,
        image_processor: PromptableImageProcessor,
        train_dataset: SegmentationDataset | None = None,
        eval_dataset: SegmentationDataset | dict[str, SegmentationDataset] | None = None,
        feature_cache: FeatureCache | None = None,
        **kwargs: Any,
    ):
        args = with_method_defaults(args, model)
        if args.n_gpu > 1:
            # DataParallel would split the features of a batch at every step; several GPUs are for several processes
            args._n_gpu = 1
        self.image_processor = image_processor
        self.evaluator = Evaluator(image_processor, args.task)
        self.kept_share = 1.0
        self._shrinkage: Shrinkage | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=collate_examples,
            compute_metrics=self._add_confusions,
            **kwargs,
        )
        self.evaluator.device, self.evaluator.autocast = self.args.device, self.accelerator.autocast
        add_callbacks(self)
        # our loss is a mean over images
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        several = isinstance(eval_dataset, dict)
        for dataset in (train_dataset, *(eval_dataset.values() if several else [eval_dataset])):
            if dataset is not None:
                check_classes(self.base_model, dataset)
        self.train_examples = self.matching_loss = self.semantic_loss = None
        if train_dataset is not None:
            self._init_training(train_dataset)
        self.feature_cache = self._make_cache() if feature_cache is None else feature_cache
        self._shares_cache = feature_cache is not None
        self._features: ImageFeatures | None = None
        # the best of several evaluations has been chosen by other images, which know better
        if train_dataset is not None and self.args.shrinkage > 0 and not self.args.load_best_model_at_end:
            self._shrinkage = Shrinkage(self)
            self.callback_handler.callbacks.insert(0, self._shrinkage)

    @property
    def base_model(self) -> PromptableModel:
        """The base model inside."""
        return base_model(self.model)

    def _init_training(self, dataset: SegmentationDataset):
        args = self.args
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise SSPromptError("nothing in the model can be trained: add an adapter (get_peft_model) first")
        self.train_examples = SegmentationExamples(
            dataset,
            self.image_processor,
            task=args.task,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            random_flip=args.random_flip,
            load_pixels=args.feature_cache == "none",
            negative_classes=args.negative_classes if self.base_model.decodes_by_class else None,
        )
        if args.task != "semantic":
            self.matching_loss = MatchingLoss(len(dataset.classes)).to(args.device)
            return
        frequencies = None
        if args.semantic_loss in ("balanced", "mixed"):
            frequencies = torch.from_numpy(label_statistics(dataset).pixel_counts.sum(0))
        self.semantic_loss = SemanticLoss(args.semantic_loss, frequencies, args.loss_resolution).to(args.device)

    def _make_cache(self) -> FeatureCache:
        args = self.args
        storage = args.feature_cache
        if storage in ("auto", "memory") and args.world_size > 1:
            storage = "disk"
        directory = args.feature_cache_dir or os.path.join(args.output_dir, "feature_cache")
        return FeatureCache(storage, directory, int(args.feature_cache_gb * 2**30))

    def _load_best_model(self):
        """As in `transformers`, which looks for the active adapter where PEFT writes the one called "default"."""
        active = self.model.active_adapters[0] if isinstance(self.model, PeftModel) else "default"
        if active == "default":
            super()._load_best_model()
        else:
            self.model.load_adapter(os.path.join(self.state.best_model_checkpoint, active), active)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Batches of this process; not prepared by accelerate, which would divide them once more."""
        args = self.args
        sampler = self.training_sampler()
        self._fill_cache(sampler)
        return PromptDataLoader(
            self.train_examples,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def training_sampler(self) -> TrainingBatchSampler:
        """The order in which this process sees the training images."""
        return TrainingBatchSampler.of_process(self.train_examples, self.args)

    def _fill_cache(self, sampler: TrainingBatchSampler):
        """With several processes: each computes its share of all features before any of them is needed."""
        if self.args.world_size == 1 or self.feature_cache.storage != "disk":
            return
        positions = self.args.max_steps * sampler.step_size
        if self.args.max_steps <= 0:
            positions = int(self.args.num_train_epochs * sampler.steps_per_epoch * sampler.step_size)
        needed = dict.fromkeys(
            (index, self.train_examples.is_flipped(round_, index))
            for round_, index in map(sampler.at, range(positions))
        )
        for number, (index, flipped) in enumerate(needed):
            if number % self.args.world_size == self.args.process_index:
                self.features.get(self.train_examples, index, flipped)
        self.accelerator.wait_for_everyone()

    # Features

    @property
    def features(self) -> ImageFeatures:
        """What the frozen part says of images."""
        if self._features is None:
            self.base_model.to(self.args.device)
            self._features = ImageFeatures(
                self.base_model,
                self.feature_cache,
                preprocessing_text(self.image_processor),
                self._stage(),
                self.args.feature_cache_dtype,
                self.accelerator.autocast,
            )
        return self._features

    def _stage(self) -> str:
        """What is cached; see [`choose_stage`]."""
        examples, model = self.train_examples, self.base_model
        stages = model.feature_stages(adapted_kinds(model))
        if self.args.keep_projections is not None:
            return stages[-1] if self.args.keep_projections else stages[0]
        if examples is None:
            # keys and values of the decoder are the same for many adapters
            return stages[-1 if self.evaluator.num_decodings > 2 and not self._stores_evaluation else 0]
        views = len(examples) * (2 if self.args.random_flip else 1)
        limit = self.feature_cache.max_bytes * (2 if self.args.feature_cache_dtype == "float16" else 1)
        return choose_stage(model, stages, examples.padded_size(0), limit / views)

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        As in `transformers`. At the end, before callbacks for it are called, the prompts go back towards those of the
        beginning as far as `args.shrinkage` says; what was evaluated and saved before has not gone back. Then the
        files that stood in for the memory of several processes are removed.
        """
        self.kept_share = 1.0
        resume_from_checkpoint = checked_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if self._shrinkage is not None:
            self._shrinkage.begin(resumed=bool(resume_from_checkpoint))
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.args.feature_cache != "disk" and not self._shares_cache:
            self.accelerator.wait_for_everyone()
            self.feature_cache.remove(whole_directory=self.args.feature_cache_dir is None)
        if not all(p.isfinite().all() for p in self.model.parameters() if p.requires_grad):
            raise SSPromptError(
                f"training diverged: after {self.state.global_step} steps at a learning_rate of "
                f"{self.args.learning_rate:g} the prompts are not finite. Try a smaller rate, or max_grad_norm=1"
            )
        config = active_config(self.model)
        if isinstance(config, PromptConfig):
            loss = "matching" if self.semantic_loss is None else self.args.semantic_loss
            config.training = training_record(self.args, self.state.global_step, loss)
            if self._shrinkage is not None:
                config.training["kept_share"] = round(self.kept_share, 4)
        return output

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in `transformers`."""
        model = super().call_model_init(*args, **kwargs)
        if self._shrinkage is not None:
            self._shrinkage.path = TrainingPath(model)
        return model

    def _save_checkpoint(self, model: nn.Module, trial: Any):
        with whole_checkpoint(self, self._get_output_dir(trial=trial)):
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            write_settings(output_dir, decisive_settings(self))
            if self._shrinkage is not None:
                self._shrinkage.path.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        if checkpoint is not None:
            check_settings(checkpoint, decisive_settings(self))
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._shrinkage is not None and checkpoint is not None:
            self._shrinkage.path.load(checkpoint)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `transformers`; rates are in units of the size of what is learned (`learning_rate_scale`)."""
        start_class_masks(self)  # whose size is the unit of their rate
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            scales = learning_rate_scales(self.model)
            optimizer.param_groups[:] = [
                {**group, "params": [parameter], "lr": group["lr"] * scales.get(parameter, 1.0)}
                for group in optimizer.param_groups
                for parameter in group["params"]
            ]
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The mean of the images' losses."""
        return self.batch_losses(model, inputs, self.batch_features(inputs)).mean()

    def batch_features(self, inputs: dict[str, Any]) -> list[CachedFeatures]:
        """What the frozen part says of the images of a batch."""
        pixel_values = inputs.get("pixel_values") or [None] * len(inputs["index"])
        return [
            self.features.get(self.train_examples, index, flipped, pixels)
            for index, flipped, pixels in zip(inputs["index"].tolist(), inputs["flipped"], pixel_values)
        ]

    def batch_losses(self, model: nn.Module, inputs: dict[str, Any], features: list[CachedFeatures]) -> torch.Tensor:
        """`(B,)`, the loss of each image. Images of one size go through the decoder together."""
        groups: dict[tuple, list[int]] = {}
        for position, one in enumerate(features):
            groups.setdefault(tuple(one["padded_size"].tolist()), []).append(position)
        losses: list[torch.Tensor] = [None] * len(features)
        for positions in groups.values():
            options = {}
            if "class_indices" in inputs:
                options["class_indices"] = [inputs["class_indices"][position] for position in positions]
            outputs = model(
                **self.base_model.decoder_inputs([features[position] for position in positions], self.args.device),
                image_sizes=torch.tensor([inputs["image_size"][position] for position in positions]),
                output_auxiliary_predictions=self.args.auxiliary_loss,
                **options,
            )
            predictions = self.base_model.predictions(outputs)
            group = sum(self._image_losses(prediction, inputs, positions) for prediction in predictions)
            for position, loss in zip(positions, group / len(predictions)):
                losses[position] = loss
        return torch.stack(losses)

    def _image_losses(self, prediction: Prediction, inputs: dict[str, Any], positions: list[int]) -> torch.Tensor:
        if self.semantic_loss is not None:
            return self.semantic_loss(prediction, torch.stack([inputs["label"][position] for position in positions]))
        class_labels, mask_labels, seeds = (
            [inputs[name][position] for position in positions] for name in ("class_labels", "mask_labels", "seed")
        )
        return self.matching_loss(prediction, class_labels, mask_labels, seeds)

    # Evaluation

    def get_eval_dataloader(self, eval_dataset: SegmentationDataset | str | None = None) -> DataLoader:
        """Batches of `eval_dataset`, or of the one given at the beginning (under a name, if there are several),
        divided among the processes."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self.eval_dataset[dataset]
        if dataset is None:
            raise SSPromptError("evaluation needs an eval_dataset")
        check_classes(self.base_model, dataset)
        self._eval_examples: EvaluationExamples = self.evaluator.examples(dataset)
        # the loader's workers read what is not looked up in the cache, or has never been read
        is_looked_up = self.feature_cache.storage != "none" and self._stores_evaluation
        self._eval_examples.load_pixels = not (is_looked_up and self._eval_examples.knows_digests)
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
        gone = self.feature_cache.storage == "disk" != self.args.feature_cache and not self.is_in_train
        return self._shares_cache or (self.args.eval_strategy != "no" and not gone)

    def evaluate_by_class(
        self,
        eval_dataset: SegmentationDataset | None = None,
        with_zero_shot: bool = False,
        adapters: Sequence[str] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """
        Scores in one pass over the images, for which the frozen part runs once.

        Args:
            eval_dataset: by default that of the trainer.
            with_zero_shot: also score the base model as it came, with the default prompts of each adapter's classes.
            adapters: names of adapters in the model that are scored in place of the active one, in the same pass.

        Returns:
            `{"adapted": scores}`, and perhaps `"zero_shot"`; see [`Evaluator.scores`]. With `adapters` such a dict
            for each of them, by name.
        """
        states = WITH_ZERO_SHOT if with_zero_shot else AS_IT_IS
        self.evaluator.states = states
        if adapters is not None:
            self.evaluator.states = {
                (name, key): State(name, state.zero_shot) for name in adapters for key, state in states.items()
            }
        try:
            self.evaluate(eval_dataset)
            scores = self.evaluator.scores()
        finally:
            self.evaluator.states = AS_IT_IS
        if adapters is None:
            return scores
        return {name: {key: scores[name, key] for key in states} for name in adapters}

    def predict(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Raises `SSPromptError`: label maps of many images are too large to be gathered."""
        raise SSPromptError("use SSPromptModel.predict for label maps, and evaluate for scores")

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers`, with empty counts to begin with."""
        self.evaluator.begin(self._eval_examples.dataset, self.model)
        return super().evaluation_loop(*args, **kwargs)

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """One stack of confusion matrices an image, `(B, states, K, K + 1)`; they are all that is gathered."""
        count = len(inputs["index"])
        confusions = []
        for index, label, instance, pixel_values, digest in zip(
            inputs["index"].tolist(),
            inputs["label"],
            inputs.get("instance") or [None] * count,
            inputs.get("pixel_values") or [None] * count,
            inputs.get("image_digest") or [None] * count,
        ):
            if digest is not None:
                self._eval_examples.take_digest(index, digest)
            keep = {"store": self._stores_evaluation, "spill": False}
            features = self.features.get(self._eval_examples, index, False, pixel_values, **keep)
            confusions.append(self.evaluator.add(model, features, index, label, instance))
        return None, torch.stack(confusions), inputs["index"].to(self.args.device)

    def _add_confusions(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        self.evaluator.add_confusions(torch.as_tensor(prediction.predictions).sum(0))
        if not compute_result:
            return {}
        self.evaluator.compute(gather=self.args.world_size > 1)
        scores = next(iter(self.evaluator.scores().values()))
        metrics = {name: value for name, value in scores.items() if not isinstance(value, dict)}
        return metrics | {f"iou_{name}": value for name, value in scores["per_class_iou"].items()}

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the estimate of transformers is for language models."""
        return 0
