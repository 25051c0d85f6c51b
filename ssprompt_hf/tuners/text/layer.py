"""The slot of class embeddings, for methods that learn words in front of a frozen text encoder."""

import torch
from peft.tuners._buffer_dict import BufferDict
from torch import nn

from ...errors import AdapterError
from ..base.layer import LOAD_CLASSES, PromptLayer, root_mean_square
from .config import TextLayout, TextPromptConfig

NO_TEXT_ENCODER = (
    "the words of adapter {!r} cannot be trained without the text encoder: load the base model with "
    "use_text_model=True, and the adapter with is_trainable=True"
)


class TextPromptLayer(PromptLayer):
    """
    Class embeddings that the frozen text encoder makes of prompts with learned words.

    While words are trained the text encoder runs at every step, with gradient. What it made of the present words is
    kept beside them and saved with them, so that inference needs no text encoder. "background" keeps its default
    embedding: it stands for "no object", of which a sentence says nothing.

    A subclass names, in this order, its learned words in `adapter_layer_names`, and its class embeddings `(K, P)` and
    the default ones `(K + 1, P)` in `other_param_names`.

    Args:
        base_layer (`nn.Module`), like (`torch.Tensor`): see [`PromptLayer`].
        model (`nn.Module`): the base model, which shows its text encoder by `get_text_model()`.
    """

    def __init__(self, base_layer: nn.Module, like: torch.Tensor, model: nn.Module):
        super().__init__(base_layer, like)
        self.holds_classes = True
        self.configs: dict[str, TextPromptConfig] = {}
        self._model = [model]  # in a list: the model holds this layer and must not become a part of it
        setattr(self, self.adapter_layer_names[0], nn.ParameterDict())
        for name in self.other_param_names:
            setattr(self, name, BufferDict(persistent=True))
        self.layouts = nn.ModuleDict()
        # The words that the kept class embeddings were made of.
        self.encoded_words = BufferDict(persistent=False)
        self.register_state_dict_pre_hook(_encode_before_saving)

    @property
    def words(self) -> nn.ParameterDict:
        """The learned words of each adapter, `(..., width of the text encoder)`."""
        return getattr(self, self.adapter_layer_names[0])

    @property
    def embeddings(self) -> BufferDict:
        """What the text encoder made of them, `(K, P)`."""
        return getattr(self, self.other_param_names[0])

    @property
    def defaults(self) -> BufferDict:
        """The default class embeddings, `(K + 1, P)`."""
        return getattr(self, self.other_param_names[1])

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """See [`PromptLayer.learning_rate_scale`]: that of the vocabulary."""
        text_model = self._text_model()
        if text_model is None:
            raise AdapterError(NO_TEXT_ENCODER.format(adapter_name))
        return root_mean_square(text_model.get_input_embeddings().weight)

    def has_adapter(self, adapter_name: str) -> bool:
        return adapter_name in self.configs

    def update_layer(self, adapter_name: str, config: TextPromptConfig, default: torch.Tensor, width: int) -> None:
        """
        Add an adapter.

        Args:
            adapter_name: its name.
            config: its configuration, with tokens.
            default: the default class embeddings `(K + 1, P)`; NaN where they are not known yet.
            width: of the text encoder.
        """
        self.configs[adapter_name] = config
        # Adapters are float32 at least: they are small, and half precision would lose the steps of training.
        default = default.detach().to(torch.promote_types(default.dtype, torch.float32))
        self.defaults[adapter_name] = default.clone()
        self._unchecked_defaults.add(adapter_name)
        self.embeddings[adapter_name] = torch.full_like(default[:-1], torch.nan)
        text_model = self._text_model()
        vocabulary = None if text_model is None else text_model.get_input_embeddings().weight.detach()
        self.words[adapter_name] = nn.Parameter(config.initial_words(vocabulary, width).to(default))
        layout = {name: tensor.to(default.device) for name, tensor in config.layout()._asdict().items()}
        self.layouts[adapter_name] = BufferDict(layout, persistent=False)

    def default_prompt(self, adapter_name: str) -> torch.Tensor:
        """See [`PromptLayer.default_prompt`]."""
        return self._checked_default(adapter_name, self.defaults[adapter_name], "semantic", LOAD_CLASSES)

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """`(K + 1, P)`; see [`PromptLayer.adapter_prompt`]."""
        background = self.default_prompt(adapter_name)[-1:]
        if torch.is_grad_enabled() and self.words[adapter_name].requires_grad:
            embeddings = self.encode(adapter_name)
        else:
            embeddings = self.encoded(adapter_name)
        return torch.cat([embeddings.to(background.dtype), background])

    def encode(self, adapter_name: str) -> torch.Tensor:
        """
        Class embeddings `(K, P)`, unit vectors, from the text encoder, with gradient to the learned words.

        Raises:
            AdapterError: the base model has no text encoder.
        """
        text_model = self._text_model()
        if text_model is None:
            raise AdapterError(NO_TEXT_ENCODER.format(adapter_name))
        layout = TextLayout(**dict(self.layouts[adapter_name].items()))
        words = self.words[adapter_name].flatten(0, -2)
        inputs = text_model.get_input_embeddings()(layout.token_ids)
        # By index: `sources` is the same at every step, and clamping makes the frozen places harmless.
        learned = words.to(inputs.dtype)[layout.sources.clamp(min=0)]
        inputs = torch.where(layout.sources[..., None] >= 0, learned, inputs)
        text_embeds = text_model(inputs_embeds=inputs, end_positions=layout.ends).text_embeds
        return text_model.class_embeddings(text_embeds[:, None])

    @torch.no_grad()
    def encoded(self, adapter_name: str) -> torch.Tensor:
        """The kept class embeddings `(K, P)`, made anew if the words have changed since."""
        words = self.words[adapter_name]
        if not self._is_encoded(adapter_name):
            self.embeddings[adapter_name] = self.encode(adapter_name).to(self.embeddings[adapter_name])
            self.encoded_words[adapter_name] = words.detach().clone()
        return self.embeddings[adapter_name]

    def _is_encoded(self, adapter_name: str) -> bool:
        words = self.words[adapter_name]
        if torch.compiler.is_compiling() and not words.requires_grad:
            return adapter_name in self.encoded_words  # frozen words do not change, and a comparison breaks the graph
        return adapter_name in self.encoded_words and torch.equal(self.encoded_words[adapter_name], words)

    def _text_model(self) -> nn.Module | None:
        return self._model[0].get_text_model()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in self.configs:
            words = state_dict.get(f"{prefix}{self.adapter_layer_names[0]}.{name}")
            if words is not None and f"{prefix}{self.other_param_names[0]}.{name}" in state_dict:
                # The embeddings in a file are those of the words in it.
                own = self.words[name]
                self.encoded_words[name] = words.detach().to(self.defaults[name].device, own.dtype, copy=True)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self.configs.pop(adapter_name, None)
        for tensors in (self.layouts, self.encoded_words):
            if adapter_name in tensors:
                del tensors[adapter_name]
        super().delete_adapter(adapter_name)


def _encode_before_saving(layer: TextPromptLayer, prefix: str, keep_vars: bool) -> None:
    """What is saved must fit together: embeddings of words that have changed are made anew."""
    for name in layer.configs:
        words = layer.words[name]
        if words.is_meta or layer._is_encoded(name):
            continue
        if layer._text_model() is not None:
            layer.encoded(name)
        elif name in layer.encoded_words:
            raise AdapterError(
                f"the words of adapter {name!r} were trained, but the text encoder that makes class embeddings of "
                "them is gone: save the adapter before drop_text_model()"
            )
