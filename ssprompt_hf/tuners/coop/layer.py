from ..text.layer import TextPromptLayer


class CoOpLayer(TextPromptLayer):
    """Class embeddings of prompts with learned context: `coop_context` is `(M, width)` or `(K, M, width)`."""

    adapter_layer_names = ("coop_context",)
    other_param_names = ("coop_embedding", "coop_default")

    def __repr__(self) -> str:
        return "coop." + super().__repr__()
