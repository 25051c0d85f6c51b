import torch

from ...errors import AdapterError
from ...models.interface import CLASS_MASKS, DEEP
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
        if config.calibrates:
            self._check_calibration(config)
        if any(config.learned_parts("spatial")):
            slots.append(self.model.spatial_slot(config.spatial_source))
        if config.prompts_per_class > 1:
            self._check_several()
        if config.has_deep_prompts:
            self.model.deep_prompts_shape(config.deep_prompts)  # or an error that says why not
            slots.append(self.model.spatial_slot(DEEP))
        if config.class_names is None:
            if config.learns("semantic") or config.class_masks:
                what = "semantic prompts" if config.learns("semantic") else "class masks"
                raise AdapterError(
                    f"{what} need class names, and the base model has none: call "
                    "model.set_class_names(names, tokenizer) first"
                )
            return slots
        if config.class_masks:
            self.model.class_masks_shape(len(config.class_names))  # or an error that says why not
            slots.append(self.model.spatial_slot(CLASS_MASKS))
        # even if not learned, so that each adapter brings its classes along; last, where `adapters/info.py` looks
        slots.append(self.model.semantic_slot)
        return slots

    def _check_calibration(self, config: SSPromptConfig) -> None:
        slot = self.model.prompt_slots[self.model.semantic_slot]
        if not slot.takes_bias:
            raise AdapterError(
                f"the class scores of {type(self.model).__name__} are not linear in its class prompts, so that "
                "they have no scale and no bias that could be learned: leave out semantic_scale and semantic_bias"
            )
        if config.semantic_bias and self.model.has_class_bias:
            raise AdapterError(
                "the base model was merged with an adapter that has a bias for each class already: learn another on "
                "the model without it, or leave out semantic_bias"
            )

    def _check_several(self) -> None:
        if not self.model.prompt_slots[self.model.semantic_slot].takes_several:
            raise AdapterError(
                f"{type(self.model).__name__} compares nothing with its class prompts one by one, so that a class has "
                "only one: leave out prompts_per_class"
            )
        if self.model.prompts_per_class > 1:
            raise AdapterError(
                "the base model was merged with an adapter that has several prompts a class already: learn others on "
                "the model without it, or leave out prompts_per_class"
            )

    def _update_layer(self, layer: SSPromptLayer, adapter_name: str, config: SSPromptConfig) -> None:
        if layer.holds_classes:
            default = self._class_rows(config)
            shape = self.model.semantic_shape(len(config.class_names)) if default is None else tuple(default.shape)
        elif layer.slot.is_deep:
            shape = self.model.deep_prompts_shape(config.deep_prompts)
            default = layer.reference.new_zeros(shape)
        elif layer.slot.is_masks:
            shape = self.model.class_masks_shape(len(config.class_names))
            default = layer.reference.new_zeros(shape)
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
