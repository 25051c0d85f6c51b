import torch
from torch import nn

from ...errors import AdapterError
from ..base.layer import PromptLayer
from ..base.model import CLASS_SLOT, PromptTuner
from .config import SSPromptConfig
from .layer import SSPromptLayer

NUM_LEVELS = 3  # feature maps that the decoder looks at, each with tokens of its own


class SSPromptTuner(PromptTuner):
    """
    SSPrompt, from "Learning to Prompt Segment Anything Models": learned spatial and semantic prompts beside the
    default ones of a frozen model.

    Args:
        model ([`torch.nn.Module`]): the model, which shows its prompt slots.
        config ([`SSPromptConfig`]): the configuration.
        adapter_name (`str`): the name of the adapter, defaults to `"default"`.

    Example:

        ```py
        >>> from peft import get_peft_model
        >>> from ssprompt_hf.tuners import SSPromptConfig

        >>> model.set_class_names(["road", "car"], tokenizer)
        >>> model = get_peft_model(model, SSPromptConfig())
        >>> model.print_trainable_parameters()
        ```
    """

    prefix = "ssprompt_"
    layer_cls = SSPromptLayer

    def _slots(self, config: SSPromptConfig) -> list[str]:
        slots = []
        if any(config.learned_parts("spatial")):
            slots.append("object_queries" if config.spatial_source == "object_queries" else "point_tokens")
        if config.class_names is not None:
            slots.append(CLASS_SLOT)  # even if not learned, so that each adapter brings its classes along
        elif any(config.learned_parts("semantic")):
            raise AdapterError(
                "semantic prompts need class names, and the base model has none: call "
                "model.set_class_names(names, tokenizer) first"
            )
        return slots

    def _new_layer(self, slot: str, base_layer: nn.Module, like: torch.Tensor) -> SSPromptLayer:
        return SSPromptLayer(base_layer, like, kind="semantic" if slot == CLASS_SLOT else "spatial")

    def _update_layer(self, layer: PromptLayer, slot: str, adapter_name: str, config: SSPromptConfig) -> None:
        if slot == CLASS_SLOT:
            default = self._class_rows(config)
        elif slot == "point_tokens":
            width = self.model.get_submodule(self.model.prompt_slots["object_queries"]).weight.shape[-1]
            default = layer.reference.new_full((NUM_LEVELS, config.point_grid_size**2, width), torch.nan)
        else:
            default = layer.base_prompt
        layer.update_layer(adapter_name, config, default, store=slot != "object_queries")

    def set_point_tokens(self, tokens: torch.Tensor, adapter_name: str | None = None) -> None:
        """
        Set the default spatial prompts of an adapter with `spatial_source="point_grid"`, before training.

        Args:
            tokens: `(3, point_grid_size**2, hidden_dim)`, from [`point_grid_tokens`].
            adapter_name: by default the active adapter.

        Raises:
            AdapterError: another shape, values that are not finite, or an adapter without a point grid.
        """
        adapter_name = adapter_name or self._check_one(self.active_adapters)
        layer = self._own_layer("point_tokens")
        if layer is None or not layer.has_adapter(adapter_name):
            raise AdapterError(f"adapter {adapter_name!r} learns no point grid: its spatial_source is object_queries")
        layer.set_default_prompt(adapter_name, tokens)
