import torch
from torch import nn

from ...errors import AdapterError
from ..base.layer import PromptLayer
from ..base.model import CLASS_SLOT, PromptTuner
from .config import VSPLConfig
from .layer import VSPLLayer


class VSPLTuner(PromptTuner):
    """
    VSPL, a baseline of "Learning to Prompt Segment Anything Models": learned places of a grid of points.

    In each image the visual sampler of the base model makes tokens of the points, and gradients flow back to their
    coordinates. The class embeddings stay what they are.

    Args:
        model ([`torch.nn.Module`]): the model, which shows its prompt slots.
        config ([`VSPLConfig`]): the configuration.
        adapter_name (`str`): the name of the adapter, defaults to `"default"`.

    Example:

        ```py
        >>> from peft import get_peft_model
        >>> from ssprompt_hf.tuners import VSPLConfig

        >>> model.set_class_names(["road", "car"], tokenizer)
        >>> model = get_peft_model(model, VSPLConfig())
        ```
    """

    prefix = "vspl_"
    layer_cls = VSPLLayer

    def _slots(self, config: VSPLConfig) -> list[str]:
        if not getattr(self.model.config, "use_spatial_prompt_encoder", False):
            raise AdapterError(
                "VSPL needs the visual sampler, which the base model was loaded without: load it with "
                "use_spatial_prompt_encoder=True"
            )
        if getattr(self.model.config, "num_point_tokens", None) is not None:
            raise AdapterError("the base model was merged with a point grid, which leaves no place for other points")
        # The classes are not learned, but each adapter brings its own along.
        return ["point_coordinates"] + [CLASS_SLOT] * (config.class_names is not None)

    def _new_layer(self, slot: str, base_layer: nn.Module, like: torch.Tensor) -> VSPLLayer:
        return VSPLLayer(base_layer, like, holds_classes=slot == CLASS_SLOT)

    def _update_layer(self, layer: PromptLayer, slot: str, adapter_name: str, config: VSPLConfig) -> None:
        if slot == CLASS_SLOT:
            layer.update_classes(adapter_name, self._class_rows(config))
        else:
            layer.update_points(adapter_name, config.point_grid_size)
