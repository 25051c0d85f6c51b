"""`transformers.Trainer` for prompts: nothing but the prompts is trained, saved or computed more than once."""

import copy
import math
import os
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainingArguments
from transformers.utils import logging

from ..data.dataset import SegmentationDataset
from ..data.few_shot import label_statistics
from ..errors import SSPromptError
from ..tuners.base.config import PromptConfig
from ..tuners.base.layer import PromptLayer
from .arguments import SSPromptTrainingArguments, open_arguments
from .checkpoints import check_settings, decisive_settings, write_settings
from .examples import SegmentationExamples, TrainingBatchSampler
from .feature_cache import Entry, FeatureCache, FeatureSource, model_inputs
from .losses import MatchingLoss, SemanticLoss
from .scoring import ScoringTrainer
from .shrinkage import INTERVALS, Shrinkage, TrainingPath

logger = logging.get_logger(__name__)

# Of adapters that are none of ours.
OTHER_DEFAULTS = {"learning_rate": TrainingArguments.learning_rate, "shrinkage": 0.0}


class PromptDataLoader(DataLoader):
    """A loader whose batch sampler is told the epoch, as the trainer tells its loaders."""

    def set_epoch(self, epoch: int):
        """Called by the trainer before each epoch."""
        self.batch_sampler.set_epoch(epoch)


