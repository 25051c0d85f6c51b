"""Training arguments: those of transformers, with defaults for prompts, and a few of our own."""

import atexit
import gc
import json
import math
import sys
from dataclasses import dataclass, field

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.training_args import OptimizerNames
from transformers.utils import is_in_notebook

from ..errors import SSPromptError
from ..models.transformers_compat import get_reporting_integration_callbacks
from ..utils.tasks import TASKS
from .feature_cache import STORAGES
from .features import DTYPES
from .losses import RESOLUTIONS, SEMANTIC_LOSSES

BEST_METRICS = {"semantic": "mean_iou", "instance": "coco_ap", "panoptic": "pq"}
MAX_STEPS = 200
"""Steps of a training that is told neither steps nor epochs."""


def leave_gloo() -> None:
    """
    Take leave of the other processes before the interpreter ends, if they talk through gloo.

    Gloo's threads drop the tensors of a collective a little after the main thread has its result, and need Python's
    lock for it. One that waits for the lock when the interpreter begins to end is ended by Python up to 3.13, in a
    place where C++ allows no such thing: "terminate called without an active exception", and all the work done before
    counts as failed. Leaving waits for these threads while they still can get the lock.
    """
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "gloo":
        # The threads end with the last reference to the group. A trainer is full of cycles and has some; these must go
        # first, as only the group's own handle waits for the threads without holding the lock that they may need.
        gc.collect()
        distributed.destroy_process_group()


