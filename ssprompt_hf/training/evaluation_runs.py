"""Whole evaluations: adapters, or a base model without one, scored on a data set, in one pass over its images."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..adapters.files import fetch_adapter, read_adapter
from ..data.dataset import SegmentationDataset
from ..errors import SSPromptError
from ..model import SSPromptModel
from ..models.registry import DEFAULT_BASE_MODEL
from ..plotting.tables import iou_table
from ..segmentation.export import PredictionExporter
from ..tuners import PromptConfig
from ..utils.files import atomic_path, write_json
from ..utils.names import file_name, unique_names
from .arguments import SSPromptTrainingArguments
from .evaluator import ADAPTED, ZERO_SHOT
from .feature_cache import FeatureCache
from .reports import METRICS, PICTURE, TABLE, comparison_table, headlines, in_percent, write_picture
from .settings import DataArguments
from .trainer import SSPromptTrainer


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
    output = Path(args.output_dir)
    [[metrics, fractions]] = _evaluate(data, {"default": adapter}, args, {"default": output}, export, task, facts)
    if metrics:
        if adapter is None:
            print(iou_table(fractions[ZERO_SHOT], after_title="zero-shot"))
        else:
            print(iou_table(fractions[ADAPTED], fractions[ZERO_SHOT]))
    return metrics


def evaluate_adapters(
    data: DataArguments,
    adapters: Sequence[str],
    args: SSPromptTrainingArguments,
    export: str | None = None,
    task: str | None = None,
    **facts: Any,
) -> dict[str, dict[str, Any]]:
    """
    Score several adapters of one base model on a data set, in one pass over the images: each is read once, the frozen
    part runs once, and then the decoder with each adapter. Each adapter gets the scores, bit for bit, that it gets
    alone. Those that would see other images alone, or at another size, or were trained for another task, have a pass
    of their own.

    Writes `<output_dir>/<name>/metrics.json` and `picture.png` for each, and `<output_dir>/table.md`. The name is that
    of the adapter, or of the folder that holds it where that is called `adapter`.

    Args:
        data, args, task, facts: as of [`evaluate_adapter`].
        adapters: folders, Hub ids or bare names.
        export: folder for the predictions, with a sub-folder for each adapter.

    Returns:
        what each `metrics.json` holds, by name, in the order of `adapters`; in percent.

    Raises:
        SSPromptError: as [`evaluate_adapter`]; or there is no adapter, or they were made for different base models.
    """
    if not adapters:
        raise SSPromptError("adapters is empty: give at least one")
    names, output = adapter_names(adapters), Path(args.output_dir)
    keys = [f"adapter_{number}" for number in range(len(names))]  # PEFT does not like every name
    folders = {key: output / name for key, name in zip(keys, names)}
    results = _evaluate(data, dict(zip(keys, adapters)), args, folders, export, task, facts)
    metrics = {name: metrics for name, (metrics, _) in zip(names, results)}
    if not all(metrics.values()):
        return {}
    table = comparison_table(metrics)
    with atomic_path(output / TABLE) as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    print(table)
    return metrics


def adapter_names(adapters: Sequence[str]) -> list[str]:
    """What results about each adapter are called: the last part of its name that says something, unique, and fit for a
    folder."""
    names = []
    for adapter in adapters:
        parts = [part for part in Path(adapter).resolve().parts if part != "adapter"]
        names.append(file_name(parts[-1]))
    return unique_names(names)


class _Pass(NamedTuple):
    """Adapters that see the same images in the same way."""

    trainer: SSPromptTrainer
    names: list[str]


def _evaluate(
    data: DataArguments,
    adapters: Mapping[str, str | None],
    args: SSPromptTrainingArguments,
    folders: Mapping[str, Path],
    export: str | None,
    task: str | None,
    facts: dict[str, Any],
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What `metrics.json` holds and the scores from 0 to 1, of each adapter; files in `folders`."""
    found = {}
    for trainer, names in prepare_evaluation(data, adapters, args, task):
        model, images = trainer.model, trainer.eval_dataset
        if export is not None:
            trainer.evaluator.exporters = {
                (name, ADAPTED): PredictionExporter(
                    export if len(adapters) == 1 else Path(export, folders[name].name),
                    images.file_names,
                    images.classes.ids,
                    args.world_size,
                    args.process_index,
                    images.coco_image_ids,
                    images.semantic_ids,
                )
                for name in names
            }
        trained = any(adapters[name] is not None for name in names)
        scores = trainer.evaluate_by_class(with_zero_shot=trained, adapters=names)
        if export is not None:
            trainer.accelerator.wait_for_everyone()
            if trainer.is_world_process_zero():
                for exporter in trainer.evaluator.exporters.values():
                    exporter.finish()
        for name in names:
            adapter, config = adapters[name], model.peft_config[name]
            fractions = scores[name] if adapter is not None else {ZERO_SHOT: scores[name][ADAPTED]}
            found[name] = {}, fractions
            if not trainer.is_world_process_zero():
                continue
            percent = {state: in_percent(values) for state, values in fractions.items()}
            metrics = {
                **headlines(percent, config.method_name),
                "unit": "percent",
                "base_model": config.base_model_name_or_path,
                "method": "zero-shot" if adapter is None else config.method_name,
                "adapter": adapter,
                "dataset": images.name,
                "split": data.evaluation_split,
                "evaluation_images": len(images),
                "scores": percent,
                **facts,
            }
            write_json(folders[name] / METRICS, metrics)
            write_picture(folders[name] / PICTURE, model, images, percent, data.image_size, name)
            found[name] = metrics, fractions
    return [found[name] for name in adapters]


