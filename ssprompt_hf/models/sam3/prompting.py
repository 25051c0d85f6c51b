"""SAM 3 as a promptable base model: its slots, its classes and words, and what of it can be cached."""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ...errors import AdapterError, SSPromptError
from ..clip_text import spoken_name
from ..interface import SEMANTIC, SPATIAL, CachedFeatures, PromptableModel, PromptSlot
from ..transformers_compat import LoadsPromptAdapters
from . import memory, text
from .image_processing_sam3 import Sam3ImageProcessorPil
from .readings import check_reading

CONFIG_DEFAULTS = {
    "class_names": None,
    "thing_class_ids": None,
    "class_tokens_shape": None,  # [K, L]
    "has_text_encoder": True,
    "semantic_reading": "fused",
}
"""What our models add to the configuration of transformers' own."""

TEXT_PARTS = (r"^(detector_model\.)?text_encoder\.", r"^(detector_model\.)?text_projection\.")


class Sam3ClassTokens(nn.Module):
    """
    Semantic prompts: the tokens of each class that the text encoder and the projection behind it have made.

    `weight` is a buffer `(K, L, D)`, or None without classes. Classes have different numbers of tokens: a row of exact
    zeros is padding. So the mask needs no second tensor that tuners, merging and files would have to carry along, and
    stays true while prompts are learned: a row of zeros gets no gradient, as its token is masked everywhere, while a
    real token never becomes zero in all its numbers.

    Args:
        shape: K and L; None without classes.
        width: D.
    """

    def __init__(self, shape: list[int] | None, width: int):
        super().__init__()
        self.register_buffer("weight", None if shape is None else torch.zeros(*shape, width))


