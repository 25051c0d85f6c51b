"""Everything taken from transformers beyond its public classes, and why."""

import json
import os
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download
from peft import PeftConfig
from peft.functional import (
    delete_adapter,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_adapter,
    set_peft_model_state_dict,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

# Modelling: the activation functions by name, and the decorator that lets `return_dict=False` give a tuple.
from transformers.activations import ACT2FN

# The bytes of CLIP's vocabulary as characters, for the tokenizer of seem-lite and seem-nano.
from transformers.convert_slow_tokenizer import bytes_to_unicode

# Tells before a model is loaded whether a tracker of `report_to` is there.
from transformers.integrations import get_reporting_integration_callbacks

# Attention masks for text encoders that are entered with word embeddings, which their own `forward` does not take.
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

# Backbones of SEEM are made of the blocks of models that are in transformers.
from transformers.models.florence2.modeling_florence2 import Florence2VisionBlock, Florence2VisionConvEmbed
from transformers.models.focalnet.modeling_focalnet import FocalNetDropPath

# SEEM's deformable pixel decoder is Mask2Former's, and so are its matching and its losses.
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    Mask2FormerSinePositionEmbedding,
    multi_scale_deformable_attention,
)
from transformers.models.sam.modeling_sam import SamVisionAttention, SamVisionLayer

# What `Sam3Model.forward` takes in place of pixel values.
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput
from transformers.utils.generic import can_return_tuple

# Without it transformers would look for adapters of a Hub id only after it has looked for a whole model.
from transformers.utils.peft_utils import find_adapter_config_file

from ..errors import AdapterError
from ..utils.hub import checked_file
from .registry import ADAPTER_WEIGHTS, BASE_MODELS, family, load_prompt_methods

__all__ = [
    "ACT2FN",
    "Florence2VisionBlock",
    "Florence2VisionConvEmbed",
    "FocalNetDropPath",
    "LoadsPromptAdapters",
    "Mask2FormerLoss",
    "Mask2FormerPixelDecoder",
    "Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention",
    "Mask2FormerSinePositionEmbedding",
    "Sam3VisionEncoderOutput",
    "SamVisionAttention",
    "SamVisionLayer",
    "bytes_to_unicode",
    "can_return_tuple",
    "create_bidirectional_mask",
    "create_causal_mask",
    "find_adapter_config_file",
    "get_reporting_integration_callbacks",
    "multi_scale_deformable_attention",
    "replace_modules",
]


def replace_modules(root: nn.Module, replacements: dict[type, Any]) -> None:
    """
    Put our versions of modules, with the same parameters, in the places of transformers' own.

    Args:
        root: whose descendants are looked at.
        replacements: exact class -> function from a module of it to ours. The function makes the module; its
            parameters and buffers become those of the old one, of the same names.
    """
    for name, child in list(root.named_children()):
        make = replacements.get(type(child))
        if make is None:
            replace_modules(child, replacements)
            continue
        with torch.device("meta"):
            ours = make(child)
        tensors = *child.named_parameters(remove_duplicate=False), *child.named_buffers(remove_duplicate=False)
        for key, tensor in tensors:
            path, _, attribute = key.rpartition(".")
            setattr(ours.get_submodule(path), attribute, tensor)
        for key, module in child.named_modules():
            # what transformers has initialised by rules of its own must not be initialised again by ours
            if hasattr(module, "_is_hf_initialized"):
                ours.get_submodule(key)._is_hf_initialized = module._is_hf_initialized
        setattr(root, name, ours.train(child.training))


