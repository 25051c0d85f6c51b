"""The tuner of prompt slots: what all prompt methods share of it."""

import copy
import warnings
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ...errors import AdapterError
from ...models.fingerprint import fingerprint_difference, has_weights, model_fingerprint, weight_digests
from ...models.interface import PromptableModel, PromptSlot
from ..peft_compat import BaseTuner, compiled_in_place, tuner_class
from . import combining
from .calls import Lock, PromptsOfThreads, locked
from .checkpointing import checkpointed_layers
from .checks import check_adapter_name, check_adapter_tensors
from .config import ANY_BASE_MODEL, PEFT_PREFIX, PromptConfig, check_choice, check_digest, current_versions
from .layer import PromptLayer

logger = logging.get_logger(__name__)


class PromptTuner(PromptsOfThreads, BaseTuner):
    """
    Wraps the prompt slots of a [`PromptableModel`] as LoRA wraps its linear layers.

    A method says by `_slots` which slots a configuration needs, and by `_update_layer` how an adapter is added to one.
    """

    # What PEFT looks for when it merges, deletes or switches adapters; `layer_cls` is what the method itself adds.
    tuner_layer_cls = PromptLayer
    layer_cls: type[PromptLayer]
    target_module_mapping: dict[str, list[str]] = {}

    def __init__(self, model: nn.Module, *args: Any, **kwargs: Any):
        self.lock = Lock()  # before PEFT's constructor, which already injects an adapter
        super().__init__(compiled_in_place(model), *args, **kwargs)

    def _slots(self, config: PromptConfig) -> list[str]:
        """Names of the slots that an adapter with this configuration has prompts for."""
        raise NotImplementedError

    def _new_layer(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor) -> PromptLayer:
        return self.layer_cls(base_layer, slot, like)

    def _update_layer(self, layer: PromptLayer, adapter_name: str, config: PromptConfig) -> None:
        raise NotImplementedError

    # Classes: the base model's own, and the active adapter's while it is active.

    def _class_layer(self) -> PromptLayer | None:
        module = self.model.get_submodule(self.model.prompt_slots[self.model.semantic_slot].path)
        return module if isinstance(module, PromptLayer) else None

    def _config_classes(self) -> dict:
        return {name: getattr(self.model.config, name) for name in ("class_names", "thing_class_ids")}

    def base_classes(self) -> dict:
        """`class_names` and `thing_class_ids` of the base model, whatever adapter is active."""
        layer = self._class_layer()
        if layer is None:
            return self._config_classes()
        if layer.base_classes is None:
            layer.base_classes = self._config_classes()
        return layer.base_classes

    def _class_rows(self, config: PromptConfig) -> torch.Tensor | None:
        """The default semantic prompts of a new adapter: the base model's; None if they are still to come from the
        adapter's files."""
        slot = self.model.prompt_slots[self.model.semantic_slot]
        module = self.model.get_submodule(slot.path)
        rows = module.base_prompt if isinstance(module, PromptLayer) else module.weight
        names, own = config.class_names, self.base_classes()["class_names"]
        if rows is None or (own is not None and names != own):
            return None
        fits = names is None or rows.shape[slot.row_dim] == len(names) + slot.num_fixed
        return rows if fits else None

    def _sync_classes(self, adapter_name: str | None) -> None:
        """Let the model's configuration name the classes of an adapter, or (`None`) the base model's own."""
        layer = self._class_layer()
        if layer is not None:
            self.base_classes()  # before they are written over
            layer.write_classes(self.model, self.peft_config.get(adapter_name))

    # Creating adapters

    def _prepare_adapter_config(self, peft_config: PromptConfig, model_config: dict) -> PromptConfig:
        if not isinstance(self.model, PromptableModel):
            raise AdapterError(
                f"{type(self.model).__name__} is no PromptableModel: prompts can be learned for the models of "
                "ssprompt_hf.models (load one by SSPromptModel.from_pretrained), and for your own as "
                "docs/add_a_base_model.md shows"
            )
        is_new = peft_config.base_model_fingerprint is None
        if is_new:
            peft_config.base_model_fingerprint = model_fingerprint(self.model)
            peft_config.base_model_digests = weight_digests(self.model)
            peft_config.versions = peft_config.versions or current_versions()
        elif peft_config.base_model_fingerprint != ANY_BASE_MODEL:
            self._check_fingerprint(peft_config)
        self._check_classes(peft_config, is_new)
        names = self._slots(peft_config)
        if not names:
            raise AdapterError(
                "the configuration asks for no prompts: the base model has no classes to learn them for"
            )
        peft_config.target_modules = [self.model.prompt_slots[name].path for name in names]
        return peft_config

    def _check_fingerprint(self, config: PromptConfig) -> None:
        expected, name = config.base_model_fingerprint, config.base_model_name_or_path
        found = model_fingerprint(self.model)
        difference = fingerprint_difference(found, expected)
        if difference is None and config.base_model_digests and not has_weights(self.model, config.base_model_digests):
            raise AdapterError(
                f"some weights of this base model ({getattr(self.model, 'name_or_path', '') or 'unnamed'}) are not "
                f"those that the adapter was made for ({name or 'unnamed'}): its files are damaged, or have been "
                "changed. Load them anew, or set base_model_fingerprint to "
                f"{ANY_BASE_MODEL!r} in the adapter's configuration to try it on this model"
            )
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
        elif is_new and base["class_names"] != config.class_names:
            holds = "no classes" if base["class_names"] is None else f"{len(base['class_names'])} other ones"
            raise AdapterError(
                f"the adapter is for the {len(config.class_names)} classes {config.class_names[:3]}..., the base "
                f"model holds the embeddings of {holds}: call model.set_class_names(names, tokenizer) first"
            )
        elif base["class_names"] != config.class_names and self.model.has_class_masks:
            raise AdapterError(
                f"the adapter is for the {len(config.class_names)} classes {config.class_names[:3]}..., and the base "
                "model was merged with an adapter that has masks of other classes: load it on the model without that"
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
        name = next(name for name, slot in self.model.prompt_slots.items() if slot.path == current_key)
        self.unmerge_adapter()
        layer = self._own_layer(name)
        if layer is None:
            slot, classes = self.model.prompt_slots[name], self.base_classes()
            layer = self._new_layer(target, slot, like=next(self.model.parameters()))
            layer.base_classes = classes if layer.holds_classes else None
            for thread in {number for other in self.prompt_layers() for number in other.prompts_of_calls}:
                layer.keep_for_call(thread)
            self._replace_module(parent, target_name, layer, target)
        self._update_layer(layer, adapter_name, peft_config)

    def _own_layer(self, slot: str) -> PromptLayer | None:
        """The layer of this method around a slot, which the layers of other methods may surround."""
        module = self.model.get_submodule(self.model.prompt_slots[slot].path)
        while isinstance(module, PromptLayer):
            if isinstance(module, self.layer_cls):
                return module
            module = module.base_layer
        return None

    @locked
    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As in PEFT; an adapter of another method is added by that method's tuner, as transformers would do it."""
        check_adapter_name(adapter_name)
        config = self.peft_config[adapter_name]
        tuner_cls = tuner_class(config.peft_type)
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
        return _without_layers(super()._remove_adapter_name_from_key(key, adapter_name))

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module) -> None:
        # PEFT's version moves the new module to the device of the old one's parameters; a slot may have none.
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Nothing to do: adapters are made in float32, and too small to gain from less."""

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        """As in PEFT, after a look at names, shapes and values. What the adapter lacks is made of the tensors."""
        # a model whose adapters transformers has loaded lacks the prefix that a PeftModel gives to all its names
        tensors = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in state_dict.items()}
        layers = {
            path: layer
            for path, layer in model.named_modules()
            if isinstance(layer, PromptLayer) and layer.has_adapter(adapter_name)
        }
        stems = {path: _without_layers(path.removeprefix(PEFT_PREFIX)) for path in layers}
        shapes = {path: layer.tensor_shapes(adapter_name) for path, layer in layers.items()}
        expected = {
            f"{stems[path]}.{attribute}": shapes[path][attribute] for path in layers for attribute in shapes[path]
        }
        check_adapter_tensors(expected, tensors)
        check_digest(config, tensors, config.base_model_name_or_path or "the adapter")
        remapped = {}
        for path, layer in layers.items():
            own = {attribute: tensors[f"{stems[path]}.{attribute}"] for attribute in shapes[path]}
            layer.load_tensors(adapter_name, own)
            remapped |= {f"{path}.{attribute}.{adapter_name}": tensor for attribute, tensor in own.items()}
        return remapped

    # Using adapters

    def train(self, mode: bool = True) -> "PromptTuner":
        """
        The base model stays as in evaluation: it is frozen, and stochastic depth would only blur its features. Where
        activation checkpointing was asked for, the layers that gradients pass take part in it: they alone, and not
        what they are made of, are told that this is training, which transformers makes a condition of it.
        """
        super().train(mode)
        self.model.eval()
        for layer in self._checkpointed_layers() if mode else ():
            layer.training = True
        return self

    def _checkpointed_layers(self) -> list[nn.Module]:
        configs = (self.peft_config[name] for name in self.active_adapters)
        learns_words = any("words" in getattr(config, "needs", ()) for config in configs)
        return checkpointed_layers(self.model, adapted_kinds(self.model), learns_words)

    def activation_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """As in `transformers`; with a warning where there is nothing to save memory of."""
        self._enable_checkpointing("activation_checkpointing_enable", *args, **kwargs)

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """As in `transformers`, the older name of [`activation_checkpointing_enable`]."""
        self._enable_checkpointing("gradient_checkpointing_enable", *args, **kwargs)

    def _enable_checkpointing(self, name: str, *args: Any, **kwargs: Any) -> None:
        getattr(self.model, name)(*args, **kwargs)
        if not self._checkpointed_layers():
            logger.warning(
                f"activation checkpointing saves nothing here: the gradient of these prompts passes no layer of "
                f"{type(self.model).__name__} that supports it"
            )
        self.train(self.training)

    def _check_one(self, adapter_name: str | list[str]) -> str | None:
        names = [adapter_name] if isinstance(adapter_name, str) else list(adapter_name)
        if len(names) > 1:
            raise AdapterError(f"adapters {names} cannot be active together: each says what the prompts are")
        return names[0] if names else None

    @locked
    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """As in PEFT; the model's configuration then names the adapter's classes."""
        name = self._check_one(adapter_name)
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._sync_classes(name)

    @locked
    @torch.no_grad()
    def add_weighted_adapter(
        self, adapters: list[str], weights: list[float], adapter_name: str, combination_type: str = "linear"
    ) -> None:
        """
        A new adapter whose learned numbers are weighted sums of those of others: the mean of several seeds, or
        something between two domains. Default prompts are not summed. It is not made the active one.

        Args:
            adapters: names of adapters of one method, for the same classes and with the same settings.
            weights: one each; they usually sum to 1.
            adapter_name: what to call the new one.
            combination_type: as in PEFT; plain sums, `"linear"`, are the only ones, as the others are for low-rank
                matrices.

        Raises:
            AdapterError: a name that is not there or is taken, other numbers of names and weights, a weight that is
                not finite, another `combination_type`, adapters that do not belong together or start from different
                default prompts, or a method that learns words, of which class embeddings have to be made.
        """
        check_choice("combination_type", combination_type, ("linear",))
        combining.add_weighted(self, adapters, weights, adapter_name)

    @locked
    @torch.no_grad()
    def join_adapters(
        self,
        adapters: list[str],
        adapter_name: str,
        spatial_prompts_of: str | None = None,
        shared_classes: str = "error",
    ) -> None:
        """
        A new adapter with the classes of several, each with the prompt that it has learned. It is not made the active
        one.

        Models that score each class by itself (SAM 3, SAM, CLIPSeg) give each class the scores that it has in its own
        adapter, bit for bit as far as classes do not share a batch, if the spatial prompts are the same there. In SEEM
        the masks and the similarities of each class stay; its classes share their probability out by a softmax, so
        that every class more takes some from the others.

        Args:
            adapters: names of adapters of one method, with the same settings for their class prompts. Their order is
                that of the classes.
            adapter_name: what to call the new one.
            spatial_prompts_of: the one of `adapters` whose spatial prompts the new one has; not needed where all have
                the same.
            shared_classes: what becomes of a class that several adapters have: `"error"`, or the prompt of the
                `"first"` or the `"last"` of them.

        Raises:
            AdapterError: a name that is not there or is taken, adapters that do not belong together, a class in
                several of them, different spatial prompts, or a method that learns words.
        """
        combining.join(self, adapters, adapter_name, spatial_prompts_of, shared_classes)

    @locked
    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        was_active = adapter_name in self.active_adapters
        super().delete_adapter(adapter_name)
        if was_active:
            # Slots may hold different adapters, and each chose a new one for itself.
            remaining = sorted(self.peft_config)[:1]
            self.set_adapter(remaining[0] if remaining else [])

    @locked
    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self._sync_classes(self._check_one(self.active_adapters) if enabled else None)

    def prompt_layers(self) -> list[PromptLayer]:
        """Of all methods."""
        return [module for module in self.model.modules() if isinstance(module, PromptLayer)]

    @locked
    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """As in PEFT, after taking out what was merged before, perhaps by another method."""
        self.unmerge_adapter()
        super().merge_adapter(adapter_names, safe_merge)

    @locked
    def unmerge_adapter(self) -> None:
        """As in PEFT, without complaints about slots that nothing was merged into."""
        for layer in self.prompt_layers():
            if layer.merged:
                layer.unmerge()

    @locked
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
        model.prompts_written()
        return model


def _without_layers(path: str) -> str:
    """The path of a slot in the bare base model."""
    return ".".join(part for part in path.split(".") if part != "base_layer")


def adapted_kinds(model: PromptableModel) -> set[str]:
    """The kinds of prompts that layers of any method stand in for."""
    slots = model.prompt_slots.values()
    return {slot.kind for slot in slots if isinstance(model.get_submodule(slot.path), PromptLayer)}