@dataclass
class SSPromptTrainingArguments(TrainingArguments):
    """
    `transformers.TrainingArguments` with other defaults, and the settings of `SSPromptTrainer`.

    The paper trains with SGD, weight decay and polynomial decay of the learning rate, but its numbers are not known to
    us; the numbers here are our own.

    Args:
        max_steps: 200 by default, unless `num_train_epochs` is given. Given together, `max_steps` counts.
        num_train_epochs: rounds through the training images, rounded up to full batches; in place of `max_steps`.
        lr_scheduler_kwargs: by default `{"power": 0.9, "lr_end": 0.0}` for the polynomial schedule, none for others.
        learning_rate: in units of the size of what is learned (the root mean square of the default prompts, or of the
            vocabulary), so that one number suits all kinds of prompts and base models. By default the
            `default_learning_rate` of the adapter's configuration, or transformers' own for one of another library.
        eval_strategy: `"steps"` or `"epoch"` to evaluate during training, too; `"no"` not to evaluate at all, see
            `evaluates`. By default only the finished adapter is evaluated.
        early_stopping_patience: stop when the score has not improved at so many evaluations in a row, and keep the
            best adapter. Evaluates at every `save_steps` unless `eval_strategy` says when.
        task: `"semantic"`, `"instance"` or `"panoptic"`.
        semantic_loss: form of the loss of semantic training, see `SemanticLoss`. `"cross_entropy"` is the paper's.
        loss_resolution: `"mask"` or `"label"`, see `SemanticLoss`.
        auxiliary_loss: also train the predictions before each decoder layer; the loss is then the mean over them.
        random_flip: mirror half of the training images.
        shrinkage: how far the learned prompts go back towards those that training began with. They keep so much of
            the way that the mean loss of the training images rises by at most this share divided by the square root
            of the number of images (by a tenth with 16 images, if it is 0.4), and at least 40 % of what was gained; at
            most 64 images are looked at. 0 keeps all of it. By default the `default_shrinkage` of the adapter's
            configuration. Evaluations and checkpoints during training have not gone back, and with
            `load_best_model_at_end` nothing does.
        prototypes: let class prompts begin at a share of the way to the mean class embeddings of their classes' pixels
            in the training images, the share with the least loss there (`training/prototypes.py`); SSPrompt and
            SemPrompt on SEEM. By default not; `ssprompt-hf train` does where it can, but with `--recipe paper`.
        feature_cache: where the results of the frozen part are kept: `"memory"`, `"device"`, `"disk"`, `"none"`, or
            `"auto"`: in memory up to the limit, and then in files, which are removed after training, as long as 8 GiB
            of the disk stay free.
        feature_cache_dir: folder for files; by default `feature_cache` in `output_dir`. With several processes,
            files are used for `"auto"` and `"memory"` alone, so that no process repeats what another has computed.
        feature_cache_gb: limit in GiB; with `"auto"`, of what is in memory.
        feature_cache_dtype: `"float32"`, or `"float16"`, which takes half the memory and rounds the features, cached
            or not.
        keep_projections: also keep the keys and values of the decoder's layers: steps are faster, features about twice
            as large. By default they are kept if those of all training images fit into the limit. Without effect on
            base models whose decoder has none that could be kept.
        negative_classes: for base models that are asked about one class at a time (SAM 3): how many classes that are
            not in it a training image is asked about, besides its own.

    `evaluates` tells whether an adapter is evaluated at all, at least when it is finished.

    Raises:
        SSPromptError: a value that is none of its choices or out of its range, that `transformers` or this machine
            does not take, or nothing to train for.
    """

    output_dir: str | None = field(default="out", metadata={"help": "folder to write to"})
    # these and lr_scheduler_kwargs are None only until `__post_init__` knows which of them were given
    max_steps: int | None = field(
        default=None,
        metadata={"help": f"number of training steps (default: {MAX_STEPS}, or as --num_train_epochs says if given)"},
    )
    num_train_epochs: float | None = None
    per_device_train_batch_size: int = 4
    per_device_eval_batch_size: int = 1
    optim: str = "adamw_torch"
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "initial learning rate, relative to the size of the prompts (default: that of the method)"},
    )
    weight_decay: float = 1e-4
    max_grad_norm: float = 0.0
    lr_scheduler_type: str = "polynomial"
    lr_scheduler_kwargs: dict | str | None = None
    logging_steps: float = 20
    eval_strategy: str | None = field(
        default=None,
        metadata={"help": "steps, epoch, or no: not at all (default: after training)"},
    )
    save_strategy: str = "steps"
    save_steps: float = 50
    save_total_limit: int | None = 2
    batch_eval_metrics: bool = True
    remove_unused_columns: bool = False
    dataloader_pin_memory: bool = False
    # frozen buffers are the same everywhere, and every prompt that can be learned takes part in every step
    ddp_broadcast_buffers: bool | None = False
    ddp_find_unused_parameters: bool | None = False

    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "stop after so many evaluations without a better score"},
    )
    task: str = field(default="semantic", metadata={"help": "semantic, instance or panoptic"})
    semantic_loss: str = field(default="mixed", metadata={"help": f"one of {', '.join(SEMANTIC_LOSSES)}"})
    loss_resolution: str = field(default="mask", metadata={"help": "resolution of the semantic loss: mask or label"})
    auxiliary_loss: bool = field(default=False, metadata={"help": "also train the predictions before each layer"})
    random_flip: bool = field(default=True, metadata={"help": "mirror half of the training images"})
    shrinkage: float | None = field(
        default=None,
        metadata={
            "help": "after training, go back towards the first prompts until the loss has risen by this share over "
            "the root of the number of images (0: stay; default: 0.4 for SSPrompt and its halves, else 0)"
        },
    )
    prototypes: bool | None = field(
        default=None,
        metadata={"help": "let class prompts begin near what pixels of their class look like (default: see --recipe)"},
    )
    feature_cache: str = field(
        default="auto", metadata={"help": f"one of {', '.join(STORAGES)}; auto is memory, and then files"}
    )
    feature_cache_dir: str | None = field(default=None, metadata={"help": "folder for what is cached in files"})
    feature_cache_gb: float = field(default=4.0, metadata={"help": "limit of the feature cache in GiB"})
    feature_cache_dtype: str = field(
        default="float32", metadata={"help": "precision of cached features: float32, or float16 for half the memory"}
    )
    negative_classes: int = field(
        default=4,
        metadata={
            "help": "absent classes that an image is asked about, where each class is decoded by itself (SAM 3)"
        },
    )
    keep_projections: bool | None = field(
        default=None, metadata={"help": "also cache the decoder's keys and values (default: if all of them fit)"}
    )

    def __post_init__(self):
        # the process group is made for these arguments; once, however many of them there are
        atexit.unregister(leave_gloo)
        atexit.register(leave_gloo)
        if self.max_steps is None:
            self.max_steps = MAX_STEPS if self.num_train_epochs is None else -1
        if self.num_train_epochs is None:
            self.num_train_epochs = TrainingArguments.num_train_epochs
        self.evaluates = getattr(self.eval_strategy, "value", self.eval_strategy) != "no"
        if self.early_stopping_patience is not None:
            self._watch_scores()
        if self.eval_strategy is None:
            self.eval_strategy = "no"
        if self.disable_tqdm is None:  # bars that are redrawn would fill a log
            self.disable_tqdm = not (sys.stderr.isatty() or is_in_notebook())
        watches = self.load_best_model_at_end or self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU
        if watches and self.metric_for_best_model is None:
            self.metric_for_best_model = BEST_METRICS.get(self.task)  # transformers' is the loss
        if self.lr_scheduler_kwargs is None and self.lr_scheduler_type == SchedulerType.POLYNOMIAL:
            self.lr_scheduler_kwargs = {"power": 0.9, "lr_end": 0.0}
        self._check_choices()
        try:
            super().__post_init__()
            get_reporting_integration_callbacks(self.report_to)  # the trainer would ask when the model is loaded
        except json.JSONDecodeError as error:
            raise SSPromptError(f"a training argument is {error.doc!r}, which is no JSON ({error})") from None
        except ValueError as error:
            raise SSPromptError(f"these training arguments cannot be used: {error}") from error
        if self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
            mode = {"mode": "max" if self.greater_is_better else "min"}  # which transformers leaves to the user
            self.lr_scheduler_kwargs = mode | (self.lr_scheduler_kwargs or {})
        self._check_ranges()
        if watches and self.metric_for_best_model.removeprefix("eval_") == "loss":
            raise SSPromptError("evaluation computes scores and no loss: metric_for_best_model may be mean_iou or pq")
        for name, instead in (("bf16_full_eval", "bf16"), ("fp16_full_eval", "fp16")):
            if getattr(self, name):
                raise SSPromptError(f"{name} would round the prompts themselves: use {instead}, which is for both")
        if self.label_smoothing_factor:
            raise SSPromptError(
                f"label_smoothing_factor is {self.label_smoothing_factor}, which none of our losses has: leave it out"
            )
        if self.auto_find_batch_size:
            raise SSPromptError("auto_find_batch_size would train from other batches than it says: leave it out")
        if not self.batch_eval_metrics or self.remove_unused_columns:
            raise SSPromptError("SSPromptTrainer needs batch_eval_metrics=True and remove_unused_columns=False")

    def _watch_scores(self):
        """What transformers asks of a training that stops early."""
        if self.early_stopping_patience < 1:
            raise SSPromptError(f"early_stopping_patience is {self.early_stopping_patience}; it must be at least 1")
        if not self.evaluates:
            raise SSPromptError("early_stopping_patience needs scores, but eval_strategy is no: leave out one of them")
        if self.eval_strategy is None:
            self.eval_strategy = self.save_strategy
            self.eval_steps = self.eval_steps or self.save_steps
        self.load_best_model_at_end = True

    def _check_choices(self):
        for name, choices in (
            ("optim", OptimizerNames),
            ("lr_scheduler_type", SchedulerType),
            ("save_strategy", SaveStrategy),
            ("task", TASKS),
            ("semantic_loss", SEMANTIC_LOSSES),
            ("loss_resolution", RESOLUTIONS),
            ("feature_cache", STORAGES),
            ("feature_cache_dtype", DTYPES),
        ):
            names = [getattr(choice, "value", choice) for choice in choices]
            if getattr(self, name) not in names:
                raise SSPromptError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(names)}")

    def _check_ranges(self):
        for name, least in (
            ("per_device_train_batch_size", 1),
            ("per_device_eval_batch_size", 1),
            ("gradient_accumulation_steps", 1),
            ("dataloader_num_workers", 0),
            ("seed", 0),
            ("negative_classes", 0),
        ):
            if getattr(self, name) < least:
                raise SSPromptError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.max_steps == 0:
            raise SSPromptError(f"max_steps is 0; it must be positive, or left out for {MAX_STEPS}")
        if self.max_steps < 0 and self.num_train_epochs <= 0:
            raise SSPromptError(f"num_train_epochs is {self.num_train_epochs}; it must be positive")
        for name in ("learning_rate", "feature_cache_gb"):
            value = getattr(self, name)
            if value is not None and not 0 < float(value) < math.inf:
                raise SSPromptError(f"{name} is {value}; it must be positive")
        if self.shrinkage is not None:
            self.shrinkage = float(self.shrinkage)
        for name in ("shrinkage", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= float(value) < math.inf:
                raise SSPromptError(f"{name} is {value}; it must be 0 or more")


def open_arguments(args: SSPromptTrainingArguments, defaults: dict) -> dict:
    """
    What `args` leaves to the method.

    Args:
        defaults: `training_defaults` of the adapter's configuration.

    Returns:
        those of them that `args` does not give.
    """
    return {name: value for name, value in defaults.items() if getattr(args, name) is None}
