from ..text.model import TextPromptTuner
from .layer import LOCNLayer


class LOCNTuner(TextPromptTuner):
    """
    LOCN, from "Learning to Name Classes for Vision and Language Models": learned word embeddings of the class names.

    They run through the frozen text encoder at every step of training. The adapter keeps the final class embeddings
    besides, so that inference needs no text encoder; what a base model keeps fixed, as SEEM its "background", keeps
    its default embedding.

    Args:
        model ([`torch.nn.Module`]): the model, which shows its prompt slots and its text encoder.
        config ([`LOCNConfig`]): the configuration.
        adapter_name (`str`): the name of the adapter, defaults to `"default"`.

    Example:

        ```py
        >>> from peft import get_peft_model
        >>> from ssprompt_hf.tuners import LOCNConfig

        >>> model.set_class_names(["road", "car"], tokenizer)
        >>> model = get_peft_model(model, LOCNConfig(template="a photo of a {}."))
        ```
    """

    prefix = "locn_"
    layer_cls = LOCNLayer
