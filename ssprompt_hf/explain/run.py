"""`ssprompt-hf explain`: from the name of an adapter to a report with pictures."""

import csv
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..adapters.files import fetch_adapter, read_adapter
from ..adapters.info import adapter_info
from ..data.dataset import SegmentationDataset
from ..errors import AdapterError, SSPromptError
from ..loading import base_model_info
from ..model import SSPromptModel
from ..plotting.overlays import comparison_picture
from ..prediction import kept_tokenizer
from ..training.arguments import SSPromptTrainingArguments
from ..training.evaluation_runs import check_adapter_classes, evaluation_trainer
from ..training.settings import DataArguments
from ..tuners import PromptConfig
from ..utils.files import atomic_path, write_json
from .findings import (
    class_changes,
    example_images,
    image_scores,
    largest_confusions,
    prompt_roles,
    serving_prompts,
    worst_images,
)
from .observation import ADAPTED, STATES, Observations, Observer
from .pictures import draw_prompts, draw_serving
from .prompts import Prompts, read_prompts
from .report import render_report, render_summary
from .vocabulary import built_in_words, distinct_words, explain_words, read_words

EXPLANATION, REPORT, SERVING_TABLE = "explain.json", "report.md", "serving.csv"
EMBEDDED = ("street-scenes", "street_scenes")


def explain_adapter(
    adapter: str | os.PathLike,
    data: DataArguments | None = None,
    output_dir: str | os.PathLike = "out/explain",
    words: str | os.PathLike | None = None,
    examples: int = 3,
    use_cpu: bool = False,
) -> dict[str, Any]:
    """
    Tell what an adapter has learned; writes `report.md`, `explain.json` and pictures, and prints a summary. With
    labelled images also `serving.csv`, which spatial prompt gives how much of which class.

    Args:
        adapter: folder, Hub id or bare name.
        data: base model (by default the adapter's) and images to look at. Without a data set the one that the adapter
            was trained on, if it is embedded; otherwise what needs images is left out, and the report says so.
        output_dir: folder to write to.
        words: text file of further words, one a line, to compare semantic prompts with.
        examples: classes that gained, classes that lost and failed images to show, each so many.
        use_cpu: do not use a GPU.

    Returns:
        what `explain.json` holds; scores and shares from 0 to 1.

    Raises:
        SSPromptError: the adapter or a file cannot be found or read, or the data set has other classes than the
            adapter; subclasses say which.
    """
    data = data or DataArguments()
    if examples < 0:
        raise SSPromptError(f"--examples is {examples}; it must be 0 or more")
    extra = [] if words is None else read_words(words)
    folder = fetch_adapter(adapter)
    config = read_adapter(folder).config
    images, missing = _images(data, config)
    if images is not None:
        check_adapter_classes(str(folder), config.class_names, images)
    base = data.base_model or config.base_model_name_or_path
    has_text = base is not None and base_model_info(base).has_text_encoder
    model = SSPromptModel.from_pretrained(data.base_model, folder, keep_prompt_encoders=has_text)
    if torch.cuda.is_available() and not use_cpu:
        model.to("cuda")
    output = Path(output_dir)
    prompts = read_prompts(model)
    explanation = _facts(folder, config) | {
        "prompts_explained": model.get_base_model().prompts_explained,
        "prompts": {kind: group.to_dict() for kind, group in prompts.items()},
        "words": _words(model, prompts["semantic"], extra) if has_text else {"missing": _no_text_encoder(base)},
        "pictures": draw_prompts(prompts, config, output),
    }
    if images is None:
        explanation["data"] = {"missing": missing}
    else:
        explanation["data"] = {"dataset": images.name, "split": data.evaluation_split, "images": len(images)}
        args = SSPromptTrainingArguments(output_dir=str(output), use_cpu=use_cpu, report_to="none")
        trainer = evaluation_trainer(model, data, args, images)
        observer = Observer(len(images), len(images.classes))
        trainer.evaluator.observers.append(observer)
        scores = trainer.evaluate_by_class(with_zero_shot=True)
        seen = observer.seen
        base = model.get_base_model()
        title = base.prompt_slots[base.spatial_slot("object_queries")].title
        masked = STATES if base.has_class_masks else (ADAPTED,) if getattr(config, "class_masks", False) else ()
        explanation |= _findings(scores, seen, images, prompts["spatial"], title, masked, examples)
        explanation["pictures"] |= draw_serving(
            seen.serving, explanation["prompt_names"], images.classes.names, output
        )
        _write_serving(output / SERVING_TABLE, seen, explanation["prompt_names"], images.classes.names)
        _write_examples(explanation, model, images, data.image_size, output)
    write_json(output / EXPLANATION, explanation)
    with atomic_path(output / REPORT) as temporary:
        temporary.write_text(render_report(explanation), encoding="utf-8")
    print(render_summary(explanation))
    return explanation