class SSPromptTrainer(ScoringTrainer):
    """
    Trains the prompts of an adapted model.

    The frozen part runs once per image and once per mirror image; what it computed is kept in the feature cache. Two
    processes give the result of one, up to rounding, and a run that was killed and resumed the result of one that was
    not, bit for bit: the order of images and their mirroring depend on the seed alone, and the loss of a batch is the
    mean over its images.

    Args:
        model: a `PeftModel` (`SSPromptModel`, or from `get_peft_model`) around a `SeemForUniversalSegmentation` with
            class names.
        args: settings.
        image_processor: the base model's `SeemImageProcessor`.
        train_dataset: images to learn from, already chosen.
        eval_dataset: images for `evaluate`, or several such by name.
        feature_cache: one that outlives this trainer, for further trainers over the same images; then the features of
            `eval_dataset` are kept, too. By default the cache is made by `args` and goes with the trainer.
        kwargs: those of `transformers.Trainer`.

    `exporter` may be set to a `PredictionExporter` before `evaluate`. After training, `kept_share` tells how much of
    the way from the first to the last prompts was kept (see `SSPromptTrainingArguments.shrinkage`).

    Raises:
        SSPromptError: the data sets' classes are not those of the model in number or order, or nothing in the model
            can be trained.
    """

    def __init__(
        self,
        model: nn.Module,
        args: SSPromptTrainingArguments,
        image_processor,
        train_dataset: SegmentationDataset | None = None,
        eval_dataset: SegmentationDataset | dict[str, SegmentationDataset] | None = None,
        feature_cache: FeatureCache | None = None,
        **kwargs: Any,
    ):
        args = _with_method_defaults(args, model)
        if args.n_gpu > 1:
            # DataParallel would split the features of a batch at every step; several GPUs are for several processes
            args._n_gpu = 1
        self.image_processor = image_processor
        self.kept_share = 1.0
        self._shrinkage: Shrinkage | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            **kwargs,
        )
        # our loss is a mean over images
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False
        several = isinstance(eval_dataset, dict)
        for dataset in (train_dataset, *(eval_dataset.values() if several else [eval_dataset])):
            if dataset is not None:
                self._check_classes(dataset)
        self.train_examples = self.matching_loss = self.semantic_loss = None
        if train_dataset is not None:
            self._init_training(train_dataset)
        self.feature_cache = self._make_cache() if feature_cache is None else feature_cache
        self._shares_cache = feature_cache is not None
        self._feature_source: FeatureSource | None = None
        # the best of several evaluations has been chosen by other images, which know better
        if train_dataset is not None and self.args.shrinkage > 0 and not self.args.load_best_model_at_end:
            self._shrinkage = Shrinkage(self)
            self.callback_handler.callbacks.insert(0, self._shrinkage)

    @property
    def base_model(self) -> nn.Module:
        """The `SeemForUniversalSegmentation` inside."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    def _check_classes(self, dataset: SegmentationDataset):
        classes, names = self.base_model.class_embeddings(), self.base_model.config.class_names
        known = 0 if classes is None else len(classes) - 1
        # Other words for the same classes are the user's choice; the same words in other places are a mistake.
        places = {name.casefold(): place for place, name in enumerate(names or [])}
        for place, name in enumerate(dataset.classes.names):
            if places.get(name.casefold(), place) != place:
                raise SSPromptError(
                    f"class {place} of {dataset.name} is {name!r}, which is class {places[name.casefold()]} of the "
                    "model: call set_class_names(dataset.classes.names, tokenizer) before the adapter is made"
                )
        if known != len(dataset.classes):
            raise SSPromptError(
                f"{dataset.name} has {len(dataset.classes)} classes, the model {known}: call "
                "set_class_names(dataset.classes.names, tokenizer) before the adapter is made"
            )

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
        if storage == "memory" and args.world_size > 1:
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
        sampler = self._sampler()
        self._fill_cache(sampler)
        return PromptDataLoader(
            self.train_examples,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
        )

    def _sampler(self) -> TrainingBatchSampler:
        args = self.args
        return TrainingBatchSampler(
            len(self.train_examples),
            args.train_batch_size,
            args.gradient_accumulation_steps,
            args.world_size,
            args.process_index,
            self.train_examples.seed,
        )

    def _fill_cache(self, sampler: TrainingBatchSampler):
        """With several processes: each computes its share of all entries before any of them is needed."""
        if self.args.world_size == 1 or self.feature_cache.storage != "disk":
            return
        positions = self.args.max_steps * sampler.step_size
        if self.args.max_steps <= 0:
            positions = int(self.args.num_train_epochs * sampler.steps_per_epoch * sampler.step_size)
        needed = dict.fromkeys(
            (index, self.train_examples.is_flipped(round_, index))
            for round_, index in map(sampler.place, range(positions))
        )
        for place, (index, flipped) in enumerate(needed):
            if place % self.args.world_size == self.args.process_index:
                self._entry(self.train_examples, index, flipped)
        self.accelerator.wait_for_everyone()

    # Features

    def _entry(
        self,
        examples: SegmentationExamples,
        index: int,
        flipped: bool = False,
        pixel_values: torch.Tensor | None = None,
        store: bool = True,
    ) -> Entry:
        """What the frozen part says of one image."""
        # pixel values at hand that are not to be kept need no name in the cache
        unnamed = self.feature_cache.storage == "none" or (pixel_values is not None and not store)
        with self.accelerator.autocast():
            if self._feature_source is None:
                self.base_model.to(self.args.device)
                self._feature_source = FeatureSource(
                    self.base_model, self.feature_cache, examples.preprocessing, self._keeps_projections()
                )
            return self._feature_source(
                "" if unnamed else examples.image_digest(index),
                flipped,
                (lambda: examples.pixel_values(index, flipped)) if pixel_values is None else (lambda: pixel_values),
                store,
            )

    def _keeps_projections(self) -> bool:
        """Whether keys and values of all training images fit into the cache, or what the user wants.

        Told from sizes alone, and whatever the storage is, so that runs with and without cache compute the same bits.
        """
        if self.args.keep_projections is not None or self.train_examples is None:
            return bool(self.args.keep_projections)
        config, (height, width) = self.base_model.config, self.train_examples.padded_size(0)
        # the decoder looks at maps of strides 32, 16 and 8 (in this order), masks have stride 4
        positions = [height * width // stride**2 for stride in (32, 16, 8)]
        numbers = config.mask_feature_size * (height * width // 16 + sum(positions))
        numbers += config.feature_size * sum(positions)
        numbers += sum(2 * config.hidden_dim * positions[layer % 3] for layer in range(config.decoder_layers))
        views = len(self.train_examples) * (2 if self.args.random_flip else 1)
        return 4 * numbers * views <= self.feature_cache.max_bytes

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any):
        """
        As in `transformers`. At the end, before callbacks for it are called, the prompts go back towards those of the
        beginning as far as `args.shrinkage` says; what was evaluated and saved before has not gone back. Then the
        files that stood in for the memory of several processes are removed.
        """
        self.kept_share = 1.0
        if self._shrinkage is not None:
            self._shrinkage.begin(resumed=bool(resume_from_checkpoint))
        output = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.feature_cache.storage != self.args.feature_cache and not self._shares_cache:
            self.accelerator.wait_for_everyone()
            self.feature_cache.remove(whole_directory=self.args.feature_cache_dir is None)
        if not all(p.isfinite().all() for p in self.model.parameters() if p.requires_grad):
            raise SSPromptError(
                f"training diverged: after {self.state.global_step} steps at a learning_rate of "
                f"{self.args.learning_rate:g} the prompts are not finite. Try a smaller rate, or max_grad_norm=1"
            )
        config = _active_config(self.model)
        if isinstance(config, PromptConfig):
            config.training = self._training_record()
        return output

    def _training_record(self) -> dict[str, Any]:
        args = self.args
        record = {
            "steps": self.state.global_step,
            "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "learning_rate": args.learning_rate,
            "optimizer": str(getattr(args.optim, "value", args.optim)),
            "loss": "matching" if self.semantic_loss is None else args.semantic_loss,
        }
        return record if self._shrinkage is None else record | {"kept_share": round(self.kept_share, 4)}

    def call_model_init(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in `transformers`."""
        model = super().call_model_init(*args, **kwargs)
        if self._shrinkage is not None:
            self._shrinkage.path = TrainingPath(model)
        return model

    def _save_optimizer_and_scheduler(self, output_dir: str):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            write_settings(output_dir, decisive_settings(self.args, self.train_dataset.file_names))
            if self._shrinkage is not None:
                self._shrinkage.path.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None):
        if checkpoint is not None:
            check_settings(checkpoint, decisive_settings(self.args, self.train_dataset.file_names))
        super()._load_optimizer_and_scheduler(checkpoint)
        if self._shrinkage is not None and checkpoint is not None:
            self._shrinkage.path.load(checkpoint)

    def first_places(self, limit: int) -> tuple[list[tuple[int, int]], int]:
        """Round and index of the training images that were learned from, as each was seen first, or of `limit` of
        them; and how many were."""
        sampler = self._sampler()
        count = min(len(self.train_examples), self.state.global_step * sampler.step_size)
        return [sampler.place(place) for place in range(0, count, math.ceil(count / limit) or 1)], count

    def losses_along(self, path: TrainingPath, places: list[tuple[int, int]]) -> torch.Tensor:
        """float64 `(INTERVALS + 1,)`: the mean loss of images at equally spaced shares of the way. The frozen part
        runs once an image; afterwards the prompts are at the end of the way."""
        args = self.args
        mine = places[args.process_index :: args.world_size]
        sums = torch.zeros(INTERVALS + 1, dtype=torch.float64)
        path.set_share(1.0)  # also where a process has no image
        try:
            for first in range(0, len(mine), args.train_batch_size):
                examples = [self.train_examples[place] for place in mine[first : first + args.train_batch_size]]
                inputs = self._prepare_inputs(self.data_collator(examples))
                entries = self._batch_entries(inputs)
                for point in reversed(range(INTERVALS + 1)):
                    path.set_share(point / INTERVALS)
                    with torch.no_grad(), self.compute_loss_context_manager():
                        sums[point] += self._batch_losses(self.model, inputs, entries).sum().cpu()
        finally:
            path.set_share(1.0)
        if args.world_size > 1:
            sums = self.accelerator.reduce(sums.to(args.device, torch.float32), "sum").cpu()
        return sums / len(places)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `transformers`; learning rates are in units of the size of what is learned
        (`PromptLayer.learning_rate_scale`)."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            scales = _learning_rate_scales(self.model)
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
        return self._batch_losses(model, inputs, self._batch_entries(inputs)).mean()

    def _batch_entries(self, inputs: dict[str, Any]) -> list[Entry]:
        pixel_values = inputs.get("pixel_values") or [None] * len(inputs["index"])
        return [
            self._entry(self.train_examples, index, flipped, pixels)
            for index, flipped, pixels in zip(inputs["index"].tolist(), inputs["flipped"], pixel_values)
        ]

    def _batch_losses(self, model: nn.Module, inputs: dict[str, Any], entries: list[Entry]) -> torch.Tensor:
        """`(B,)`, the loss of each image. Images of one size go through the decoder together."""
        groups: dict[tuple, list[int]] = {}
        for place, entry in enumerate(entries):
            groups.setdefault(tuple(entry["padded_size"].tolist()), []).append(place)
        losses: list[torch.Tensor] = [None] * len(entries)
        for places in groups.values():
            outputs = model(
                **model_inputs([entries[place] for place in places], self.args.device),
                image_sizes=torch.tensor([inputs["image_size"][place] for place in places]),
                output_auxiliary_predictions=self.args.auxiliary_loss,
            )
            predictions = [outputs, *(outputs.auxiliary_predictions or ())]
            group = sum(self._image_losses(prediction, inputs, places) for prediction in predictions)
            for place, loss in zip(places, group / len(predictions)):
                losses[place] = loss
        return torch.stack(losses)

    def _image_losses(self, prediction: Any, inputs: dict[str, Any], places: list[int]) -> torch.Tensor:
        logits = prediction["class_queries_logits"], prediction["masks_queries_logits"]
        if self.semantic_loss is not None:
            return self.semantic_loss(*logits, torch.stack([inputs["label"][place] for place in places]))
        class_labels, mask_labels, seeds = (
            [inputs[name][place] for place in places] for name in ("class_labels", "mask_labels", "seed")
        )
        return self.matching_loss(*logits, class_labels, mask_labels, seeds)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the estimate of transformers is for language models."""
        return 0


def _active_config(model: nn.Module) -> PeftConfig | None:
    """Of the active adapter, if there is one."""
    if not hasattr(model, "peft_config"):
        return None
    active = model.active_adapters  # a property of PEFT's models, a method of transformers'
    names = active() if callable(active) else active
    return model.peft_config[names[0]] if names else None


def _with_method_defaults(args: SSPromptTrainingArguments, model: nn.Module) -> SSPromptTrainingArguments:
    """`args`, or a copy in which what is not given is as suits the method of the active adapter."""
    missing = open_arguments(args, getattr(_active_config(model), "training_defaults", OTHER_DEFAULTS))
    if missing:
        args = copy.copy(args)
        for name, value in missing.items():
            setattr(args, name, value)
    return args


def _learning_rate_scales(model: nn.Module) -> dict[nn.Parameter, float]:
    """Of all parameters that are learned and belong to a prompt."""
    scales = {}
    for layer in model.modules():
        if isinstance(layer, PromptLayer):
            for name in layer.adapter_layer_names:
                for adapter, parameter in getattr(layer, name).items():
                    if parameter.requires_grad:
                        scales[parameter] = layer.learning_rate_scale(adapter, name)
    return scales
