from ..text.model import TextPromptTuner
from .layer import CoOpLayer


class CoOpTuner(TextPromptTuner):
    """
    CoOp, from "Learning to Prompt for Vision-Language Models": learned context words around the class names.

    The context runs through the frozen text encoder at every step of training. The adapter keeps the final class
    embeddings besides, so that inference needs no text encoder; what a base model keeps fixed, as SEEM its
    "background", keeps its default embedding.

    Args:
        model ([`torch.nn.Module`]): the model, which shows its prompt slots and its text encoder.
        config ([`CoOpConfig`]): the configuration.
        adapter_name (`str`): the name of the adapter, defaults to `"default"`.

    Example:

        ```py
        >>> from peft import get_peft_model
        >>> from ssprompt_hf.tuners import CoOpConfig

        >>> model.set_class_names(["road", "car"], tokenizer)
        >>> model = get_peft_model(model, CoOpConfig())  # with the tokenizer at model.name_or_path, or
        >>> model = get_peft_model(model, CoOpConfig().tokenize(["road", "car"], tokenizer))
        ```
    """

    prefix = "coop_"
    layer_cls = CoOpLayer
