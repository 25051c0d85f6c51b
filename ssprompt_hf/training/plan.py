"""What a training would take, before it takes it."""

import math
import os
from typing import Any

from ..errors import SSPromptError
from ..loading import NAMES, base_model_facts
from ..models.registry import DEFAULT_BASE_MODEL
from .arguments import SSPromptTrainingArguments
from .data_choice import choose_data
from .settings import DataArguments, PromptArguments

GIB = 2**30


def plan_training(data: DataArguments, prompts: PromptArguments, args: SSPromptTrainingArguments) -> str:
    """
    The data that would be chosen, and the memory that the base model, the feature cache and a step would take. The
    data are read; of the base model nothing but its configuration is.

    Args:
        data, prompts, args: as of `train_adapter`.

    Returns:
        text for a terminal.

    Raises:
        SSPromptError: as `train_adapter`, as far as it can be told without the base model's weights.
    """
    if prompts.method == "zero_shot":
        raise SSPromptError("zero_shot trains nothing: leave out --dry_run")
    choice = choose_data(data, prompts, args)
    images, chosen = choice.images, choice.chosen
    evaluated = "none" if choice.evaluation is None else len(choice.evaluation)
    size = chosen.read_label(0).shape
    config = prompts.config(task=args.task)
    encoders = config.prompt_encoders(is_new=True, is_trainable=True)
    facts = base_model_facts(
        data.base_model or DEFAULT_BASE_MODEL, size, data.image_size, {NAMES, "spatial", *encoders}
    )
    views = len(chosen) * (2 if args.random_flip else 1)
    whole = parameters = facts["parameters"]["total"]
    if "words" not in config.needs:
        parameters -= sum(count for part, count in facts["parameters"].items() if part.startswith("text_"))
    text = f", and {(whole - parameters) / 1e6:.1f} M of the text encoder until the class names are read"
    limit = args.feature_cache_gb * GIB
    image_bytes = _cached_bytes(facts, config.learns("spatial"), args, limit / views)
    total = image_bytes * views
    lines = [
        f"data         {len(chosen)} of {len(images)} images of {images.name} to learn from, {len(images.classes)} "
        f"classes, {evaluated} images to evaluate on; the first is {size[0]}x{size[1]} pixels",
        f"steps        {_steps(args, len(chosen))} of {_step_size(args)} images",
        f"base model   {facts['name']}: {parameters / 1e6:.1f} M parameters held, {4 * parameters / GIB:.2f} GiB in "
        "float32" + text * (parameters < whole),
        f"cache        {image_bytes / 2**20:.1f} MiB an image in {args.feature_cache_dtype}, {views} images"
        f"{' and mirror images' if args.random_flip else ''}: {total / GIB:.2f} GiB; "
        + _cache_advice(args, total, limit),
    ]
    needed = 4 * parameters + (min(total, limit) if args.feature_cache in ("auto", "memory", "device") else 0)
    training = facts["decoder_bytes"]["training"]
    if training is not None:
        lines.append(
            f"a step       about {training / GIB:.2f} GiB a pair of image and class that is decoded at once; an image "
            f"is asked about its own classes and {args.negative_classes} others"
        )
        needed += training
    needed = max(needed, 4 * whole)
    lines.append(f"peak         about {needed / GIB:.2f} GiB, PyTorch itself not counted")
    lines.append(f"output       {os.path.abspath(args.output_dir)}; nothing was written")
    return "\n".join(lines)


def _cached_bytes(facts: dict[str, Any], is_spatial: bool, args: SSPromptTrainingArguments, limit: float) -> float:
    """Of an image, in the stage that the trainer would choose; see `choose_stage`."""
    share = 2 if args.feature_cache_dtype == "float16" else 1
    stages = facts["stages"]["spatial" if is_spatial else "semantic"]
    sizes = [facts["cached_bytes"][stage] / share for stage in stages]
    if args.keep_projections is not None:
        return sizes[-1 if args.keep_projections else 0]
    return max([size for size in sizes if size <= limit], default=sizes[0])


def _step_size(args: SSPromptTrainingArguments) -> int:
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def _steps(args: SSPromptTrainingArguments, num_images: int) -> str:
    if args.max_steps > 0:
        return f"{args.max_steps}"
    per_epoch = -(-num_images // _step_size(args))
    return f"{math.ceil(per_epoch * args.num_train_epochs)}"


def _cache_advice(args: SSPromptTrainingArguments, total: float, limit: float) -> str:
    if args.feature_cache == "none":
        return "but feature_cache is none: the frozen part runs at every step"
    if total <= limit:
        storage = "memory" if args.feature_cache == "auto" else args.feature_cache
        return f"they fit into {storage} (limit {limit / GIB:.1f} GiB)"
    if args.feature_cache == "auto":
        folder = os.path.abspath(args.feature_cache_dir or os.path.join(args.output_dir, "feature_cache"))
        return f"{limit / GIB:.1f} GiB of them in memory, the others in files in {folder} until training ends"
    return (
        f"the limit is {limit / GIB:.1f} GiB, so the frozen part runs again for the rest. Raise --feature_cache_gb, "
        "or add --feature_cache disk, or --feature_cache_dtype float16"
    )
