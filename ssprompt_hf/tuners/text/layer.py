"""The slot of semantic prompts, for methods that learn words in front of a frozen text encoder."""

import torch
from torch import nn

from ...errors import AdapterError
from ...models.interface import PromptableModel, PromptSlot
from ..base.layer import PromptLayer, Shape, root_mean_square
from ..peft_compat import BufferDict
from .config import TextLayout, TextPromptConfig

NO_TEXT_ENCODER = (
    "the words of adapter {!r} cannot be trained without the text encoder: load the base model with it (for SEEM, "
    "use_text_model=True; for any, load_base_model(name, ('text',))), and the adapter with is_trainable=True"
)


class TextPromptLayer(PromptLayer):
    """
    Semantic prompts that the frozen text encoder makes of sentences with learned words.

    While words are trained the text encoder runs at every step, with gradient. What it made of the present words is
    kept beside them and saved with them, so that inference needs no text encoder. The slot's fixed prompts keep their
    default: SEEM's "background" stands for "no object", of which a sentence says nothing.

    A subclass names, in this order, its learned words in `adapter_layer_names`, and its semantic prompts and the
    default ones in `other_param_names`.

    Args:
        base_layer (`nn.Module`), slot (`PromptSlot`), like (`torch.Tensor`): see [`PromptLayer`].
        model (`PromptableModel`): the base model, which has the text encoder.
    """

    def __init__(self, base_layer: nn.Module, slot: PromptSlot, like: torch.Tensor, model: PromptableModel):
        super().__init__(base_layer, slot, like)
        self._model = [model]  # in a list: the model holds this layer and must not become a part of it
        setattr(self, self.adapter_layer_names[0], nn.ParameterDict())
        for name in self.other_param_names:
            setattr(self, name, BufferDict(persistent=True))
        self.layouts = nn.ModuleDict()
        # The words that the kept semantic prompts were made of.
        self.encoded_words = BufferDict(persistent=False)
        self._shapes: dict[str, Shape] = {}  # of the default prompts
        self.register_state_dict_pre_hook(_encode_before_saving)

    @property
    def words(self) -> nn.ParameterDict:
        """The learned words of each adapter, `(..., width of the text encoder)`."""
        return getattr(self, self.adapter_layer_names[0])

    @property
    def embeddings(self) -> BufferDict:
        """What the text encoder made of them, in SEEM `(K, P)`."""
        return getattr(self, self.other_param_names[0])

    @property
    def defaults(self) -> BufferDict:
        """The default semantic prompts, in SEEM `(K + 1, P)`."""
        return getattr(self, self.other_param_names[1])

    def learning_rate_scale(self, adapter_name: str, parameter: str) -> float:
        """See [`PromptLayer.learning_rate_scale`]: that of the vocabulary."""
        return root_mean_square(self._vocabulary(adapter_name).weight)

    def _vocabulary(self, adapter_name: str) -> nn.Embedding:
        vocabulary = self._model[0].word_embeddings()
        if vocabulary is None:
            raise AdapterError(NO_TEXT_ENCODER.format(adapter_name))
        return vocabulary

    def update_layer(
        self,
        adapter_name: str,
        config: TextPromptConfig,
        default: torch.Tensor | None,
        shape: Shape,
        width: int | None,
    ) -> None:
        """
        Add an adapter.

        Args:
            adapter_name: its name.
            config: its configuration, with tokens.
            default: the default semantic prompts; None where they are still to come.
            shape: theirs.
            width: of the text encoder; None where that is not known without it.
        """
        self.configs[adapter_name], self._shapes[adapter_name] = config, shape
        layout = {name: tensor.to(self.reference.device) for name, tensor in config.layout()._asdict().items()}
        self.layouts[adapter_name] = BufferDict(layout, persistent=False)
        vocabulary = self._model[0].word_embeddings()
        words = None
        if width is not None:
            words = config.initial_words(None if vocabulary is None else vocabulary.weight.detach(), width)
        if default is None or words is None:
            self.pending.add(adapter_name)
            return
        default = default.detach().to(torch.promote_types(default.dtype, torch.float32))
        self.defaults[adapter_name] = default.clone()
        self.words[adapter_name] = nn.Parameter(words.to(default))

    def tensor_shapes(self, adapter_name: str) -> dict[str, Shape]:
        """See [`PromptLayer.tensor_shapes`]."""
        words, (embeddings, defaults) = self.adapter_layer_names[0], self.other_param_names
        shape, dim = self._shapes[adapter_name], self.slot.row_dim
        width = self._model[0].text_width
        return {
            words: self.configs[adapter_name].words_shape(width),
            # of sentences: with another number of tokens than the default ones, where prompts have several
            embeddings: (*shape[:dim], shape[dim] - self.slot.num_fixed, *[None] * (len(shape) - dim - 2), shape[-1]),
            defaults: shape,
        }

    def default_prompt(self, adapter_name: str) -> torch.Tensor:
        """See [`PromptLayer.default_prompt`]."""
        self._check_not_pending(adapter_name)
        return self.defaults[adapter_name]

    def adapter_prompt(self, adapter_name: str) -> torch.Tensor:
        """Of the learned sentences, and the slot's fixed ones; see [`PromptLayer.adapter_prompt`]."""
        default = self.default_prompt(adapter_name)
        if torch.is_grad_enabled() and self.words[adapter_name].requires_grad:
            embeddings = self.encode(adapter_name)
        else:
            embeddings = self.encoded(adapter_name)
        embeddings = embeddings.to(default.dtype)
        if self.slot.num_fixed == 0:
            return embeddings
        dim = self.slot.row_dim
        return torch.cat([embeddings, default.narrow(dim, -self.slot.num_fixed, self.slot.num_fixed)], dim=dim)

    def encode(self, adapter_name: str) -> torch.Tensor:
        """
        Semantic prompts from the text encoder, with gradient to the learned words.

        Raises:
            AdapterError: the base model has no text encoder, or makes prompts of another shape than those of the
                adapter's file.
        """
        vocabulary = self._vocabulary(adapter_name)
        layout = TextLayout(**dict(self.layouts[adapter_name].items()))
        words = self.words[adapter_name].flatten(0, -2)
        inputs = vocabulary(layout.token_ids)
        # By index: `sources` is the same at every step, and clamping makes the frozen places harmless.
        learned = words.to(inputs.dtype)[layout.sources.clamp(min=0)]
        inputs = torch.where(layout.sources[..., None] >= 0, learned, inputs)
        prompts = self._model[0].encode_words(inputs, layout.ends)
        kept = self.embeddings[adapter_name].shape if adapter_name in self.embeddings else prompts.shape
        if prompts.shape != kept:
            raise AdapterError(
                f"the base model makes semantic prompts of shape {tuple(prompts.shape)} of the words of adapter "
                f"{adapter_name!r}, which was made with {tuple(kept)}: load it with the settings of then (for SAM, "
                f"num_class_tokens={kept[1]})"
            )
        return prompts

    @torch.no_grad()
    def encoded(self, adapter_name: str) -> torch.Tensor:
        """The kept semantic prompts, made anew if the words have changed since."""
        words = self.words[adapter_name]
        if not self._is_encoded(adapter_name):
            self.embeddings[adapter_name] = self.encode(adapter_name).to(self.defaults[adapter_name])
            self.encoded_words[adapter_name] = words.detach().clone()
        return self.embeddings[adapter_name]

    def _is_encoded(self, adapter_name: str) -> bool:
        words = self.words[adapter_name]
        if torch.compiler.is_compiling() and not words.requires_grad:
            return adapter_name in self.encoded_words  # frozen words do not change, and a comparison breaks the graph
        return adapter_name in self.encoded_words and torch.equal(self.encoded_words[adapter_name], words)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in self.configs:
            words = state_dict.get(f"{prefix}{self.adapter_layer_names[0]}.{name}")
            if words is not None and f"{prefix}{self.other_param_names[0]}.{name}" in state_dict:
                # The embeddings in a file are those of the words in it.
                # Those of the layer may have no memory yet (`low_cpu_mem_usage`).
                self.encoded_words[name] = words.detach().to(self.reference.device, self.words[name].dtype, copy=True)

    def delete_adapter(self, adapter_name: str) -> None:
        """As in PEFT."""
        self._shapes.pop(adapter_name, None)
        for tensors in (self.layouts, self.encoded_words):
            if adapter_name in tensors:
                del tensors[adapter_name]
        super().delete_adapter(adapter_name)


def _encode_before_saving(layer: TextPromptLayer, prefix: str, keep_vars: bool) -> None:
    """What is saved must fit together: embeddings of words that have changed are made anew."""
    for name in set(layer.configs) - layer.pending:
        words = layer.words[name]
        if words.is_meta or layer._is_encoded(name):
            continue
        if layer._model[0].word_embeddings() is not None:
            layer.encoded(name)
        elif name in layer.encoded_words:
            raise AdapterError(
                f"the words of adapter {name!r} were trained, but the text encoder that makes semantic prompts of "
                "them is gone: save the adapter before drop_text_encoder()"
            )
