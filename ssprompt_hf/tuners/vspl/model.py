from ..base.model import PromptTuner
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
        self.model.check_points()
        slots = [self.model.spatial_slot("coordinates")]
        # The classes are not learned, but each adapter brings its own along.
        return slots + [self.model.semantic_slot] * (config.class_names is not None)

    def _update_layer(self, layer: VSPLLayer, adapter_name: str, config: VSPLConfig) -> None:
        if layer.holds_classes:
            default = self._class_rows(config)
            layer.update_classes(adapter_name, config, default, self.model.semantic_shape(len(config.class_names)))
        else:
            layer.update_points(adapter_name, config)
