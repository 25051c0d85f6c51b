"""Adapters made of other adapters of the same base model: weighted sums of their numbers, unions of their classes."""

import copy
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from ...errors import AdapterError
from .config import PromptConfig, check_choice, checked_class_names, current_versions
from .layer import PromptLayer

if TYPE_CHECKING:
    from .model import PromptTuner

SHARED_CLASSES = ("error", "first", "last")
Rows = dict[str, tuple[str, int]]
"""Class name -> the adapter that it is taken from, and its position there."""


def add_weighted(tuner: "PromptTuner", adapters: list[str], weights: list[float], adapter_name: str) -> None:
    """See `PromptTuner.add_weighted_adapter`."""
    configs = _configs(tuner, adapters, adapter_name)
    if len(adapters) != len(weights):
        raise AdapterError(f"{len(adapters)} adapters were given with {len(weights)} weights: give one weight each")
    first = configs[adapters[0]]
    if other := [name for name in adapters if not first.has_settings_of(configs[name])]:
        raise AdapterError(
            f"the adapters {adapters[0]!r} and {other[0]!r} have other classes or settings, so that their numbers "
            "mean different things"
        )
    _check_no_words(first, "whose weighted sums are no words")
    if wrong := [weight for weight in weights if not math.isfinite(weight)]:
        raise AdapterError(f"weights holds {wrong[0]}: give finite numbers")
    tensors = {
        layer: {attribute: _weighted(layer, attribute, adapters, weights) for attribute in _held(layer, adapters[0])}
        for layer in tuner.prompt_layers()
        if layer.has_adapter(adapters[0])
    }
    config = _combined_config(first, configs)
    for source, weight in zip(config.made_from, weights):
        source["weight"] = float(weight)
    _add(tuner, adapter_name, config, tensors)


def join(
    tuner: "PromptTuner",
    adapters: list[str],
    adapter_name: str,
    spatial_prompts_of: str | None = None,
    shared_classes: str = "error",
) -> None:
    """See `PromptTuner.join_adapters`."""
    check_choice("shared_classes", shared_classes, SHARED_CLASSES)
    configs = _configs(tuner, adapters, adapter_name)
    first = configs[adapters[0]]
    _check_no_words(first, "and the sentences around them: train an adapter for all classes at once")
    for name, config in configs.items():
        if config.class_names is None:
            raise AdapterError(f"the adapter {name!r} has no classes to join")
        if not first.has_semantic_settings_of(config):
            raise AdapterError(
                f"the adapters {adapters[0]!r} and {name!r} have other settings, so that their class prompts mean "
                "different things"
            )
    rows = _choose_rows(configs, shared_classes)
    source = _spatial_source(tuner, adapters, spatial_prompts_of)
    tensors = {}
    for layer in tuner.prompt_layers():
        if layer.slot.has_class_rows and all(layer.has_adapter(name) for name in adapters):
            tensors[layer] = {
                attribute: _join_rows(layer, attribute, configs, rows) for attribute in _held(layer, adapters[0])
            }
        elif not layer.slot.has_class_rows and layer.has_adapter(source):
            tensors[layer] = {attribute: getattr(layer, attribute)[source] for attribute in _held(layer, source)}
    config = _combined_config(configs[source], configs)
    for entry in config.made_from:
        entry["class_names"] = [name for name, (adapter, _) in rows.items() if adapter == entry["adapter"]]
        entry["spatial_prompts"] = entry["adapter"] == source
    config.class_names = checked_class_names(rows)
    config.thing_class_ids = _things(configs, rows)
    colors = [configs[name].colors for name, _ in rows.values()]
    config.colors = None
    if all(color is not None for color in colors):
        config.colors = [configs[name].colors[index] for name, index in rows.values()]
    config.class_ids, config.ignore_index = _label_ids(configs, rows)
    _add(tuner, adapter_name, config, tensors)


