"""Whole runs, from names of models and data to adapters and pictures, for the command line and the examples."""

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
from ..data.few_shot import FewShotSelection, label_statistics
from ..errors import SSPromptError
from ..model import SSPromptModel
from ..models.registry import ADAPTER_WEIGHTS, DEFAULT_BASE_MODEL
from ..plotting.overlays import comparison_picture
from ..plotting.tables import iou_table
from ..segmentation.export import PredictionExporter
from ..tuners import PromptConfig
from ..tuners.ssprompt.point_grid import point_grid_tokens
from ..utils.files import atomic_path, write_json
from .arguments import SSPromptTrainingArguments
from .checkpoints import check_files, is_finished, last_complete_checkpoint, mark_finished
from .data_choice import choose_data
from .feature_cache import FeatureCache
from .settings import DataArguments, PromptArguments
from .trainer import SSPromptTrainer

logger = logging.get_logger(__name__)

ADAPTER, METRICS, PICTURE = "adapter", "metrics.json", "picture.png"

NEW_NAMES_MIOU = 0.15
"""Zero-shot mean IoU below which the class names mean little to the base model."""
NEW_NAMES_HINT = (
    "zero-shot, these class names mean little to the base model; for such names --learning_rate 0.1 is often better "
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
        **_headlines(scores, method),
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
    _write_picture(output / PICTURE, model, evaluation or chosen, scores, data.image_size)
    if fractions:
        print(iou_table(fractions["adapted"], fractions["zero_shot"]))
        if args.learning_rate is None and fractions["zero_shot"]["mean_iou"] < NEW_NAMES_MIOU:
            print(NEW_NAMES_HINT)
    return metrics


def evaluate_adapter(
    data: DataArguments,
    adapter: str | None,
    args: SSPromptTrainingArguments,
    export: str | None = None,
    task: str | None = None,
    **facts: Any,
) -> dict[str, Any]:
    """
    Score an adapter, or a base model without one, on a data set; writes `metrics.json` and `picture.png`.

    Args:
        data: the base model (by default the adapter's) and the data.
        adapter: folder, Hub id or bare name; None for zero-shot segmentation by the data set's class names.
        args: `output_dir`, batch size, precision.
        export: folder for the predictions (of the adapter, if there is one) as `PredictionExporter` writes them.
        task: what is scored besides mean IoU: `"instance"` AP, `"panoptic"` PQ; by default as the adapter was trained.
        facts: further entries of `metrics.json`.

    Returns:
        what `metrics.json` holds; in percent.

    Raises:
        SSPromptError: as `train_adapter`; also if the adapter's classes are not those of the data set.
    """
    trainer = prepare_evaluation(data, adapter, args, task)
    model, images = trainer.model, trainer.eval_dataset
    if export is not None:
        trainer.evaluator.exporter = PredictionExporter(
            export,
            images.file_names,
            images.classes.ids,
            args.world_size,
            args.process_index,
            images.coco_image_ids,
            images.semantic_ids,
        )
    if adapter is None:
        fractions = {"zero_shot": trainer.evaluate_by_class()["adapted"]}
    else:
        fractions = trainer.evaluate_by_class(with_zero_shot=True)
    if export is not None:
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            trainer.evaluator.exporter.finish()
    scores = {name: in_percent(values) for name, values in fractions.items()}
    if not trainer.is_world_process_zero():
        return {}
    metrics = {
        **_headlines(scores, model.peft_config["default"].method_name),
        "unit": "percent",
        "base_model": model.peft_config["default"].base_model_name_or_path,
        "method": "zero-shot" if adapter is None else model.peft_config["default"].method_name,
        "adapter": adapter,
        "dataset": images.name,
        "split": data.evaluation_split,
        "evaluation_images": len(images),
        "scores": scores,
        **facts,
    }
    output = Path(args.output_dir)
    write_json(output / METRICS, metrics)
    _write_picture(output / PICTURE, model, images, scores, data.image_size)
    if adapter is None:
        print(iou_table(fractions["zero_shot"], after_title="zero-shot"))
    else:
        print(iou_table(fractions["adapted"], fractions["zero_shot"]))
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
    processor = model.sized_image_processor(data.image_size)
    if prompts.spatial_source == "point_grid":
        _set_point_tokens(model, processor, chosen)
    return SSPromptTrainer(model, args, processor, chosen, evaluation, feature_cache=feature_cache)


def prepare_evaluation(
    data: DataArguments,
    adapter: str | None,
    args: SSPromptTrainingArguments,
    task: str | None = None,
    images: SegmentationDataset | None = None,
    feature_cache: FeatureCache | None = None,
) -> SSPromptTrainer:
    """
    A trainer that has nothing to train, for evaluation.

    Args:
        data, adapter, args, task: as of `evaluate_adapter`; `args.task` is set.
        images: by default those that `data` names.
        feature_cache: see `SSPromptTrainer`.

    Raises:
        SSPromptError: as `evaluate_adapter`.
    """
    model = None if adapter is None else SSPromptModel.from_pretrained(data.base_model, adapter)
    args.task = task or ("semantic" if model is None else model.peft_config["default"].task)
    if images is None:
        with args.main_process_first(desc="reading the data"):
            images = data.load_evaluation(args.task, None if model is None else model.peft_config["default"])
    classes = images.classes
    if model is None:
        model = SSPromptModel.from_pretrained(
            data.base_model or DEFAULT_BASE_MODEL, class_names=classes.names, thing_class_ids=classes.thing_indices
        )
    else:
        check_adapter_classes(model.peft_config["default"].class_names, images)
    return evaluation_trainer(model, data, args, images, feature_cache)


def evaluation_trainer(
    model: SSPromptModel,
    data: DataArguments,
    args: SSPromptTrainingArguments,
    images: SegmentationDataset,
    feature_cache: FeatureCache | None = None,
) -> SSPromptTrainer:
    """A trainer that has nothing to train, for the evaluation of a model on `images`."""
    processor = model.sized_image_processor(data.image_size or model.peft_config["default"].image_size)
    return SSPromptTrainer(model, args, processor, eval_dataset=images, feature_cache=feature_cache)


def _untrained_model(
    data: DataArguments,
    prompts: PromptArguments,
    args: SSPromptTrainingArguments,
    chosen: SegmentationDataset,
    selection: FewShotSelection | None,
) -> SSPromptModel:
    classes = chosen.classes
    config = prompts.config(
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
        data.base_model or DEFAULT_BASE_MODEL,
        config=config,
        class_names=classes.names,
        thing_class_ids=classes.thing_indices,
        is_trainable=True,
    )


def check_adapter_classes(names: list[str] | None, images: SegmentationDataset) -> None:
    """
    Raises:
        SSPromptError: the classes `names` of an adapter are not those of the data set, or in another order.
    """
    if names != images.classes.names:
        raise SSPromptError(
            f"the adapter was made for the classes {', '.join(names or ['(none)'])}, {images.name} has "
            f"{', '.join(images.classes.names)}: use data with its own classes, in its own order"
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
    ):
        if old != new:
            raise SSPromptError(
                f"{checkpoint} is of another run, with the {what} {old}, and cannot go on with {new}: start anew in "
                "another --output_dir"
            )


def _settings(data: DataArguments, prompts: PromptArguments, args: SSPromptTrainingArguments) -> dict[str, Any]:
    """All settings of the data and the method, and those of training that are not the defaults of transformers."""
    training = unusual_arguments(args)
    return {"data": data.to_dict(), "prompts": dataclasses.asdict(prompts), "training": training}


def unusual_arguments(args: SSPromptTrainingArguments) -> dict[str, Any]:
    """The training arguments that transformers does not have, or has with another default."""
    usual = TrainingArguments(output_dir=args.output_dir, use_cpu=args.use_cpu).to_dict()
    return {name: value for name, value in args.to_dict().items() if name not in usual or usual[name] != value}


def _headlines(scores: dict[str, dict], method: str) -> dict[str, float]:
    """
    `zero_shot_miou`, `ssprompt_miou` (or another method's), and the same of AP (in two definitions) and PQ where they
    were computed.
    """
    titles = {"mean_iou": "miou", "coco_ap": "coco_ap", "cityscapes_ap": "cityscapes_ap", "pq": "pq"}
    return {
        f"{title}_{short}": scores[name][key]
        for key, short in titles.items()
        for name, title in (("zero_shot", "zero_shot"), ("adapted", method.lower()))
        if key in scores.get(name, {})
    }


def in_percent(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores from 0 to 1, and dicts of such, in percent with three decimals."""
    return {
        name: {key: round(100 * x, 3) for key, x in value.items()}
        if isinstance(value, dict)
        else round(100 * value, 3)
        for name, value in scores.items()
    }


def _write_picture(
    path: Path, model: SSPromptModel, images: SegmentationDataset, scores: dict[str, dict], image_size: int | None
):
    """Image, truth and predictions of the image that shows the most classes (of the first 32; the first such).
    `scores` holds those of the states that are shown; it is empty where nothing was scored and both are."""
    settings = {"task": "semantic", "image_size": image_size}
    statistics = label_statistics(images.select(range(min(len(images), 32))))
    example = images[int((statistics.pixel_counts > 0).sum(1).argmax())]
    predictions = {"zero_shot": None, "adapted": None}
    if "adapted" in scores or not scores:
        predictions["adapted"] = model.predict(example["image"], **settings).class_indices
    with model.zero_shot():
        predictions["zero_shot"] = model.predict(example["image"], **settings).class_indices
    titles = {
        name: f"{title}, mean IoU {scores[name]['mean_iou']:.1f} over all images" if name in scores else title
        for name, title in (("zero_shot", "zero-shot"), ("adapted", model.peft_config["default"].method_name))
    }
    picture = comparison_picture(example["image"], images.classes, example["label"], **predictions, titles=titles)
    with atomic_path(path) as temporary:
        picture.save(temporary)
