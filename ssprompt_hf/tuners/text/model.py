"""The tuner of methods that learn words in front of a frozen text encoder."""

import torch
from torch import nn

from ...errors import AdapterError
from ...models.interface import PromptSlot
from ..base.model import PromptTuner
from .config import TextPromptConfig
from .layer import TextPromptLayer
from .tokenizer import load_tokenizer


class TextPromptTuner(PromptTuner):
    """Wraps the slot of semantic prompts, and finds the tokens of the class names."""

    layer_cls: type[TextPromptLayer]

    def _slots(self, config: TextPromptConfig) -> list[str]:
        if config.class_names is None:
            raise AdapterError(
                "words are learned for classes, and the base model has none: call "
                "model.set_class_names(names, tokenizer) first"
            )
        return [self.model.semantic_slot]

    def _prepare_adapter_config(self, peft_config: TextPromptConfig, model_config: dict) -> TextPromptConfig:
        is_new = peft_config.base_model_fingerprint is None
        config = super()._prepare_adapter_config(peft_config, model_config)
        limit = self.model.max_text_tokens  # a model that words cannot be learned for says so here
        self._check_text_encoder(config, is_new)
        if config.class_token_ids is None:
            tokenizer = load_tokenizer(config.tokenizer_name or self.model.tokenizer_name)
            config.tokenize(config.class_names, tokenizer, self.model.class_template)
        ends = config.layout().ends
        if limit is not None and int(ends.max()) >= limit:
            name = config.class_names[int(ends.argmax())]
            raise AdapterError(
                f"the prompt of {name!r} has {int(ends.max()) + 1} tokens, the text encoder reads at most {limit}: "
                "shorten the name or what surrounds it"
            )
        return config

    def _check_text_encoder(self, config: TextPromptConfig, is_new: bool) -> None:
        """Is there the text encoder that the configuration asks for? A new one is told which text encoder it has."""
        is_loaded, borrowed = self.model.word_embeddings() is not None, self.model.borrowed_text_encoder
        if config.text_encoder is not None and borrowed is None:
            raise AdapterError(
                f"text_encoder is {config.text_encoder!r}, but {type(self.model).__name__} has a text encoder of its "
                "own: leave it out"
            )
        if is_loaded and config.text_encoder not in (None, borrowed):
            raise AdapterError(
                f"the configuration's words are for the text encoder {config.text_encoder!r}, but the base model has "
                f"borrowed {borrowed!r}: load it with text_encoder={config.text_encoder!r}; or, if the two are the "
                "same, say so by text_encoder in the configuration"
            )
        if is_new:
            config.text_encoder = borrowed
        needs_it = config.class_token_ids is None or (is_new and borrowed is not None)
        if needs_it and not is_loaded:
            raise AdapterError(
                f"{config.method_name} learns words in front of the text encoder, which the base model was loaded "
                "without: load it with use_text_model=True (SEEM), or by load_base_model(name, ('text',))"
            )

    def _new_layer(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor) -> TextPromptLayer:
        return self.layer_cls(base_layer, slot, like, self.model)

    def _update_layer(self, layer: TextPromptLayer, adapter_name: str, config: TextPromptConfig) -> None:
        default = self._class_rows(config)
        shape = self.model.semantic_shape(len(config.class_names)) if default is None else tuple(default.shape)
        layer.update_layer(adapter_name, config, default, shape, self.model.text_width)
