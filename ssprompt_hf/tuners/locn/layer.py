from ..text.layer import TextPromptLayer


class LOCNLayer(TextPromptLayer):
    """Class embeddings of learned class names in a fixed template: `locn_words` is `(words, width)`."""

    adapter_layer_names = ("locn_words",)
    other_param_names = ("locn_embedding", "locn_default")

    def __repr__(self) -> str:
        return "locn." + super().__repr__()
