"""CLIPSeg as a promptable base model: its slots, its classes and words, and what of it can be cached."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPSegConfig, initialization

from ...errors import AdapterError, SSPromptError
from ..clip_text import spoken_name, text_embeddings
from ..interface import SEMANTIC, SPATIAL, CachedFeatures, PromptableModel, PromptSlot
from ..transformers_compat import LoadsPromptAdapters, replace_modules
from .image_processing_clipseg import CLIPSegImageProcessorPil
from .text import encode_texts

CONFIG_DEFAULTS = {"class_names": None, "thing_class_ids": None, "has_text_encoder": True, "prompt_image_size": 352}
"""What our model adds to the configuration of transformers' own. `prompt_image_size`: side of the images, in pixels,
whose tokens the spatial prompts are for; that of the published image processors. (`vision_config.image_size` is the
224 that CLIP was trained with.)"""

TEXT_PARTS = (r"^clip\.text_model\.", r"^clip\.text_projection\.")


class CLIPSegPrompts(nn.Module):
    """
    A slot of prompts that are added by us: `weight` is a buffer of zeros, or None.

    Args:
        shape: of the prompts; None without any.
    """

    def __init__(self, shape: tuple[int, int] | None):
        super().__init__()
        self.register_buffer("weight", None if shape is None else torch.zeros(shape))


class EarlyReduce(nn.Linear):
    """One of the decoder's `reduces`, for tokens of the vision encoder's width, or for such that have been reduced
    already. All classes of an image share what it gives, and it is a twelfth of what it reads."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens if tokens.shape[-1] == self.out_features else self.reduce(tokens)

    def reduce(self, tokens: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`, without the spatial prompts."""
        return super().forward(tokens)


class CLIPSegPrompting(LoadsPromptAdapters, PromptableModel):
    """
    What makes `CLIPSegForImageSegmentation` a base model, but for the prediction.

    Semantic prompts are the conditional embeddings of the classes, `class_embeddings`, `(K, projection_dim)`.

    Spatial prompts are numbers that are added to the decoder's tokens, `token_offsets`, `(1 + n * n, reduce_dim)`: the
    class token's first, then those of the places in the image, row by row from the top left. CLIPSeg has nothing of
    the kind, so that they are zeros in every published model, and an adapter stores its `e` and `w` alone.

    They are added to what `decoder.reduces[0]` gives: the deepest of the vision encoder's states, where they first
    have the decoder's width. In published models that is right before the decoder is told of the class (it multiplies
    each channel by one number of the class and adds another, FiLM), so that every class reads the offsets of a place
    in its own way; after it they would mean the same to all classes.
    """

    prompt_slots = {
        # The only spatial prompts there are, so the ones that a configuration asks for by default. They are added to
        # tokens that every layer of the decoder normalises, to numbers of about 1.
        "token_offsets": PromptSlot(
            "token_offsets", SPATIAL, source="object_queries", title="place", is_part_of_model=True, scale=1.0
        ),
        "class_embeddings": PromptSlot("class_embeddings", SEMANTIC),
    }
    prompts_explained = (
        "is asked about one class at a time, by a *semantic prompt*, one embedding (what to look for). *Spatial "
        "prompts* are added to what it sees at each place of the image (where to look)"
    )
    decodes_by_class = True
    optional_parts = TEXT_PARTS
    class_template = "{}"  # the name alone, as the examples of transformers ask for it; another may be set

    def __init__(self, config: CLIPSegConfig):
        super().__init__(config)
        for name, value in CONFIG_DEFAULTS.items():
            if not hasattr(self.config, name):
                setattr(self.config, name, value)
        names = self.config.class_names
        patches = self.config.prompt_image_size // self.config.vision_config.patch_size
        self.token_offsets = CLIPSegPrompts((1 + patches**2, self.config.reduce_dim))
        self.class_embeddings = CLIPSegPrompts(None if names is None else (len(names), self.config.projection_dim))
        if self.config.reduce_dim != self.config.vision_config.hidden_size:
            sizes = self.config.vision_config.hidden_size, self.config.reduce_dim
            replace_modules(self.decoder.reduces, {nn.Linear: lambda _: EarlyReduce(*sizes)})
        self.decoder.reduces[0].register_forward_hook(self._add_offsets)
        if not self.config.has_text_encoder:
            self.clip.text_model = self.clip.text_projection = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As in transformers, for `from_pretrained`: published models lack the offsets."""
        super()._init_weights(module)
        if isinstance(module, CLIPSegPrompts) and module.weight is not None:
            initialization.zeros_(module.weight)

    def _add_offsets(self, reduce: nn.Module, args: tuple, tokens: Tensor) -> Tensor:
        """A forward hook: `tokens` `(n, T, reduce_dim)` with the spatial prompts in force. For images of another size
        they are resized as the model resizes its position embeddings."""
        offsets, count = self.token_offsets.weight, tokens.shape[1]
        if len(offsets) != count:
            old, new = math.isqrt(len(offsets) - 1), math.isqrt(count - 1)
            places = offsets[1:].T.unflatten(1, (old, old))
            places = F.interpolate(places[None], size=(new, new), mode="bicubic", align_corners=False)[0]
            offsets = torch.cat([offsets[:1], places.flatten(1).T])
        return tokens + offsets.to(tokens.dtype)

    def default_image_processor(self) -> CLIPSegImageProcessorPil:
        """Squares of `config.prompt_image_size`."""
        side = self.config.prompt_image_size
        return CLIPSegImageProcessorPil(
            size={"height": side, "width": side}, patch_size=self.config.vision_config.patch_size
        )

    # Classes

    def set_class_names(
        self, class_names: list[str], tokenizer: Any, thing_class_ids: list[int] | None = None
    ) -> None:
        """
        Let the text encoder make class embeddings of names, bit for bit those of `CLIPSegProcessor` and
        `get_conditional_embeddings` for each name alone, as [`spoken_name`] reads it and in `class_template`.

        Raises:
            SSPromptError: no names, or a name of more tokens than the text encoder reads.
            AdapterError: no text encoder.
        """
        if not class_names:
            raise SSPromptError("class_names is empty: name at least one class")
        self._check_text_encoder("make prompts of class names")
        self.class_embeddings.weight = encode_texts(self, self._sentences(class_names), tokenizer)
        self.name_classes(class_names, thing_class_ids)

    def _sentences(self, class_names: list[str]) -> list[str]:
        return [self.class_template.format(spoken_name(name)) for name in class_names]

    def semantic_shape(self, num_classes: int) -> tuple[int, int]:
        """`(K, projection_dim)`."""
        return num_classes, self.config.projection_dim

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> Tensor:
        """The embedding of each name, `(K, projection_dim)`.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: a name that is too long.
        """
        self._check_text_encoder("compare prompts with words")
        return encode_texts(self, self._sentences(class_names), tokenizer)

    # Words

    def word_embeddings(self) -> nn.Embedding | None:
        """See [`PromptableModel.word_embeddings`]."""
        return None if self.clip.text_model is None else self.clip.text_model.embeddings.token_embedding

    def encode_words(self, inputs_embeds: Tensor, ends: Tensor) -> Tensor:
        """
        Class embeddings `(K, projection_dim)` of `(K, T, width)`; see [`PromptableModel.encode_words`]. They are those
        of `get_text_features` for the same tokens, up to rounding where K or T differ.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: more tokens than it reads.
        """
        self._check_text_encoder("encode words")
        if inputs_embeds.shape[1] > self.max_text_tokens:
            raise SSPromptError(f"{inputs_embeds.shape[1]} tokens were given; CLIPSeg reads {self.max_text_tokens}")
        embeddings = text_embeddings(self.clip.text_model, self.clip.text_projection, inputs_embeds, ends)
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def drop_text_encoder(self) -> None:
        """Free the memory of the text encoder, 63.4 of 150.7 M parameters. Class embeddings that have been made stay;
        the model is saved without it."""
        self.clip.text_model = self.clip.text_projection = None
        self.config.has_text_encoder = False

    def _check_text_encoder(self, purpose: str) -> None:
        if self.clip.text_model is None:
            raise AdapterError(
                f"this {type(self).__name__} has no text encoder (any more) to {purpose}: load it again with "
                "prompt_encoders=('text',), or from_pretrained without has_text_encoder=False"
            )

    # Features

    @torch.no_grad()
    def image_features(self, pixel_values: Tensor, stage: str = "features") -> CachedFeatures:
        """
        See [`PromptableModel.image_features`]: `activation_0` and so on, `(1, T, reduce_dim)`, the states of
        `config.extract_layers` as the decoder reduces them, and `padded_size`. Layers that come after the last of
        these are not computed.

        Raises:
            SSPromptError: the image is not square, or its side is no multiple of the size of a patch.
        """
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.patch_size
        if height != width or height % patch:
            raise SSPromptError(
                f"pixel_values are {height}x{width} pixels; CLIPSeg takes squares whose side is a multiple of "
                f"{patch}: use its image processor"
            )
        vision = self.clip.vision_model
        states = vision.pre_layrnorm(vision.embeddings(pixel_values, interpolate_pos_encoding=True))
        found = {}
        for index, layer in enumerate(vision.encoder.layers[: max(self.extract_layers) + 1]):
            states = layer(states, None)
            found[index] = states
        features = {}
        # the decoder begins with the deepest
        for index, (layer, reduce) in enumerate(zip(self.extract_layers, reversed(self.decoder.reduces))):
            state = found[layer]
            features[f"activation_{index}"] = reduce.reduce(state) if isinstance(reduce, EarlyReduce) else state
        return features | {"padded_size": torch.tensor([height, width])}

    def feature_bytes(self, padded_size: tuple[int, int], stage: str = "features") -> int:
        """See [`PromptableModel.feature_bytes`]; `padded_size` itself, 16 bytes, is counted."""
        return 4 * len(self.extract_layers) * self._tokens(padded_size) * self.config.reduce_dim + 16

    def decoder_bytes(self, padded_size: tuple[int, int], with_gradient: bool) -> int:
        """
        See [`PromptableModel.decoder_bytes`]: what all layers keep for the backward pass, for which frozen weights
        need no inputs; or what the widest layer holds.
        """
        config, tokens = self.config, self._tokens(padded_size)
        pixels = math.prod(padded_size)
        layer = tokens * (config.decoder_intermediate_size + 10 * config.reduce_dim)
        if with_gradient:
            return 4 * (len(self.extract_layers) * layer + 4 * pixels)
        return 4 * (layer + tokens * config.decoder_intermediate_size + pixels)

    def _tokens(self, padded_size: tuple[int, int]) -> int:
        """Of an image: one a patch, and the class token."""
        return 1 + math.prod(side // self.config.vision_config.patch_size for side in padded_size)

    def feature_settings(self) -> dict[str, Any]:
        """See [`PromptableModel.feature_settings`]: those of the vision encoder and of what reduces its states."""
        layers, width = list(self.extract_layers), self.config.reduce_dim
        return {"vision_config": self.config.vision_config.to_dict(), "extract_layers": layers, "reduce_dim": width}

    def feature_modules(self, stage: str = "features") -> list[nn.Module]:
        """See [`PromptableModel.feature_modules`]: the vision encoder, and what reduces its states."""
        return [self.clip.vision_model, self.decoder.reduces]

    def decoder_inputs(self, features: list[CachedFeatures], device: torch.device | str | None = None) -> dict:
        """`activations` for `forward`: a tuple of states an image, in the model's dtype. They are not joined, as
        images are decoded one by one."""
        count = len(self.extract_layers)
        return {
            "activations": [
                tuple(one[f"activation_{index}"].to(device, self.dtype, non_blocking=True) for index in range(count))
                for one in features
            ]
        }