class AdapterLoadInfo(NamedTuple):
    """What `from_pretrained` of transformers wants to know of an adapter: always empty, as missing or unknown tensors
    raise."""

    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as `output_loading_info=True` gives it."""
        return {**self._asdict(), "mismatched_keys": (), "error_msgs": ()}


class LoadsPromptAdapters:
    """
    For a `PreTrainedModel` that is a `PromptableModel`: transformers' own `load_adapter`, `set_adapter` and so on, for
    prompts. Afterwards the model's configuration names the classes of the adapter that is active, or its own.

    Adapters of prompts are loaded by PEFT's functions: transformers would need to know the shapes of their tensors
    before it reads them, and takes whatever else a file holds for the base model's. They are switched by PEFT's
    functions, too: transformers refuses to when PEFT is older than the release it was tested with, which may not be
    out yet.
    """

    missing_weights: tuple[str, ...] = ()
    """Weights that the files did not have, after `from_pretrained`."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in `transformers`; also by a name of `models/registry.py`, and of an adapter that knows its base model by
        such a name, which transformers would look for on the Hub: the base model with the adapter loaded into it."""
        name = pretrained_model_name_or_path
        if name is None or os.path.isfile(os.path.join(name, "config.json")):
            return cls._from_files(name, *args, **kwargs)
        access = {key: kwargs[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs}
        if name in BASE_MODELS and not os.path.exists(name):
            path = family(BASE_MODELS[name].family).resolve(name, **access)
            if os.path.isdir(path):
                kwargs = {key: value for key, value in kwargs.items() if key not in access}
            return cls._from_files(path, *args, **kwargs)
        config, base = find_adapter_config_file(name, **access), None
        if config is not None:
            base = _base_of_adapter(config)
        if base not in BASE_MODELS:
            return cls._from_files(name, *args, **kwargs)
        told = kwargs.pop("output_loading_info", False)
        own = {key: value for key, value in kwargs.items() if key != "revision"}
        model, info = cls.from_pretrained(base, *args, output_loading_info=True, **own)
        model.load_adapter(name, **access)
        return (model, info) if told else model

    @classmethod
    def _from_files(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any):
        """`from_pretrained` of transformers; the model then knows what its files lacked."""
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model.missing_weights = tuple(info["missing_keys"])
        return (model, info) if output_loading_info else model

    def load_adapter(
        self,
        peft_model_id: str | os.PathLike | None = None,
        adapter_name: str | None = None,
        peft_config: PeftConfig | dict | None = None,
        adapter_state_dict: dict[str, torch.Tensor] | None = None,
        is_trainable: bool = False,
        **kwargs: Any,
    ) -> Any:
        """
        As in `transformers`; also for adapters of other libraries, which it loads itself.

        Returns:
            an [`AdapterLoadInfo`] for an adapter of prompts.

        Raises:
            AdapterError: the file is damaged, or tensors are missing, unknown, of another shape or not finite. After
                any error the adapter is not kept.
        """
        load_prompt_methods()
        name, source = adapter_name or "default", peft_model_id
        load_config = kwargs.get("load_config")
        access = dict(getattr(load_config, "download_kwargs", None) or {}) | (kwargs.get("adapter_kwargs") or {})
        access |= {key: kwargs[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs}
        if source is None:
            source = getattr(load_config, "pretrained_model_name_or_path", None)
        if peft_config is None and source is not None:
            peft_config = PeftConfig.from_pretrained(source, **access)
        if not hasattr(peft_config, "base_model_fingerprint"):
            return super().load_adapter(
                peft_model_id, adapter_name, peft_config, adapter_state_dict, is_trainable=is_trainable, **kwargs
            )
        known = name in getattr(self, "peft_config", {})
        if known:
            raise ValueError(f"Adapter with name {name} already exists. Please use a different name.")
        peft_config.inference_mode = not is_trainable
        try:
            if adapter_state_dict is None:
                adapter_state_dict = _adapter_tensors(source, access)
            inject_adapter_in_model(peft_config, self, name)
            self._hf_peft_config_loaded = True
            set_peft_model_state_dict(self, adapter_state_dict, name)
        except Exception:
            if name in getattr(self, "peft_config", {}):
                self.delete_adapter(name)
            raise
        if not is_trainable:
            self.eval()
        self._after_switching_adapters()
        return AdapterLoadInfo()

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers`. Where an adapter is loaded it writes that one, the configuration first, which has to
        know the digest of the tensors that follow."""
        configs = getattr(self, "peft_config", {}) if getattr(self, "_hf_peft_config_loaded", False) else {}
        with ExitStack() as told:
            for name in self.active_adapters() if configs else ():
                if hasattr(configs[name], "base_model_fingerprint"):
                    told.enter_context(configs[name].expecting(self.get_adapter_state_dict(name)))
            return super().save_pretrained(save_directory, *args, **kwargs)

    def add_adapter(self, adapter_config: PeftConfig, adapter_name: str | None = None) -> None:
        """As in `transformers`."""
        name = adapter_name or "default"
        if not isinstance(adapter_config, PeftConfig):
            raise TypeError(f"adapter_config must be a PeftConfig, got {type(adapter_config).__name__}")
        if name in getattr(self, "peft_config", {}):
            raise ValueError(f"Adapter with name {name} already exists. Please use a different name.")
        adapter_config.base_model_name_or_path = self.name_or_path
        inject_adapter_in_model(adapter_config, self, name)
        self._hf_peft_config_loaded = True
        self.set_adapter(name)

    def set_adapter(self, adapter_name: list[str] | str) -> None:
        """As in `transformers`."""
        self._check_adapter_names([adapter_name] if isinstance(adapter_name, str) else adapter_name)
        set_adapter(self, adapter_name)
        self._after_switching_adapters()

    def enable_adapters(self) -> None:
        """As in `transformers`."""
        self._switch_adapters(True)

    def disable_adapters(self) -> None:
        """As in `transformers`."""
        self._switch_adapters(False)

    def active_adapters(self) -> list[str]:
        """As in `transformers`."""
        self._check_adapter_names([])
        return next(module.active_adapters for module in self.modules() if isinstance(module, BaseTunerLayer))

    def get_adapter_state_dict(
        self, adapter_name: str | None = None, state_dict: dict[str, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """As in `transformers`."""
        name = self.active_adapters()[0] if adapter_name is None else adapter_name
        self._check_adapter_names([name])
        return get_peft_model_state_dict(self, state_dict=state_dict, adapter_name=name)

    def delete_adapter(self, adapter_names: list[str] | str) -> None:
        """As in `transformers`."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        self._check_adapter_names(names)
        for name in names:
            delete_adapter(self, name, prefix=f"{self.peft_config[name].peft_type.value.lower()}_")
            del self.peft_config[name]
        if not self.peft_config:
            del self.peft_config
            self._hf_peft_config_loaded = False
        self._after_switching_adapters()

    def _check_adapter_names(self, names: list[str]) -> None:
        known = list(getattr(self, "peft_config", {})) if self._hf_peft_config_loaded else []
        if not known:
            raise ValueError("No adapter loaded. Please load an adapter first.")
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"there are no adapters named {missing}; there are {known}")

    def _switch_adapters(self, enabled: bool) -> None:
        self._check_adapter_names([])
        for module in self.modules():
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                module.enable_adapters(enabled)
        self._after_switching_adapters()

    def _after_switching_adapters(self):
        slot = self.get_submodule(self.prompt_slots[self.semantic_slot].path)
        tell = getattr(slot, "after_switching", None)  # of a tuner's layer around the slot
        if tell is not None:
            tell(self)


def _base_of_adapter(config_file: str) -> str | None:
    try:
        with open(config_file, encoding="utf-8") as file:
            return json.load(file).get("base_model_name_or_path")
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise AdapterError(f"{config_file} is damaged: it is no JSON of an adapter ({error})") from error


def _adapter_tensors(source: str | os.PathLike, access: dict[str, Any]) -> dict[str, torch.Tensor]:
    """
    The tensors of an adapter's file; never a pickle, which PEFT would fall back to.

    Raises:
        AdapterError: the file is missing or damaged.
    """
    path = os.path.join(source, ADAPTER_WEIGHTS)
    if not os.path.isdir(source):
        download = partial(hf_hub_download, os.fspath(source), ADAPTER_WEIGHTS, **access)
        path = checked_file(download, f"{ADAPTER_WEIGHTS} of {os.fspath(source)!r}")
    elif not os.path.isfile(path):
        raise AdapterError(f"{source} lacks {ADAPTER_WEIGHTS}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"the adapter {source} is damaged ({error})") from error
