"""Whole runs, from names of models and data to adapters and pictures, for the command line and the examples."""

import copy
import dataclasses
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments, set_seed
from transformers.utils import logging

from ..adapters.files import read_adapter
from ..data.dataset import SegmentationDataset, check_disjoint
from ..data.few_shot import FewShotSelection
from ..errors import SSPromptError
from ..loading import base_model_info
from ..model import SSPromptModel
from ..models.registry import ADAPTER_WEIGHTS, DEFAULT_BASE_MODEL
from ..plotting.tables import iou_table
from ..tuners import PromptConfig
from ..tuners.ssprompt.point_grid import point_grid_tokens
from ..utils.files import write_json
from .arguments import SSPromptTrainingArguments
from .checkpoints import check_files, is_finished, last_complete_checkpoint, mark_finished
from .data_choice import choose_data
from .evaluation_runs import evaluate_adapter
from .feature_cache import FeatureCache
from .prototypes import can_start_from_prototypes
from .reports import METRICS, PICTURE, headlines, in_percent, write_picture
from .settings import DataArguments, PromptArguments
from .trainer import SSPromptTrainer

logger = logging.get_logger(__name__)

ADAPTER = "adapter"

NEW_NAMES_MIOU = 0.15
"""Zero-shot mean IoU below which the class names mean little to the base model."""
NEW_NAMES_HINT = (
    "zero-shot, these class names mean little to the base model; for such names --learning_rate 0.1 may be better "
    "than the default"
)


def train_adapter(
    data: DataArguments,
    prompts: PromptArguments,
    args: SSPromptTrainingArguments,
    start_anew: bool = False,
    callbacks: Iterable[TrainerCallback] = (),
    **facts: Any,
) -> dict[str, Any]:
    """
    Choose images, learn prompts, evaluate with and without them, and write `adapter/`, `metrics.json` and
    `picture.png` into `args.output_dir`. Which images are learned from and which scored on, `choose_data` says;
    `eval_strategy="no"` scores on none. The method `zero_shot` only evaluates. The adapter is there as soon as it is
    learned, its metrics after the evaluation.

    Args:
        data, prompts, args: the settings; each class documents its own.
        start_anew: without `prompts.resume`, throw away the checkpoints of a run in `args.output_dir` that did not
            finish.
        callbacks: of the trainer, besides its own.
        facts: further entries of `metrics.json`.

    Returns:
        what `metrics.json` holds; means over classes and IoUs in percent.

    Raises:
        SSPromptError: a setting, a file or a name is wrong; subclasses say which. Or there are checkpoints of a run
            that did not finish, and neither `prompts.resume` nor `start_anew` says what to do with them.
    """
    if prompts.method == "zero_shot":
        return evaluate_adapter(data, None, args, task=args.task, **facts)
    output = Path(args.output_dir)
    if not prompts.resume and not start_anew:
        _refuse_unfinished(output)
    with args.main_process_first(desc="reading the data"):
        choice = choose_data(data, prompts, args)
    images, selection, evaluation = choice.images, choice.selection, choice.evaluation
    if choice.note:
        logger.warning(choice.note)
    trainer = prepare_training(data, prompts, args, images, selection, evaluation)
    model, chosen = trainer.model, trainer.train_dataset
    for callback in callbacks:
        trainer.add_callback(callback)
    if evaluation is not None:
        check_disjoint(chosen, evaluation)
    checkpoint = _checkpoint(output, prompts.resume, args)
    if checkpoint is not None:
        check_files(Path(checkpoint))
        _check_same_adapter(Path(checkpoint), model.peft_config["default"])
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - start
    model.eval()
    if trainer.is_world_process_zero():
        # before the evaluation, which may meet a label that cannot be read
        model.save_pretrained(output / ADAPTER)
        mark_finished(output)
        for name in (METRICS, PICTURE):  # those of an earlier run are not about this adapter
            (output / name).unlink(missing_ok=True)
    fractions = {} if evaluation is None else trainer.evaluate_by_class(with_zero_shot=True)
    scores = {name: in_percent(values) for name, values in fractions.items()}
    method = model.peft_config["default"].method_name
    model.peft_config["default"].metrics = {
        title: {key: value for key, value in scores[name].items() if not isinstance(value, dict)}
        for name, title in (("zero_shot", "zero-shot"), ("adapted", method))
        if name in scores
    }
    if not trainer.is_world_process_zero():
        return {}
    model.save_pretrained(output / ADAPTER)
    metrics = {
        **headlines(scores, method),
        "unit": "percent",
        "method": method,
        "adapter_bytes": (output / ADAPTER / ADAPTER_WEIGHTS).stat().st_size,
        "train_seconds": round(seconds, 2),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "steps": trainer.state.global_step,
        "kept_share": round(trainer.kept_share, 4),
        "base_model": model.peft_config["default"].base_model_name_or_path,
        "dataset": images.name,
        "shots": None if selection is None else selection.to_dict(),
        "training_images": len(chosen),
        "evaluation_images": 0 if evaluation is None else len(evaluation),
        "scores": scores,
        "settings": _settings(data, prompts, trainer.args),
        **facts,
    }
    write_json(output / METRICS, metrics)
    write_picture(output / PICTURE, model, evaluation or chosen, scores, data.image_size)
    if fractions:
        print(iou_table(fractions["adapted"], fractions["zero_shot"]))
        if args.learning_rate is None and fractions["zero_shot"]["mean_iou"] < NEW_NAMES_MIOU:
            print(NEW_NAMES_HINT)
    return metrics