def prepare_evaluation(
    data: DataArguments,
    adapters: Mapping[str, str | None],
    args: SSPromptTrainingArguments,
    task: str | None = None,
    images: SegmentationDataset | None = None,
    feature_cache: FeatureCache | None = None,
) -> list[_Pass]:
    """
    Trainers that have nothing to train, for evaluation by `evaluate_by_class(adapters=names)`, each with the names of
    the adapters that are scored in its pass over the images.

    Args:
        data, args, task: as of [`evaluate_adapter`].
        adapters: what to score, by the name that it gets in the model: folders, Hub ids or bare names; None for
            zero-shot segmentation by the data set's class names.
        images: by default those that `data` names.
        feature_cache: see `SSPromptTrainer`.

    Raises:
        SSPromptError: as [`evaluate_adapter`].
    """
    configs = {
        name: None if adapter is None else read_adapter(fetch_adapter(adapter)).config
        for name, adapter in adapters.items()
    }
    loaded: dict[str, SegmentationDataset] = {}

    def shown_to(config: PromptConfig | None, own_task: str) -> SegmentationDataset:
        if images is not None:
            return images
        if own_task not in loaded:
            loaded[own_task] = data.load(data.evaluation_split, own_task)
        return data.shown_images(loaded[own_task], config)

    passes: dict[tuple, tuple[SegmentationDataset, list[str]]] = {}
    for name, config in configs.items():
        own_task = task or ("semantic" if config is None else config.task)
        with args.main_process_first(desc="reading the data"):
            own_images = shown_to(config, own_task)
        size = data.image_size or (None if config is None else config.image_size)
        key = own_task, size, own_images.image_bits, tuple(own_images.file_names)
        passes.setdefault(key, (own_images, []))[1].append(name)
    classes = next(iter(passes.values()))[0].classes
    model = _load_adapters(data.base_model, adapters, configs, classes)
    for own_images, names in passes.values():
        for name in names:
            if adapters[name] is not None:
                check_adapter_classes(adapters[name], model.peft_config[name].class_names, own_images)
    trainers = []
    for (own_task, size, *_), (own_images, names) in passes.items():
        own_args = copy.copy(args)
        own_args.task = own_task
        processor = model.sized_image_processor(size)
        trainer = SSPromptTrainer(model, own_args, processor, eval_dataset=own_images, feature_cache=feature_cache)
        trainers.append(_Pass(trainer, names))
    return trainers


def _load_adapters(
    base_model: str | None,
    adapters: Mapping[str, str | None],
    configs: Mapping[str, PromptConfig | None],
    classes: Any,
) -> SSPromptModel:
    """One model with all the adapters; one that is None is untrained."""
    model = None
    # class names have to be known to the base model before adapters for them are added
    for name in sorted(adapters, key=lambda name: adapters[name] is not None):
        if model is not None:
            model.load_adapter(adapters[name], name)
        elif adapters[name] is None:
            model = SSPromptModel.from_pretrained(
                base_model or DEFAULT_BASE_MODEL,
                adapter_name=name,
                class_names=classes.names,
                thing_class_ids=classes.thing_indices,
                keep_prompt_encoders=_need_encoders(configs),
            )
        else:
            model = SSPromptModel.from_pretrained(
                base_model, adapters[name], name, keep_prompt_encoders=_need_encoders(configs)
            )
    return model


def _need_encoders(configs: Mapping[str, PromptConfig | None]) -> bool:
    """Whether one of several adapters needs prompt encoders that the base model would be loaded without."""
    needed = {
        encoder
        for config in configs.values()
        if config is not None
        for encoder in config.prompt_encoders(is_new=False, is_trainable=False)
    }
    return bool(needed) and len(configs) > 1


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


def check_adapter_classes(adapter: str, names: list[str] | None, images: SegmentationDataset) -> None:
    """
    Raises:
        SSPromptError: the classes `names` of an adapter are not those of the data set, or in another order.
    """
    if names != images.classes.names:
        raise SSPromptError(
            f"the adapter {adapter!r} was made for the classes {', '.join(names or ['(none)'])}, {images.name} has "
            f"{', '.join(images.classes.names)}: use data with its own classes, in its own order"
        )