def _facts(folder: str, config: PromptConfig) -> dict[str, Any]:
    info = adapter_info(folder)
    return {
        "adapter": str(folder),
        "method": config.method_name,
        "base_model": config.base_model_name_or_path,
        "task": config.task,
        "trained_on": config.dataset,
        "shots": config.shots,
        "seed": config.seed,
        "parameters": info["parameters"],
        "bytes": info["bytes"],
        "class_names": config.class_names,
        "thing_class_ids": config.thing_class_ids,
    }


def _images(data: DataArguments, config: PromptConfig) -> tuple[SegmentationDataset | None, str]:
    """The images to look at, or None and why there are none."""
    if data.dataset is None and data.data_dir is None:
        if config.dataset is None or config.dataset.split("/")[0] not in EMBEDDED:
            own = f"its own, {config.dataset}, does not come with this package" if config.dataset else "it names none"
            return None, f"no data set was given with the adapter, and {own}"
        data = dataclasses.replace(data, dataset=config.dataset)
    return data.load_evaluation(config.task, config), ""


def _no_text_encoder(base: str | None) -> str:
    return f"the base model {base or '(none)'} has no text encoder, which is needed to compare prompts with words"


def _words(model: SSPromptModel, semantic: Prompts, extra: list[str]) -> dict[str, Any]:
    """See `explain_words`; frees the text encoder, which nothing else needs."""
    base = model.get_base_model()
    try:
        tokenizer = kept_tokenizer(model)
    except AdapterError as error:
        return {"missing": str(error)}
    words = distinct_words(semantic.names, extra, built_in_words())
    print(f"embedding {len(words)} words by the text encoder of {base.name_or_path}")
    found = explain_words(base, tokenizer, words, semantic.before, semantic.after)
    base.drop_text_encoder()
    return found


def _findings(
    scores: dict[str, dict[str, Any]],
    seen: Observations,
    images: SegmentationDataset,
    spatial: Prompts,
    title: str,
    masked: Sequence[str],
    examples: int,
) -> dict[str, Any]:
    names = images.classes.names
    scores = {state: scores[state] for state in STATES}
    changes = class_changes(scores)
    masks = [f"class mask of {name}" for name in names]
    counts = {state: len(seen.serving[state].mass) - len(masks) * (state in masked) for state in STATES}
    prompt_names = {state: [f"{title} {index}" for index in range(count)] for state, count in counts.items()}
    if len(spatial.names) == counts["adapted"]:
        prompt_names["adapted"] = spatial.names
    for state in masked:
        prompt_names[state] = prompt_names[state] + masks
    shown = example_images(seen, changes, names, examples)
    by_image = {state: image_scores(seen.images[state]) for state in STATES}
    for example in shown:
        example["image_scores"] = {state: float(by_image[state][example["image"]]) for state in STATES}
    worst = worst_images(seen, examples)
    for example in shown + worst:
        example["file_name"] = images.file_names[example["image"]]
    return {
        "scores": scores,
        "changes": changes,
        "confusions": {state: largest_confusions(seen.confusions, names, state) for state in STATES},
        "prompt_names": prompt_names,
        "serving": {state: serving_prompts(seen.serving[state], names) for state in STATES},
        "roles": {state: prompt_roles(seen.serving[state], names) for state in STATES},
        "examples": shown,
        "worst": worst,
    }


def _write_serving(path: Path, seen: Observations, prompt_names: dict[str, list[str]], names: list[str]) -> None:
    """The whole table: for each prompt, without and with the adapter, its share of the pixels of each class."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["state", "prompt", *names])
        for state in STATES:
            shares = seen.serving[state].class_shares()
            writer.writerows(
                [state, prompt, *(f"{share:.6f}" for share in row)] for prompt, row in zip(prompt_names[state], shares)
            )


def _write_examples(
    explanation: dict[str, Any],
    model: SSPromptModel,
    images: SegmentationDataset,
    image_size: int | None,
    output: Path,
) -> None:
    """Image, truth, zero-shot and adapted for every example and every failed image; notes the files' names."""
    numbers: dict[str, int] = {}
    for example in explanation["examples"] + explanation["worst"]:
        kind = example.get("kind", "worst")
        numbers[kind] = numbers.get(kind, 0) + 1
        example["picture"] = f"{kind}-{numbers[kind]}.png"
        picture = _comparison(model, images, example, image_size)
        with atomic_path(output / example["picture"]) as temporary:
            picture.save(temporary)


def _comparison(
    model: SSPromptModel, images: SegmentationDataset, example: dict[str, Any], image_size: int | None
) -> Image.Image:
    row = images[example["image"]]
    adapted = model.predict(row["image"], task="semantic", image_size=image_size)
    with model.base_model.zero_shot():
        zero_shot = model.predict(row["image"], task="semantic", image_size=image_size)
    scores = example.get("image_scores", example)
    method = model.peft_config[model.active_adapter].method_name
    titles = {
        state: f"{title}, mean IoU {100 * scores[state]:.1f} in this image"
        for state, title in (("zero_shot", "zero-shot"), ("adapted", method))
    }
    return comparison_picture(
        row["image"], images.classes, row["label"], zero_shot.class_indices, adapted.class_indices, titles=titles
    )
