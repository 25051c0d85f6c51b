"""The tuner of methods that learn words in front of a frozen text encoder."""

import torch
from torch import nn

from ...errors import AdapterError
from ...models.seem.pretrained import resolve_base_model
from ..base.layer import PromptLayer
from ..base.model import CLASS_SLOT, PromptTuner
from .config import DEFAULT_TEMPLATE, TextPromptConfig
from .layer import TextPromptLayer


class TextPromptTuner(PromptTuner):
    """Wraps the slot of class embeddings, and finds the tokens of the class names."""

    layer_cls: type[TextPromptLayer]

    def _slots(self, config: TextPromptConfig) -> list[str]:
        if config.class_names is None:
            raise AdapterError(
                "words are learned for classes, and the base model has none: call "
                "model.set_class_names(names, tokenizer) first"
            )
        return [CLASS_SLOT]

    def _prepare_adapter_config(self, peft_config: TextPromptConfig, model_config: dict) -> TextPromptConfig:
        config = super()._prepare_adapter_config(peft_config, model_config)
        if not hasattr(self.model, "get_text_model"):
            raise AdapterError(f"{type(self.model).__name__} shows no text encoder (get_text_model)")
        if config.class_token_ids is None:
            if self.model.get_text_model() is None:
                raise AdapterError(
                    f"{config.method_name} learns words in front of the text encoder, which the base model was loaded "
                    "without: load it with use_text_model=True"
                )
            tokenizer = load_tokenizer(config.tokenizer_name or getattr(self.model, "name_or_path", ""))
            config.tokenize(config.class_names, tokenizer, default_template(self.model))
        limit = self.model.config.text_config.max_position_embeddings
        ends = config.layout().ends
        if int(ends.max()) >= limit:
            name = config.class_names[int(ends.argmax())]
            raise AdapterError(
                f"the prompt of {name!r} has {int(ends.max()) + 1} tokens, the text encoder reads at most {limit}: "
                "shorten the name or what surrounds it"
            )
        return config

    def _new_layer(self, slot: str, base_layer: nn.Module, like: torch.Tensor) -> TextPromptLayer:
        return self.layer_cls(base_layer, like, self.model)

    def _update_layer(self, layer: PromptLayer, slot: str, adapter_name: str, config: TextPromptConfig) -> None:
        width = self.model.config.text_config.hidden_size
        layer.update_layer(adapter_name, config, self._class_rows(config), width)


def default_template(model: nn.Module) -> str:
    """The template that the base model's own class embeddings are made with, if there is only one."""
    templates = getattr(model.config, "prompt_templates", None)
    return templates[0] if templates and len(templates) == 1 else DEFAULT_TEMPLATE


def load_tokenizer(name: str, **access):
    """
    The tokenizer of a base model.

    Args:
        name: a folder, Hub id or base-model name.
        access: `cache_dir`, `token`, `local_files_only`, as for transformers' models.

    Raises:
        AdapterError: there is none.
    """
    from transformers import AutoTokenizer

    remedy = (
        "set tokenizer_name to a folder or Hub id, or fill in the tokens by "
        "config.tokenize(class_names, tokenizer) before the adapter is made"
    )
    if not name:
        raise AdapterError(f"the base model does not say where its tokenizer is: {remedy}")
    try:
        folder = resolve_base_model(name, **access)
        return AutoTokenizer.from_pretrained(folder, **(access if folder == name else {}))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdapterError(f"no tokenizer was found at {name!r} ({reason}): {remedy}") from error