def _configs(tuner: "PromptTuner", adapters: list[str], adapter_name: str) -> dict[str, PromptConfig]:
    if not adapters:
        raise AdapterError("no adapters were given")
    if twice := [name for name in adapters if adapters.count(name) > 1]:
        raise AdapterError(f"the adapter {twice[0]!r} is given more than once")
    if missing := [name for name in adapters if name not in tuner.peft_config]:
        raise AdapterError(f"there is no adapter {missing[0]!r}; there are {', '.join(map(repr, tuner.peft_config))}")
    if adapter_name in tuner.peft_config:
        raise AdapterError(f"there is an adapter {adapter_name!r} already: choose another name")
    for layer in tuner.prompt_layers():
        for name in filter(layer.has_adapter, adapters):
            layer._check_not_pending(name)
    return {name: tuner.peft_config[name] for name in adapters}


def _check_no_words(config: PromptConfig, reason: str) -> None:
    if "words" in config.needs:
        raise AdapterError(f"{config.method_name} learns words, {reason}")


def _combined_config(base: PromptConfig, configs: dict[str, PromptConfig]) -> PromptConfig:
    """A copy of `base` that tells what it was made of, and nothing that is true of one of them alone."""
    config = copy.copy(base)
    config.seed = config.chosen_images = config.training = config.metrics = None
    for name in ("dataset", "image_bits", "image_size", "shots"):
        if len({getattr(one, name) for one in configs.values()}) > 1:
            setattr(config, name, None)
    config.versions = current_versions()
    config.made_from = [
        {"adapter": name, "dataset": one.dataset, "shots": one.shots, "seed": one.seed}
        for name, one in configs.items()
    ]
    return config


def _choose_rows(configs: dict[str, PromptConfig], shared_classes: str) -> Rows:
    rows: Rows = {}
    for name, config in configs.items():
        for index, class_name in enumerate(config.class_names):
            if class_name in rows and shared_classes == "error":
                raise AdapterError(
                    f"the class {class_name!r} is in {rows[class_name][0]!r} and in {name!r}: pass "
                    "shared_classes='first' or 'last' to say whose prompt it keeps"
                )
            if class_name not in rows or shared_classes == "last":
                rows[class_name] = name, index
    return rows


def _things(configs: dict[str, PromptConfig], rows: Rows) -> list[int] | None:
    """None where no adapter says which classes are things; one that does not say counts all of its own."""
    if all(config.thing_class_ids is None for config in configs.values()):
        return None
    return [
        place
        for place, (name, index) in enumerate(rows.values())
        if configs[name].thing_class_ids is None or index in configs[name].thing_class_ids
    ]


def _label_ids(configs: dict[str, PromptConfig], rows: Rows) -> tuple[list[int] | None, int]:
    """
    What the classes of a union, and pixels without one, are called in label files: as in those of the adapters where
    these agree; otherwise the ids are positions.
    """
    ids = None
    if all(configs[name].class_ids is not None for name, _ in rows.values()):
        ids = [configs[name].class_ids[index] for name, index in rows.values()]
        if len(set(ids)) < len(ids):
            ids = None
    taken = range(len(rows)) if ids is None else set(ids)
    common = {config.ignore_index for config in configs.values()}
    wanted = common if len(common) == 1 else ()
    # 255 is usual, and what is below it fits into a byte
    return ids, next(i for i in itertools.chain(wanted, range(255, -1, -1), itertools.count(256)) if i not in taken)


def _spatial_source(tuner: "PromptTuner", adapters: list[str], wanted: str | None) -> str:
    """The adapter whose spatial prompts the union has."""
    if wanted is not None:
        check_choice("spatial_prompts_of", wanted, tuple(adapters))
        return wanted
    for layer in tuner.prompt_layers():
        if layer.slot.has_class_rows:
            continue
        first, *others = (
            layer.adapter_prompt(name) if layer.has_adapter(name) else layer.base_prompt for name in adapters
        )
        for name, other in zip(adapters[1:], others):
            if (first is None) != (other is None) or (first is not None and not torch.equal(first, other)):
                raise AdapterError(
                    f"the adapters {adapters[0]!r} and {name!r} have learned different spatial prompts, which all "
                    f"classes of a model share: say whose are kept, for instance spatial_prompts_of={adapters[0]!r} "
                    "(--spatial_prompts_of). Scores of the other adapters' classes will change"
                )
    return adapters[0]