class Sam3Prompting(LoadsPromptAdapters, PromptableModel):
    """What makes one of transformers' two SAM 3 models a base model, but for the prediction."""

    prompt_slots = {
        "object_queries": PromptSlot("detr_decoder.query_embed", SPATIAL, is_part_of_model=True),
        "class_tokens": PromptSlot("class_tokens", SEMANTIC, pads_tokens=True),
    }
    prompts_explained = (
        "is asked about one class at a time, by *semantic prompts*, a few text tokens (what to look for). *Spatial "
        "prompts* are its queries, each of which proposes one mask of the class (where to look)"
    )
    decodes_by_class = True
    optional_parts = TEXT_PARTS
    class_template = "{}"  # SAM 3 was trained on noun phrases, without a sentence around them

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        for name, value in CONFIG_DEFAULTS.items():
            if not hasattr(self.config, name):
                setattr(self.config, name, value)
        check_reading(self.config.semantic_reading)
        self.class_tokens = Sam3ClassTokens(
            self.config.class_tokens_shape, self.config.detr_encoder_config.hidden_size
        )
        self.vision_encoder.register_forward_pre_hook(_fit_positions)
        if not self.config.has_text_encoder:
            self.text_encoder = self.text_projection = None

    def default_image_processor(self) -> Sam3ImageProcessorPil:
        """Squares of the size that the model was built for."""
        size = {"height": self.config.image_size, "width": self.config.image_size}
        return Sam3ImageProcessorPil(size=size, patch_size=self.config.vision_config.backbone_config.patch_size)

    # Classes

    def set_class_names(
        self, class_names: list[str], tokenizer: Any, thing_class_ids: list[int] | None = None
    ) -> None:
        """
        Let the text encoder make class tokens of names, bit for bit those of `Sam3Processor` and `get_text_features`
        for each name alone, as [`spoken_name`] reads it.

        Raises:
            SSPromptError: no names, or a name of more tokens than the text encoder reads.
            AdapterError: no text encoder.
        """
        if not class_names:
            raise SSPromptError("class_names is empty: name at least one class")
        self._check_text_encoder("make prompts of class names")
        self.class_tokens.weight = text.encode_names(self, list(map(spoken_name, class_names)), tokenizer)
        self.name_classes(class_names, thing_class_ids)
        self.prompts_written()

    def semantic_shape(self, num_classes: int) -> tuple[int | None, ...]:
        """`(K, L, D)`, whatever the number of tokens."""
        return num_classes, None, self.config.detr_encoder_config.hidden_size

    def prompts_written(self) -> None:
        """Let the configuration say the shape of the class tokens, which are saved with the weights."""
        tokens = self.get_submodule(self.prompt_slots["class_tokens"].path).weight
        self.config.class_tokens_shape = None if tokens is None else list(tokens.shape[:2])

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> Tensor:
        """The mean token of each name, `(K, D)`.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: a name that is too long.
        """
        self._check_text_encoder("compare prompts with words")
        return text.mean_token(text.encode_names(self, list(map(spoken_name, class_names)), tokenizer))

    @staticmethod
    def prompt_vectors(prompts: Tensor) -> Tensor:
        """The mean token of each class, `(K, D)`, of `(K, L, D)`."""
        return text.mean_token(prompts)

    # Words

    @property
    def max_text_tokens(self) -> int:
        """32: `Sam3Processor` pads to it."""
        return text.text_length(self.config.text_config)

    def word_embeddings(self) -> nn.Embedding | None:
        """See [`PromptableModel.word_embeddings`]."""
        return None if self.text_encoder is None else text.token_embedding(self.text_encoder)

    def encode_words(self, inputs_embeds: Tensor, ends: Tensor) -> Tensor:
        """
        Class tokens `(K, T, D)` of `(K, T, width)`, zeros after the end tokens; see [`PromptableModel.encode_words`].
        They are those of `get_text_features` for the same tokens, up to rounding where K or T differ.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: more tokens than it reads.
        """
        self._check_text_encoder("encode words")
        if inputs_embeds.shape[1] > self.max_text_tokens:
            raise SSPromptError(f"{inputs_embeds.shape[1]} tokens were given; SAM 3 reads {self.max_text_tokens}")
        tokens = text.encode_embeddings(
            self.text_encoder, self.text_projection, inputs_embeds, ends, self.max_text_tokens
        )
        return tokens.to(torch.promote_types(tokens.dtype, torch.float32))

    def drop_text_encoder(self) -> None:
        """Free the memory of the text encoder, 353 of SAM 3's 840 M parameters. Class tokens that have been made stay;
        the model is saved without it."""
        self.text_encoder = self.text_projection = None
        self.config.has_text_encoder = False

    def _check_text_encoder(self, purpose: str) -> None:
        if self.text_encoder is None:
            raise AdapterError(
                f"this {type(self).__name__} has no text encoder (any more) to {purpose}: load it again with "
                "prompt_encoders=('text',), or from_pretrained without has_text_encoder=False"
            )

    # Features

    @torch.no_grad()
    def image_features(self, pixel_values: Tensor, stage: str = "features") -> CachedFeatures:
        """
        See [`PromptableModel.image_features`]: `fpn_0` to `fpn_2`, `(1, D, h, w)`, and `padded_size`.

        Raises:
            SSPromptError: the image is not square, or its side is no multiple of the size of a patch.
        """
        height, width = pixel_values.shape[-2:]
        patch = self.config.vision_config.backbone_config.patch_size
        if height != width or height % patch:
            raise SSPromptError(
                f"pixel_values are {height}x{width} pixels; SAM 3 takes squares whose side is a multiple of {patch}: "
                "use its image processor"
            )
        levels = self.vision_encoder(pixel_values).fpn_hidden_states[:-1]
        features = {f"fpn_{index}": level for index, level in enumerate(levels)}
        return features | {"padded_size": torch.tensor([height, width])}

    def feature_bytes(self, padded_size: tuple[int, int], stage: str = "features") -> int:
        """See [`PromptableModel.feature_bytes`]; `padded_size` itself, 16 bytes, is counted."""
        return memory.feature_bytes(self.config, tuple(padded_size))

    def decoder_bytes(self, padded_size: tuple[int, int], with_gradient: bool) -> int:
        """See [`PromptableModel.decoder_bytes`]."""
        return memory.decode_bytes(self.config, tuple(padded_size), with_gradient)

    def feature_modules(self, stage: str = "features") -> list[nn.Module]:
        """See [`PromptableModel.feature_modules`]: the vision encoder."""
        return [self.vision_encoder]

    def decoder_inputs(self, features: list[CachedFeatures], device: torch.device | str | None = None) -> dict:
        """`vision_features` for `forward`: a tuple of levels an image, in the model's dtype. They are not joined, as
        images are decoded one by one."""
        images = []
        for image in features:
            levels = [image[f"fpn_{index}"] for index in range(len(image) - 1)]
            # what comes from a file has lost the layout that the vision encoder gives its features
            layout = torch.channels_last
            images.append(
                tuple(level.to(device, self.dtype, non_blocking=True, memory_format=layout) for level in levels)
            )
        return {"vision_features": images}

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers. The configuration says the shape of the class tokens in force, which are saved with the
        weights."""
        self.prompts_written()
        return super().save_pretrained(*args, **kwargs)


def _fit_positions(vision_encoder: nn.Module, args: tuple) -> None:
    """
    Give the vision encoder the positions of square images of another size, as if it had been built for that size.

    In transformers the global layers get the positions of `config.image_size` when they are built, and fail on others.
    """
    size = tuple(args[0].shape[-2:]) if args and isinstance(args[0], Tensor) else ()
    config = vision_encoder.config.backbone_config
    if len(set(size)) != 1 or size[0] % config.patch_size:
        return  # it will say itself what it cannot do
    for layer in vision_encoder.backbone.layers:
        if layer.window_size == 0 and len(layer.position_ids) != math.prod(size) // config.patch_size**2:
            built_for = SimpleNamespace(
                image_size=size[0], patch_size=config.patch_size, window_size=config.window_size
            )
            layer.position_ids = layer.precompute_positions(built_for, 0).to(layer.position_ids.device)
