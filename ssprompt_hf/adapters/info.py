"""What an adapter's files say about it, without its base model."""

import os
from pathlib import Path
from typing import Any

from ..models.registry import ADAPTER_WEIGHTS
from ..plotting.tables import format_table
from ..tuners import PromptConfig
from ..utils.text import printable
from .files import read_adapter


def adapter_info(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Everything an adapter holds, ready for JSON.

    Args:
        folder: of the adapter.

    Returns:
        `folder`, `bytes` of the weights file, `parameters` that were learned, `tensors` (name -> shape), `weights`
        (name -> list of the learned `w`, 0 to 1 unless the range is free), `semantic_weights`, those of the classes
        (None if there are none), `config`.

    Raises:
        AdapterError: a file is missing or damaged.
    """
    config, tensors = read_adapter(folder)
    # Default class embeddings, and those that the text encoder made of learned words, are not learned themselves.
    kept = ("_default", "coop_embedding", "locn_embedding")
    learned = {name: tensor for name, tensor in tensors.items() if not name.endswith(kept)}
    unit = getattr(config, "weight_range", None) == "unit"
    weights = {
        name.removesuffix(".ssprompt_weight").split(".")[-1]: (tensor.sigmoid() if unit else tensor).flatten().tolist()
        for name, tensor in learned.items()
        if name.endswith("ssprompt_weight")
    }
    return {
        "folder": str(folder),
        "bytes": (Path(folder) / ADAPTER_WEIGHTS).stat().st_size,
        "parameters": sum(tensor.numel() for tensor in learned.values()),
        "tensors": {name: list(tensor.shape) for name, tensor in tensors.items()},
        "weights": weights,
        "semantic_weights": _semantic_weights(config, weights),
        "config": config.to_dict() | {"peft_type": str(getattr(config.peft_type, "value", config.peft_type))},
    }


def _semantic_weights(config: PromptConfig, weights: dict[str, list]) -> list | None:
    """Of the slot of classes, which a configuration with classes names last."""
    if config.class_names is None or not config.target_modules:
        return None
    return weights.get(config.target_modules[-1].split(".")[-1])


def describe_adapter(info: dict[str, Any]) -> str:
    """`adapter_info` as text for a terminal; of what other programs wrote into the configuration, what can be told."""
    config = info["config"]
    chosen, training, metrics = (config[name] for name in ("chosen_images", "training", "metrics"))
    facts = {
        "adapter": info["folder"],
        "method": config["peft_type"],
        "base model": config["base_model_name_or_path"],
        "fingerprint": config["base_model_fingerprint"],
        "task": config["task"],
        "dataset": config["dataset"],
        "shots": config["shots"],
        "seed": config["seed"],
        "images": f"{len(chosen)} chosen" if isinstance(chosen, list) else chosen,
        "image size": config["image_size"],
        "training": ", ".join(f"{name} {value}" for name, value in training.items()) or None
        if isinstance(training, dict)
        else training,
        "parameters": f"{info['parameters']:,} learned numbers, {info['bytes'] / 1000:.1f} kB",
    }
    lines = [f"{name:<12} {printable(value)}" for name, value in facts.items() if value is not None]
    for name, shape in info["tensors"].items():
        name = printable(name.removeprefix("base_model.model."))
        lines.append(f"{'tensor':<12} {name} {'x'.join(map(str, shape))}")
    for name, values in info["weights"].items():
        if not values:
            continue
        low, high, mean = min(values), max(values), sum(values) / len(values)
        lines.append(f"{'weights w':<12} {printable(name)}: {low:.2f} to {high:.2f}, mean {mean:.2f}")
    class_weights = info["semantic_weights"]
    if config["class_names"]:
        if class_weights is not None and len(class_weights) != len(config["class_names"]):
            class_weights = None  # one a token, or of no use to tell the classes apart
        things = config["thing_class_ids"] or []
        rows = [
            [
                f"{index} {name}",
                "thing" if index in things else "stuff",
                *([] if class_weights is None else [f"{class_weights[index]:.2f}"]),
            ]
            for index, name in enumerate(config["class_names"])
        ]
        lines += ["", format_table(["class", "kind", *([] if class_weights is None else ["w"])], rows)]
    if isinstance(metrics, dict):
        settings = {name: value for name, value in metrics.items() if isinstance(value, dict)}
        columns = list(dict.fromkeys(key for value in settings.values() for key in value))
        rows = [[name, *(_number(value.get(key)) for key in columns)] for name, value in settings.items()]
        lines += ["", format_table(["result, %", *columns], rows)] if rows else []
    return "\n".join(lines)


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, (int, float)) else "-"