def _held(layer: PromptLayer, adapter: str) -> list[str]:
    """The attributes that hold tensors of an adapter."""
    return [
        attribute
        for attribute in layer.adapter_layer_names + layer.other_param_names
        if adapter in getattr(layer, attribute)
    ]


def _join_rows(layer: PromptLayer, attribute: str, configs: dict[str, PromptConfig], rows: Rows) -> torch.Tensor:
    """The chosen rows of the adapters' tensors, and the fixed ones behind them."""
    tensors = {name: getattr(layer, attribute)[name].detach() for name in configs}
    lengths = {name: tensor.shape[1] if tensor.ndim > 1 else 0 for name, tensor in tensors.items()}
    if len(set(lengths.values())) > 1:
        if not layer.slot.pads_tokens:
            raise AdapterError(f"the class prompts of the adapters have different numbers of tokens: {lengths}")
        for name, tensor in tensors.items():
            missing = max(lengths.values()) - lengths[name]
            tensors[name] = F.pad(tensor, (*[0, 0] * (tensor.ndim - 2), 0, missing))
    fixed = {name: tensor[len(configs[name].class_names) :] for name, tensor in tensors.items()}
    first, *others = fixed.values()
    if not all(torch.equal(first, other) for other in others):
        raise AdapterError("the adapters differ in the prompts that are not learned, which all classes share")
    return torch.cat([torch.stack([tensors[name][index] for name, index in rows.values()]), first])


def _weighted(layer: PromptLayer, attribute: str, adapters: list[str], weights: list[float]) -> torch.Tensor:
    """The weighted sum of what the adapters learned; or what they all have, if it is not learned."""
    first, *others = tensors = [getattr(layer, attribute)[name].detach() for name in adapters]
    equal = all(torch.equal(first, other) for other in others)
    if attribute in layer.other_param_names:
        if not equal:
            raise AdapterError(
                f"the adapters {adapters} start from different default prompts ({layer.slot.kind} ones), of which "
                "weighted sums mean nothing: train them from the same ones"
            )
        return first
    if equal and math.isclose(math.fsum(weights), 1):
        return first  # a sum would be rounded
    mixed = sum(weight * tensor for weight, tensor in zip(weights, tensors))
    if not mixed.isfinite().all():
        raise AdapterError(f"weights is {weights}, with which the sums are not finite: give smaller ones")
    return mixed


def _add(
    tuner: "PromptTuner",
    adapter_name: str,
    config: PromptConfig,
    tensors: dict[PromptLayer, dict[str, torch.Tensor]],
) -> None:
    """A new adapter with these tensors in the layers, or, where that fails, none."""
    tuner.peft_config[adapter_name] = config
    try:
        tuner.inject_adapter(tuner.model, adapter_name)
        for layer, found in tensors.items():
            _fill(layer, adapter_name, found)
    except Exception:
        for layer in filter(lambda layer: layer.has_adapter(adapter_name), tuner.prompt_layers()):
            layer.delete_adapter(adapter_name)
        del tuner.peft_config[adapter_name]
        raise


def _fill(layer: PromptLayer, adapter_name: str, tensors: dict[str, Any]) -> None:
    """Give a new adapter its tensors, whether it has begun with others or waits for them."""
    for attribute, tensor in tensors.items():
        held = getattr(layer, attribute)
        if adapter_name in held:
            held[adapter_name].data = tensor.detach().to(held[adapter_name], copy=True)
    layer.load_tensors(adapter_name, tensors)
