"""The tuner of prompt slots: what all prompt methods share of it."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ...errors import AdapterError
from ...models.fingerprint import fingerprint_difference, model_fingerprint
from .config import ANY_BASE_MODEL, PromptConfig, current_versions
from .layer import PromptLayer

CLASS_SLOT = "class_embeddings"
POINT_SLOTS = {"point_tokens": "num_point_tokens", "point_coordinates": "num_point_coordinates"}
"""Slots that are empty in base models, and the fields that tell how many points a merged one holds."""


class PromptTuner(BaseTuner):
    """
    Wraps the prompt slots of a model as LoRA wraps its linear layers.

    A model shows its slots by `prompt_slots`, a dict of slot names to module paths. A method says by `_slots` which of
    them a configuration needs, and by `_update_layer` how an adapter is added to one.
    """

    # What PEFT looks for when it merges, deletes or switches adapters; `layer_cls` is what the method itself adds.
    tuner_layer_cls = PromptLayer
    layer_cls: type[PromptLayer]
    target_module_mapping: dict[str, list[str]] = {}

    def _slots(self, config: PromptConfig) -> list[str]:
        """Names of the slots that an adapter with this configuration has prompts for."""
        raise NotImplementedError

    def _new_layer(self, slot: str, base_layer: nn.Module, like: torch.Tensor) -> PromptLayer:
        raise NotImplementedError

    def _update_layer(self, layer: PromptLayer, slot: str, adapter_name: str, config: PromptConfig) -> None:
        raise NotImplementedError

    # Classes: the base model's own, and the active adapter's while it is active.

    def _class_layer(self) -> PromptLayer | None:
        path = getattr(self.model, "prompt_slots", {}).get(CLASS_SLOT)
        module = None if path is None else self.model.get_submodule(path)
        return module if isinstance(module, PromptLayer) else None

    def _config_classes(self) -> dict:
        config = getattr(self.model, "config", None)
        return {name: getattr(config, name, None) for name in ("class_names", "thing_class_ids")}

    def base_classes(self) -> dict:
        """`class_names` and `thing_class_ids` of the base model, whatever adapter is active."""
        layer = self._class_layer()
        if layer is None:
            return self._config_classes()
        if layer.base_classes is None:
            layer.base_classes = self._config_classes()
        return layer.base_classes

    def _class_rows(self, config: PromptConfig) -> torch.Tensor | None:
        """
        The default class embeddings `(classes + 1, D)` of a new adapter: the base model's, or NaN, in the right shape,
        if they are still to come from the adapter's files.
        """
        slot = self.model.get_submodule(self.model.prompt_slots[CLASS_SLOT])
        rows = slot.base_prompt if isinstance(slot, PromptLayer) else slot()
        names = config.class_names
        same = names == self.base_classes()["class_names"] or self.base_classes()["class_names"] is None
        if rows is not None and same and (names is None or len(rows) == len(names) + 1):
            return rows
        like = next(self.model.parameters()) if rows is None else rows
        width = self.model.config.projection_dim if rows is None else rows.shape[-1]
        return like.new_full((len(names) + 1, width), torch.nan)

    def _sync_classes(self, adapter_name: str | None) -> None:
        """Let the model's configuration name the classes of an adapter, or (`None`) the base model's own."""
        layer = self._class_layer()
        if layer is not None and hasattr(getattr(self.model, "config", None), "class_names"):
            self.base_classes()  # before they are written over
            layer.write_classes(self.model.config, self.peft_config.get(adapter_name))

    # Creating adapters

    def _prepare_adapter_config(self, peft_config: PromptConfig, model_config: dict) -> PromptConfig:
        slots = getattr(self.model, "prompt_slots", None)
        if not slots:
            raise AdapterError(
                f"{type(self.model).__name__} has no prompt slots (attribute prompt_slots): prompts can be learned "
                "for SeemForUniversalSegmentation and models like it"
            )
        is_new = peft_config.base_model_fingerprint is None
        if is_new:
            peft_config.base_model_fingerprint = model_fingerprint(self.model)
            peft_config.versions = peft_config.versions or current_versions()
        elif peft_config.base_model_fingerprint != ANY_BASE_MODEL:
            self._check_fingerprint(peft_config.base_model_fingerprint, peft_config.base_model_name_or_path)
        self._check_classes(peft_config, is_new)
        names = self._slots(peft_config)
        missing = [name for name in names if name not in slots]
        if missing or not names:
            raise AdapterError(
                f"the configuration asks for the prompt slots {names}, of which {type(self.model).__name__} has only "
                f"{sorted(set(names) & set(slots))}"
            )
        peft_config.target_modules = [slots[name] for name in names]
        return peft_config

    def _check_fingerprint(self, expected: str, name: str | None) -> None:
        found = model_fingerprint(self.model)
        difference = fingerprint_difference(found, expected)
        if difference is not None:
            raise AdapterError(
                f"the adapter was made for another base model ({name or 'unnamed'}, fingerprint {expected}); this one "
                f"({getattr(self.model, 'name_or_path', '') or 'unnamed'}, fingerprint {found}) has another "
                f"{difference.replace('weights', 'set of weights')}. Load that base model, or set "
                f"base_model_fingerprint to {ANY_BASE_MODEL!r} in the adapter's configuration to try it on this one"
            )

    def _check_classes(self, config: PromptConfig, is_new: bool) -> None:
        base = self.base_classes()
        if config.class_names is None:
            config.class_names = None if base["class_names"] is None else list(base["class_names"])
            if config.thing_class_ids is None and base["thing_class_ids"] is not None:
                config.thing_class_ids = list(base["thing_class_ids"])
        elif is_new and base["class_names"] != config.class_names and hasattr(self.model, "config"):
            holds = "no classes" if base["class_names"] is None else f"{len(base['class_names'])} other ones"
            raise AdapterError(
                f"the adapter is for the {len(config.class_names)} classes {config.class_names[:3]}..., the base "
                f"model holds the embeddings of {holds}: call model.set_class_names(names, tokenizer) first"
            )
        elif config.thing_class_ids is None and base["class_names"] == config.class_names:
            things = base["thing_class_ids"]
            config.thing_class_ids = None if things is None else list(things)

    @staticmethod
    def _check_target_module_exists(peft_config: PromptConfig, key: str) -> bool:
        return key in peft_config.target_modules

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None
    ) -> None:
        slot = next(name for name, path in self.model.prompt_slots.items() if path == current_key)
        self.unmerge_adapter()
        layer = self._own_layer(slot)
        if layer is None:
            classes = self.base_classes()
            layer = self._new_layer(slot, target, like=next(self.model.parameters()))
            layer.base_classes = classes if slot == CLASS_SLOT else None
            self._replace_module(parent, target_name, layer, target)
        self._update_layer(layer, slot, adapter_name, peft_config)

    def _own_layer(self, slot: str) -> PromptLayer | None:
        """The layer of this method around a slot, which the layers of other methods may surround."""
        module = self.model.get_submodule(self.model.prompt_slots[slot])
        while isinstance(module, PromptLayer):
            if isinstance(module, self.layer_cls):
                return module
            module = module.base_layer
        return None

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        """As in PEFT; an adapter of another method is added by that method's tuner, as transformers would do it."""
        config = self.peft_config[adapter_name]
        tuner_cls = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
        if tuner_cls is type(self):
            # It is completed with what is known of this model; the caller may want the same for another one.
            self.peft_config[adapter_name] = copy.copy(config)
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            return
        active = self.active_adapters
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            tuner_cls(model, {adapter_name: config}, adapter_name, kwargs.get("low_cpu_mem_usage", False))
        self.set_adapter(active, inference_mode=any(self.peft_config[name].inference_mode for name in active))

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # Whether layers of other methods surround this one is nothing that an adapter's file should know.
        path = super()._remove_adapter_name_from_key(key, adapter_name).split(".")
        return ".".join(part for part in path if part != "base_layer")

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's version moves the new module to the device of the old one's parameters; a slot may have none.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Nothing to do: adapters are made in float32, and too small to gain from less."""

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        """As in PEFT, after a look at names, shapes and values."""
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        own = {}
        for path, layer in model.named_modules():
            if isinstance(layer, PromptLayer):
                own |= {
                    f"{path}.{attribute}.{adapter_name}": getattr(layer, attribute)[adapter_name]
                    for attribute in layer.adapter_layer_names + layer.other_param_names
                    if adapter_name in getattr(layer, attribute)
                }
        check_adapter_tensors({name: tuple(tensor.shape) for name, tensor in own.items()}, remapped)
        return remapped

    # Using adapters

    def train(self, mode: bool = True) -> "PromptTuner":
        """The base model stays as in evaluation: it is frozen, and stochastic depth would only blur its features."""
        super().train(mode)
        self.model.eval()
        return self

    def _check_one(self, adapter_name: str | list[str]) -> str | None:
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        if len(names) > 1:
            raise AdapterError(f"adapters {names} cannot be active together: each says what the prompts are")
        return names[0] if names else None

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As in PEFT; the model's configuration then names the adapter's classes."""
        name = self._check_one(adapter_name)
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._sync_classes(name)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        if was_active:
            # Slots may hold different adapters, and each chose a new one for itself.
            remaining = sorted(self.peft_config)[:1]
            self.set_adapter(remaining[0] if remaining else [])

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self._sync_classes(self._check_one(self.active_adapters) if enabled else None)

    def _layers(self) -> list[PromptLayer]:
        return [module for module in self.model.modules() if isinstance(module, PromptLayer)]

    @contextmanager
    def zero_shot(self) -> Iterator[None]:
        """The base model with its own spatial prompts and the default embeddings of the active adapter's classes."""
        merged = next((layer.merged_adapters[:] for layer in self._layers() if layer.merged), None)
        active = self.active_adapters
        if merged:
            self.unmerge_adapter()
        for layer in self._layers():
            layer.zero_shot = True
        try:
            yield
        finally:
            for layer in self._layers():
                layer.zero_shot = False
            if merged:
                # another one, if it was made the active one meanwhile
                self.merge_adapter(merged if active == self.active_adapters else None)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """As in PEFT, after taking out what was merged before, perhaps by another method."""
        self.unmerge_adapter()
        super().merge_adapter(adapter_names, safe_merge)

    def unmerge_adapter(self) -> None:
        """As in PEFT, without complaints about slots that nothing was merged into."""
        for layer in self._layers():
            if layer.merged:
                layer.unmerge()

    def _unload_and_optionally_merge(
        self, merge: bool = True, progressbar: bool = False, safe_merge: bool = False, adapter_names=None
    ) -> nn.Module:
        names = self._check_one(self.active_adapters if adapter_names is None else adapter_names)
        self.unmerge_adapter()
        self._sync_classes(names if merge else None)
        if merge:
            self.merge_adapter(adapter_names, safe_merge)
        # Nothing is left to merge: what the slots hold now stays there.
        model = super()._unload_and_optionally_merge(merge=False, progressbar=progressbar)
        for slot, field in POINT_SLOTS.items():
            if slot in model.prompt_slots and hasattr(getattr(model, "config", None), field):
                points = model.get_submodule(model.prompt_slots[slot]).weight
                setattr(model.config, field, None if points is None else points.shape[-2])
        return model


def check_adapter_tensors(expected: dict[str, tuple[int, ...]], tensors: dict[str, torch.Tensor]) -> None:
    """
    Raises:
        AdapterError: tensors are missing or unknown, or have another shape or values that are not finite.
    """
    if missing := sorted(set(expected) - set(tensors)):
        raise AdapterError(
            f"the adapter's file lacks {missing[0]} ({len(missing)} of {len(expected)} tensors missing)"
        )
    if unknown := sorted(set(tensors) - set(expected)):
        raise AdapterError(f"the adapter's file holds {unknown[0]}, which its configuration has no use for")
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if found != shape:
            hint = " (one row a class, and one for the background)" if CLASS_SLOT in name else ""
            raise AdapterError(
                f"{name} has shape {found} in the adapter's file; configuration and base model need {shape}{hint}"
            )
        if not tensors[name].is_floating_point():
            raise AdapterError(f"{name} has the type {tensors[name].dtype} in the adapter's file; prompts are floats")
        if not tensors[name].isfinite().all():
            raise AdapterError(f"{name} holds values that are not finite: the adapter's file is damaged")
