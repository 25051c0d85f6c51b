import torch

from ...errors import AdapterError
from ..base.model import PromptTuner
from .config import SSPromptConfig
from .layer import SSPromptLayer


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
            slots.append(self.model.spatial_slot(config.spatial_source))
        if config.class_names is not None:
            # even if not learned, so that each adapter brings its classes along
            slots.append(self.model.semantic_slot)
        elif any(config.learned_parts("semantic")):
            raise AdapterError(
                "semantic prompts need class names, and the base model has none: call "
                "model.set_class_names(names, tokenizer) first"
            )
        return slots

    def _update_layer(self, layer: SSPromptLayer, adapter_name: str, config: SSPromptConfig) -> None:
        if layer.holds_classes:
            default = self._class_rows(config)
            shape = self.model.semantic_shape(len(config.class_names)) if default is None else tuple(default.shape)
        elif layer.slot.is_part_of_model:
            default = layer.base_prompt
            shape = tuple(default.shape)
        else:
            # tokens of a grid of points depend on images: they are set later, or come from the adapter's files
            default, shape = None, self.model.point_shape(config.point_grid_size**2)
        layer.update_layer(adapter_name, config, default, shape)

    def set_point_tokens(self, tokens: torch.Tensor, adapter_name: str | None = None) -> None:
        """
        Set the default spatial prompts of an adapter with `spatial_source="point_grid"`, before training.

        Args:
            tokens: from [`point_grid_tokens`], in SEEM `(3, point_grid_size**2, hidden_dim)`.
            adapter_name: by default the active adapter.

        Raises:
            AdapterError: another shape, values that are not finite, or an adapter without a point grid.
        """
        adapter_name = adapter_name or self._check_one(self.active_adapters)
        layer = self._own_layer(self.model.spatial_slot("point_grid"))
        if layer is None or not layer.has_adapter(adapter_name):
            raise AdapterError(f"adapter {adapter_name!r} learns no point grid: its spatial_source is object_queries")
        layer.set_default_prompt(adapter_name, tokens)
