"""The wrapper of a prompt slot: what all prompt methods share of it."""

import warnings

import torch
from peft import PeftConfig
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ...errors import AdapterError


def root_mean_square(prompts: torch.Tensor) -> float:
    """The usual size of a number in `prompts`."""
    return float(prompts.detach().float().square().mean().sqrt())


LOAD_CLASSES = "load them with the adapter's files, or set the class names of the base model first"


class PromptLayer(nn.Module, BaseTunerLayer):
    """
    Stands in for a prompt slot of the base model and returns the active adapter's prompts instead of the slot's own.

    A slot is a module without inputs: `forward()` returns `slot.weight`, a parameter or buffer, which may be `None`
    in a base model that has no such prompts. Methods say what an adapter's prompts are in `adapter_prompt`. The layers
    of several methods may wrap each other around one slot; a layer without an active adapter lets the inner one speak.

    Args:
        base_layer (`nn.Module`): the slot, or the layer of another method around it.
        like (`torch.Tensor`): any tensor of the base model; prompts take its dtype where the slot has none.
    """

    def __init__(self, base_layer: nn.Module, like: torch.Tensor):
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []
        # PEFT declares these on the class; an instance that changes them needs its own.
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._active_adapter: list[str] = []
        self.holds_classes = False
        self.zero_shot = False
        # Names and thing ids of the slot's own classes; None if they have to be read from the model's configuration.
        self.base_classes: dict | None = None
        # Adapters whose stored default prompts have not been looked at yet.
        self._unchecked_defaults: set[str] = set()
        # What the slot held before merging. Buffers, so that they follow the model to other devices; never saved.
        self.unmerged = BufferDict(persistent=False)
        self.register_buffer("reference", like.detach().new_empty(0), persistent=False)

    def default_prompt(self, adapter_name: str) -> torch.Tensor | None:
        """The default prompts `z` that the adapter starts from; by default those of the slot."""
        return self.base_prompt

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """The adapter's prompts, in any floating-point dtype."""
        raise NotImplementedError

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """
        What a learning rate of 1 means for the adapter's `parameter` (one of `adapter_layer_names`).

        Prompts of different kinds, and of different base models, differ in size by more than ten times, and Adam's
        steps do not depend on it. In units of that size one learning rate suits them all.
        """
        return 1.0

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether the adapter says anything about this slot."""
        return adapter_name in self._all_available_adapter_names()

    @property
    def base_prompt(self) -> torch.Tensor | None:
        """The slot's own prompts, also while an adapter is merged into it."""
        if not self.merged:
            return self.base_layer.base_prompt if isinstance(self.base_layer, PromptLayer) else self.base_layer()
        return self.unmerged["weight"] if self.unmerged else None

    @property
    def weight(self) -> torch.Tensor | None:
        return self.base_layer.weight

    @weight.setter
    def weight(self, value: torch.Tensor | None) -> None:
        # A model that is given new class names writes into its slot without knowing that it is wrapped.
        if self.merged:
            self.unmerge()
        self.base_layer.weight = value
        self.base_classes = None

    def write_classes(self, model_config: PretrainedConfig, adapter: PeftConfig | None) -> None:
        """Let the model's configuration name the classes of an adapter's configuration, or else the slot's own."""
        classes = self.base_classes
        if getattr(adapter, "class_names", None) is not None:  # an adapter of another library has none
            classes = {"class_names": adapter.class_names, "thing_class_ids": adapter.thing_class_ids}
        for name, value in (classes or {}).items():
            setattr(model_config, name, None if value is None else list(value))
        if model_config.class_names is not None:
            model_config.id2label = dict(enumerate(model_config.class_names))
            model_config.label2id = {name: index for index, name in enumerate(model_config.class_names)}

    def after_switching(self, model: PreTrainedModel) -> None:
        """Called by a base model whose adapters were switched by transformers, which knows nothing of classes."""
        adapters = {} if self.disable_adapters else getattr(model, "peft_config", {})
        active = [name for name in self.active_adapters if name in adapters]
        self.write_classes(model.config, adapters[active[0]] if active else None)

    def _checked_default(self, adapter_name: str, default: torch.Tensor, kind: str, remedy: str) -> torch.Tensor:
        """
        Stored default prompts, which are NaN until they are known; they are looked at once, before their first use.

        Raises:
            AdapterError: they are not finite.
        """
        if adapter_name in self._unchecked_defaults and not torch.compiler.is_compiling():
            if not default.isfinite().all():
                raise AdapterError(
                    f"the default {kind} prompts of adapter {adapter_name!r} are missing or not finite: {remedy}"
                )
            self._unchecked_defaults.discard(adapter_name)
        return default

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self._unchecked_defaults.discard(adapter_name)
        super().delete_adapter(adapter_name)

    def _adapter_here(self, adapter_names: list[str]) -> str | None:
        names = [name for name in adapter_names if self.has_adapter(name)]
        if len(names) > 1:
            raise AdapterError(f"adapters {names} are active together, but only one can say what the prompts are")
        return names[0] if names else None

    def _cast(self, prompt: torch.Tensor) -> torch.Tensor:
        """To what the decoder computes with: the base may be in half precision while adapters stay in float32."""
        base = getattr(self.base_layer, "weight", None)
        return prompt.to((self.reference if base is None else base).dtype)

    def forward(self) -> torch.Tensor | None:
        """Returns the slot's shape; another number of rows if the adapter has other classes."""
        if self.merged:
            return self.base_layer()
        adapter = self._adapter_here(self.active_adapters)
        if adapter is None:
            return self.base_layer()
        if self.disable_adapters or self.zero_shot:
            prompt = self.base_layer()
            # A base without classes of its own can only be asked about the adapter's.
            if self.holds_classes and (self.zero_shot or prompt is None):
                return self._cast(self.default_prompt(adapter))
            return prompt
        return self._cast(self.adapter_prompt(adapter))

    def enable_adapters(self, enabled: bool) -> None:
        """As in PEFT; disabling first takes a merged adapter out of the slot."""
        if not enabled and self.merged:
            self.unmerge()
        super().enable_adapters(enabled)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """
        Write the adapter's prompts into the slot; the slot's own are kept for `unmerge`.

        Raises:
            AdapterError: several adapters, a slot that cannot hold prompts, or, with `safe_merge`, prompts that are
                not finite.
        """
        adapter_names = check_adapters_to_merge(self, adapter_names)
        if not adapter_names:
            return
        if self.merged:
            self.unmerge()
        adapter = self._adapter_here(adapter_names)
        if adapter is None:
            return
        if not hasattr(self.base_layer, "weight"):
            raise AdapterError(
                f"{type(self.base_layer).__name__} has no place for prompts (no weight): adapter {adapter!r} cannot "
                "be merged into it"
            )
        prompt = self._cast(self.adapter_prompt(adapter)).detach().clone()
        if safe_merge and not prompt.isfinite().all():
            raise AdapterError(f"adapter {adapter!r} has prompts that are not finite: it seems to be broken")
        base = self.base_layer.weight
        if base is not None:
            self.unmerged["weight"] = base.detach()
        if isinstance(base, nn.Parameter):
            base.data = prompt
        else:
            self.base_layer.weight = prompt
        self.merged_adapters.append(adapter)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the slot its own prompts back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        base = self.unmerged.pop("weight") if self.unmerged else None
        if isinstance(self.base_layer.weight, nn.Parameter):
            self.base_layer.weight.data = base
        else:
            self.base_layer.weight = base