def prepare_training(
    data: DataArguments,
    prompts: PromptArguments,
    args: SSPromptTrainingArguments,
    images: SegmentationDataset,
    selection: FewShotSelection | None,
    evaluation: SegmentationDataset | None = None,
    feature_cache: FeatureCache | None = None,
) -> SSPromptTrainer:
    """
    Everything that comes before the first step of training.

    Args:
        data, prompts, args: the settings.
        images: what `selection` was chosen from.
        selection: the images to learn from; None for all.
        evaluation: images to evaluate on.
        feature_cache: see `SSPromptTrainer`.

    Raises:
        SSPromptError: as `train_adapter`.
    """
    set_seed(args.seed)
    chosen = images if selection is None else images.select(selection.indices)
    model = _untrained_model(data, prompts, args, chosen, selection)
    if args.prototypes is None and prompts.adds("prototypes"):
        args = copy.copy(args)
        args.prototypes = can_start_from_prototypes(model)
    processor = model.sized_image_processor(data.image_size)
    if prompts.spatial_source == "point_grid":
        _set_point_tokens(model, processor, chosen)
    return SSPromptTrainer(model, args, processor, chosen, evaluation, feature_cache=feature_cache)


def _untrained_model(
    data: DataArguments,
    prompts: PromptArguments,
    args: SSPromptTrainingArguments,
    chosen: SegmentationDataset,
    selection: FewShotSelection | None,
) -> SSPromptModel:
    classes, base_model = chosen.classes, data.base_model or DEFAULT_BASE_MODEL
    masks = prompts.adds("class_masks", args.task) and base_model_info(base_model).takes_class_masks
    config = prompts.config(
        **({"class_masks": True} if masks else {}),
        task=args.task,
        class_names=classes.names,
        thing_class_ids=classes.thing_indices,
        class_ids=classes.ids,
        ignore_index=classes.none_id,
        colors=[list(color) for color in classes.colors],
        image_size=data.image_size,
        image_bits=chosen.image_bits,
        dataset=chosen.name,
        shots=None if selection is None else selection.shots,
        seed=args.seed,
        chosen_images=chosen.file_names,
    )
    return SSPromptModel.from_pretrained(
        base_model,
        config=config,
        class_names=classes.names,
        thing_class_ids=classes.thing_indices,
        is_trainable=True,
    )


@torch.no_grad()
def _set_point_tokens(model: SSPromptModel, processor, images: SegmentationDataset):
    """The image-independent default of a point grid is the mean over the training images (eq. 2)."""
    batches = (processor(images=images[index]["image"], return_tensors="pt") for index in range(len(images)))
    size = model.peft_config["default"].point_grid_size
    model.base_model.set_point_tokens(point_grid_tokens(model.get_base_model(), batches, size))


def _refuse_unfinished(output: Path):
    """
    Raises:
        SSPromptError: the newest checkpoint in `output` is not followed by an adapter.
    """
    checkpoint = last_complete_checkpoint(output)
    if checkpoint is None:
        return
    if not is_finished(checkpoint, output / ADAPTER / ADAPTER_WEIGHTS):
        raise SSPromptError(
            f"{output} holds a training that did not finish, up to {Path(checkpoint).name}: add --resume to go on "
            "with it, or remove its checkpoints, or choose another --output_dir"
        )


def _checkpoint(output: Path, resume: bool, args: SSPromptTrainingArguments) -> str | None:
    """The checkpoint to go on from. A run that starts anew first removes those of an earlier one."""
    if resume:
        checkpoint = last_complete_checkpoint(output)
        logger.warning(f"going on from {checkpoint}" if checkpoint else f"no checkpoint in {output}: starting anew")
        return checkpoint
    if args.should_save:
        for state in output.glob("checkpoint-*/trainer_state.json"):  # no folder that only has such a name
            shutil.rmtree(state.parent)
    return None


def _check_same_adapter(checkpoint: Path, config: PromptConfig):
    """
    Raises:
        SSPromptError: the checkpoint is that of another method, or of other classes.
    """
    known = read_adapter(checkpoint).config
    for what, old, new in (
        ("method", known.method_name, config.method_name),
        ("classes", known.class_names, config.class_names),
        ("class_masks", getattr(known, "class_masks", False), getattr(config, "class_masks", False)),
    ):
        if old != new:
            raise SSPromptError(
                f"{checkpoint} is of another run, with the {what} {old}, and cannot go on with {new}: start anew in "
                "another --output_dir" + ", or add --recipe paper" * (what == "class_masks" and not old)
            )


def _settings(data: DataArguments, prompts: PromptArguments, args: SSPromptTrainingArguments) -> dict[str, Any]:
    """All settings of the data and the method, and those of training that are not the defaults of transformers."""
    training = unusual_arguments(args)
    return {"data": data.to_dict(), "prompts": dataclasses.asdict(prompts), "training": training}


def unusual_arguments(args: SSPromptTrainingArguments) -> dict[str, Any]:
    """The training arguments that transformers does not have, or has with another default."""
    usual = TrainingArguments(output_dir=args.output_dir, use_cpu=args.use_cpu).to_dict()
    return {name: value for name, value in args.to_dict().items() if name not in usual or usual[name] != value}
