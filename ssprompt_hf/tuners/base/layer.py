"""The layer around a prompt slot: what all prompt methods share of it."""

import threading
import warnings

import torch
from torch import nn

from ...errors import AdapterError
from ...models.interface import SEMANTIC, PromptableModel, PromptSlot
from ..peft_compat import BaseTunerLayer, BufferDict, check_adapters_to_merge
from .config import PromptConfig

Shape = tuple[int | None, ...]
"""Of a tensor in an adapter's file; None where any number will do."""


class OfThreads(dict):
    """What each thread has of a model, by its number; a copy of the model begins without."""

    def __reduce__(self) -> tuple:
        return OfThreads, ()


def root_mean_square(prompts: torch.Tensor) -> float:
    """The usual size of a number in `prompts`."""
    return float(prompts.detach().float().square().mean().sqrt())


class PromptLayer(nn.Module, BaseTunerLayer):
    """
    Stands in for a prompt slot of the base model and has the active adapter's prompts in place of the slot's own.

    `layer.weight` and `layer()` are the prompts in force: the adapter's, or, while it is disabled, the slot's. Models
    read either. Methods say what an adapter's prompts are in `adapter_prompt`. The layers of several methods may
    surround one slot; a layer without an active adapter lets the inner one speak.

    An adapter that is loaded from files may be *pending*: the layer knows its configuration, and the tensors are yet
    to come, because only the files know their shapes (`load_tensors`).

    Args:
        base_layer (`nn.Module`): the slot, or the layer of another method around it.
        slot (`PromptSlot`): what it holds.
        like (`torch.Tensor`): any tensor of the base model; prompts take its dtype where the slot has none.
    """

    # Asked for by `peft.helpers.disable_input_dtype_casting`; a slot has no input.
    cast_input_dtype_enabled = True

    def __init__(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor):
        super().__init__()
        self.base_layer = base_layer
        self.slot = slot
        self.merged_adapters: list[str] = []
        # PEFT declares these on the class; an instance that changes them needs its own.
        self.frozen_peft_weight_names: dict[str, tuple[str, ...]] = {}
        self._active_adapter: list[str] = []
        self.configs: dict[str, PromptConfig] = {}
        self.pending: set[str] = set()
        # By thread: the prompts that it sees in place of those in force; see `PromptTuner.use_adapter`.
        self.prompts_of_calls: dict[int, torch.Tensor | None] = OfThreads()
        # Names and thing ids of the slot's own classes; None if they have to be read from the model's configuration.
        self.base_classes: dict | None = None
        # What the slot held before merging. Buffers, so that they follow the model to other devices; never saved.
        self.unmerged = BufferDict(persistent=False)
        self.register_buffer("reference", like.detach().new_empty(0), persistent=False)

    @property
    def holds_classes(self) -> bool:
        """Whether the prompts are semantic ones."""
        return self.slot.kind == SEMANTIC

    @property
    def adapter_dtype(self) -> torch.dtype:
        """float32 at least: adapters are small, and half precision would lose the steps of training."""
        return torch.promote_types(self.reference.dtype, torch.float32)

    # What methods say

    def default_prompt(self, adapter_name: str) -> torch.Tensor | None:
        """The default prompts `z` that the adapter starts from; by default those of the slot."""
        return self.base_prompt

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """The adapter's prompts, in any floating-point dtype."""
        raise NotImplementedError

    def tensor_shapes(self, adapter_name: str) -> dict[str, Shape]:
        """The tensors that the adapter's file must hold, by the attribute for them."""
        return {
            attribute: tuple(getattr(self, attribute)[adapter_name].shape)
            for attribute in self.adapter_layer_names + self.other_param_names
            if adapter_name in getattr(self, attribute)
        }

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """
        What a learning rate of 1 means for the adapter's `parameter` (one of `adapter_layer_names`).

        Prompts of different kinds, and of different base models, differ in size by more than ten times, and Adam's
        steps do not depend on it. In units of that size one learning rate suits them all.
        """
        return 1.0

    # Adapters

    def has_adapter(self, adapter_name: str) -> bool:
        """Whether the adapter says anything about this slot."""
        return adapter_name in self.configs

    def load_tensors(self, adapter_name: str, tensors: dict[str, torch.Tensor]) -> None:
        """
        Give an adapter the tensors that it lacks.

        Args:
            adapter_name: its name.
            tensors: of an adapter's file, by the attribute for them; see `tensor_shapes`.
        """
        config = self.configs[adapter_name]
        frozen = self.frozen_peft_weight_names.get(adapter_name, ())
        for attribute, tensor in tensors.items():
            if adapter_name in getattr(self, attribute):
                continue
            tensor = tensor.detach().to(self.reference.device, self.adapter_dtype, copy=True)
            if attribute in self.adapter_layer_names:
                learns = not config.inference_mode and attribute not in frozen
                tensor = nn.Parameter(tensor, requires_grad=learns)
            getattr(self, attribute)[adapter_name] = tensor
        self.pending.discard(adapter_name)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        """As in PEFT, which would also round the adapter to the precision of the base model."""
        for attribute in self.adapter_layer_names + self.other_param_names:
            held = getattr(self, attribute)
            if adapter_name in held and not held[adapter_name].is_meta:
                held[adapter_name] = held[adapter_name].to(self.reference.device if device is None else device)

    def _check_not_pending(self, adapter_name: str) -> None:
        if adapter_name in self.pending:
            remedy = "load them with the adapter's files, or set the class names of the base model first"
            if not self.holds_classes:
                remedy = "set them with set_point_tokens, or load them with the adapter's files"
            raise AdapterError(f"adapter {adapter_name!r} has no {self.slot.kind} prompts yet: {remedy}")

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self.configs.pop(adapter_name, None)
        self.pending.discard(adapter_name)
        super().delete_adapter(adapter_name)

    def _adapter_here(self, adapter_names: list[str]) -> str | None:
        names = [name for name in adapter_names if self.has_adapter(name)]
        if len(names) > 1:
            raise AdapterError(f"adapters {names} are active together, but only one can say what the prompts are")
        return names[0] if names else None

    def enable_adapters(self, enabled: bool) -> None:
        """As in PEFT; disabling first takes a merged adapter out of the slot."""
        if not enabled and self.merged:
            self.unmerge()
        super().enable_adapters(enabled)

    # Classes

    def write_classes(self, model: PromptableModel, adapter: PromptConfig | None) -> None:
        """Let the model's configuration name the classes of an adapter's configuration, or else the slot's own."""
        classes = self.base_classes
        if getattr(adapter, "class_names", None) is not None:  # an adapter of another library has none
            classes = {"class_names": adapter.class_names, "thing_class_ids": adapter.thing_class_ids}
        if classes:
            model.name_classes(**classes)

    def after_switching(self, model: PromptableModel) -> None:
        """Called by a base model whose adapters were switched by transformers, which knows nothing of classes."""
        adapters = {} if self.disable_adapters else getattr(model, "peft_config", {})
        active = [name for name in self.active_adapters if name in adapters]
        self.write_classes(model, adapters[active[0]] if active else None)

    # Prompts

    @property
    def _slot_module(self) -> nn.Module:
        """The base model's own module, inside all layers."""
        module = self.base_layer
        while isinstance(module, PromptLayer):
            module = module.base_layer
        return module

    @property
    def base_prompt(self) -> torch.Tensor | None:
        """The slot's own prompts, also while an adapter is merged into it."""
        if not self.merged:
            return self.base_layer.base_prompt if isinstance(self.base_layer, PromptLayer) else self.base_layer.weight
        return self.unmerged["weight"] if self.unmerged else None

    @property
    def weight(self) -> torch.Tensor | None:
        """The prompts in force, in the slot's shape; another number of rows if the adapter has other classes."""
        if self.prompts_of_calls and threading.get_ident() in self.prompts_of_calls:
            return self.prompts_of_calls[threading.get_ident()]
        if self.merged:
            return self.base_layer.weight
        adapter = self._adapter_here(self.active_adapters)
        if adapter is None:
            return self.base_layer.weight
        if self.disable_adapters:
            prompt = self.base_layer.weight
            # A base without classes of its own can only be asked about the adapter's.
            return self._cast(self.default_prompt(adapter)) if self.holds_classes and prompt is None else prompt
        return self._cast(self.adapter_prompt(adapter))

    def keep_for_call(self, thread: int) -> None:
        """Let a thread that sees prompts of its own choice go on seeing them, where this layer was put around a slot
        in the meantime."""
        inner = self.base_layer
        while thread not in self.prompts_of_calls:
            if not isinstance(inner, PromptLayer):
                prompt = inner.weight
                self.prompts_of_calls[thread] = None if prompt is None else prompt.detach()
            elif thread in inner.prompts_of_calls:
                self.prompts_of_calls[thread] = inner.prompts_of_calls[thread]
            else:
                inner = inner.base_layer

    def prompts_of(self, adapter_name: str | None, zero_shot: bool = False) -> torch.Tensor | None:
        """
        The prompts of an adapter, whichever is active or merged; with `zero_shot` those that it starts from.

        Args:
            adapter_name: its name; None, or one that says nothing about this slot, for the base model's own prompts.
            zero_shot: the default prompts of the adapter's classes, and the base model's own spatial prompts.
        """
        if adapter_name is None or not self.has_adapter(adapter_name):
            inner = self.base_layer
            return inner.prompts_of(adapter_name, zero_shot) if isinstance(inner, PromptLayer) else self.base_prompt
        if not zero_shot:
            return self._cast(self.adapter_prompt(adapter_name))
        return self._cast(self.default_prompt(adapter_name)) if self.holds_classes else self.base_prompt

    @weight.setter
    def weight(self, value: torch.Tensor | None) -> None:
        # A model that is given new class names writes into its slot without knowing that it is wrapped.
        if self.merged:
            self.unmerge()
        self.base_layer.weight = value
        self.base_classes = None

    def forward(self) -> torch.Tensor | None:
        """Returns `weight`."""
        return self.weight

    def _cast(self, prompt: torch.Tensor) -> torch.Tensor:
        """To what the decoder computes with: the base may be in half precision while adapters stay in float32."""
        base = self._slot_module.weight
        return prompt.to((self.reference if base is None else base).dtype)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """
        Write the adapter's prompts into the slot; the slot's own are kept for `unmerge`.

        Raises:
            AdapterError: several adapters, or, with `safe_merge`, prompts that are not finite.
        """
        adapter_names = check_adapters_to_merge(self, adapter_names)
        if not adapter_names:
            return
        if self.merged:
            self.unmerge()
        adapter = self._adapter_here(adapter_names)
        if adapter is None:
            return
        prompt = self._cast(self.adapter_prompt(adapter)).detach().clone()
        if safe_merge and not prompt.isfinite().all():
            raise AdapterError(f"adapter {adapter!r} has prompts that are not finite: it seems to be broken")
        base = self._slot_module.weight
        if base is not None:
            self.unmerged["weight"] = base.detach()
        if isinstance(base, nn.Parameter):
            base.data = prompt
        else:
            self._slot_module.weight = prompt
        self.merged_adapters.append(adapter)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the slot its own prompts back, bit for bit."""
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        self.merged_adapters.clear()
        base = self.unmerged.pop("weight") if self.unmerged else None
        if isinstance(self._slot_module.weight, nn.Parameter):
            self._slot_module.weight.data = base
        else:
            self._slot_module.weight = base
