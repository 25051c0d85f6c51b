"""SAM 3 as a base model: transformers' own, asked about a list of classes, with its prompts where they can be learned.

`Sam3Model` answers for one image and one phrase. [`Sam3ForPromptedSegmentation`] is that model and answers for any
number of images and classes: it calls `Sam3Model.forward` once a pair, or a few pairs, and changes nothing inside.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, Sam3LiteTextModel, Sam3Model
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput
from transformers.utils import ModelOutput

from ...errors import AdapterError, SSPromptError
from ...segmentation.predictions import ClassInstances, ClassPrediction, ClassQueries
from ..interface import SEMANTIC, SPATIAL, CachedFeatures, PromptableModel, PromptSlot
from . import memory, text
from .readings import InstanceList, check_reading, class_maps

CONFIG_DEFAULTS = {
    "class_names": None,
    "thing_class_ids": None,
    "class_tokens_shape": None,  # [K, L]
    "has_text_encoder": True,
    "semantic_reading": "fused",
}
"""What our models add to the configuration of transformers' own."""

TEXT_PARTS = (r"^(detector_model\.)?text_encoder\.", r"^(detector_model\.)?text_projection\.")
PHRASES = ("input_ids", "text_embeds", "vision_embeds", "input_boxes", "input_boxes_labels", "attention_mask")

Features = tuple[Tensor, ...]
"""Of one image: `(1, D, h, w)` a level, finest first, without the last level, which the decoder does not read."""


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

    def forward(self) -> Tensor | None:
        """Returns `(K, L, D)`, or None if no class names have been set."""
        return self.weight


@dataclass
class Sam3PromptedOutput(ModelOutput):
    """
    Of P pairs of image and class.

    Args:
        class_maps (`(P, h, w)`): 0 to 1, by `config.semantic_reading`.
        presence_logits (`(P,)`): whether the class is in the image at all.
        semantic_logits (`(P, h, w)`): of the semantic head.
        queries_logits (`(P, Q)`), masks_logits (`(P, Q, h, w)`): of the queries. Missing in inference on all classes,
            where they would not fit into memory.
        instances (`ClassInstances`): the best of them. Missing with gradient.
        image_of, class_of (`(P,)`): int64, the pairs, in the order of images and of classes as they were asked.
        batch_size, num_classes (`int`): B and K.
    """

    loss: Tensor | None = None
    class_maps: Tensor | None = None
    presence_logits: Tensor | None = None
    semantic_logits: Tensor | None = None
    queries_logits: Tensor | None = None
    masks_logits: Tensor | None = None
    instances: ClassInstances | None = None
    image_of: Tensor | None = None
    class_of: Tensor | None = None
    batch_size: int | None = None
    num_classes: int | None = None


class Sam3Prompting(PromptableModel):
    """
    What makes one of transformers' two SAM 3 models a base model.

    Attributes:
        class_chunk_size (`int`, *optional*): how many classes of an image are decoded together; by default as many as
            memory suggests, see [`memory.pairs_at_once`]. Results are those of `Sam3Model` to the bit with 1, which is
            the default on a CPU. With more they differ by rounding (5e-7 in the logits), as matrix products of other
            shapes are summed in another order.
        checkpoint_chunks (`bool`, *optional*): whether training forgets what a chunk computed and computes it again
            for the gradient, which is the same to the bit, takes a third more time, and memory for one chunk only. By
            default if memory would not suffice otherwise.
    """

    prompt_slots = {
        "object_queries": PromptSlot("detr_decoder.query_embed", SPATIAL, is_part_of_model=True),
        "class_tokens": PromptSlot("class_tokens", SEMANTIC),
    }
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
        self.class_chunk_size: int | None = None
        self.checkpoint_chunks: bool | None = None
        self.vision_encoder.register_forward_pre_hook(_fit_positions)
        if not self.config.has_text_encoder:
            self.text_encoder = self.text_projection = None

    # Classes

    def set_class_names(self, class_names: list[str], tokenizer: Any, thing_class_ids: list[int] | None = None):
        """
        Let the text encoder make class tokens of names, bit for bit those of `Sam3Processor` and `get_text_features`
        for each name alone, with underscores read as spaces.

        Raises:
            SSPromptError: no names, or a name of more tokens than the text encoder reads.
            AdapterError: no text encoder.
        """
        if not class_names:
            raise SSPromptError("class_names is empty: name at least one class")
        self._check_text_encoder("make prompts of class names")
        names = [self.class_template.format(self.clean_class_name(name)) for name in class_names]
        self.class_tokens.weight = text.encode_names(self, names, tokenizer)
        self.name_classes(class_names, thing_class_ids)

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> Tensor:
        """The mean token of each name, `(K, D)`.

        Raises:
            AdapterError: no text encoder.
            SSPromptError: a name that is too long.
        """
        self._check_text_encoder("compare prompts with words")
        return text.mean_token(text.encode_names(self, list(map(self.clean_class_name, class_names)), tokenizer))

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

    # Prediction

    def forward(
        self,
        pixel_values: Tensor | None = None,
        *args: Any,
        vision_features: list[Features] | None = None,
        image_sizes: Tensor | None = None,
        class_indices: list[Tensor] | None = None,
        output_auxiliary_predictions: bool = False,
        **kwargs: Any,
    ) -> Sam3PromptedOutput | ModelOutput:
        """
        Ask B images about classes; or, with any argument of `Sam3Model.forward` besides `pixel_values`, do what that
        does, bit for bit.

        Args:
            pixel_values: `(B, 3, H, W)`; or
            vision_features: of `decoder_inputs`.
            image_sizes: not needed, as images fill their squares.
            class_indices: int64 `(C_i,)`, one an image: the classes it is asked about; by default all.
            output_auxiliary_predictions: without effect: SAM 3 applies its heads to the last layer only.

        Returns:
            `Sam3PromptedOutput`. The logits of the queries are kept with gradient or `class_indices`, for the loss;
            instances are kept without gradient.

        Raises:
            SSPromptError: there are no class tokens, or a class without any; indices that are none of a class; a
                reading that does not exist.
        """
        if args or any(kwargs.get(name) is not None for name in PHRASES):
            if kwargs.get("input_ids") is not None or (len(args) > 1 and args[1] is not None):
                self._check_text_encoder("read phrases")
            return super().forward(pixel_values, *args, **kwargs)
        if (pixel_values is None) == (vision_features is None):
            raise SSPromptError("pass pixel_values or vision_features, one of them")
        tokens, mask = self._tokens_in_force()
        if vision_features is None:
            features = [self.image_features(pixels[None]) for pixels in pixel_values]
            vision_features = self.decoder_inputs(features)["vision_features"]
        device = vision_features[0][0].device
        classes = self._classes_to_ask(class_indices, len(vision_features), len(tokens), device)
        check_reading(self.config.semantic_reading)
        keeps_queries = torch.is_grad_enabled() or class_indices is not None
        return self._decode(vision_features, classes, tokens.to(device), mask.to(device), keeps_queries, kwargs)

    def _tokens_in_force(self) -> tuple[Tensor, Tensor]:
        """`(K, L, D)` in the model's dtype, and `(K, L)` bool: which are no padding. L is that of texts with padding:
        the sums of an attention over fewer tokens are other ones in the last bits."""
        tokens = self.class_tokens()
        if tokens is None:
            raise SSPromptError("there are no class prompts: call set_class_names, or load an adapter")
        mask = (tokens != 0).any(-1)
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            empty = (~mask.any(1)).nonzero().flatten().tolist()
            raise SSPromptError(f"the class prompts {empty} are all zeros, so that there is nothing to ask about")
        padding = max(0, self.max_text_tokens - tokens.shape[1])
        tokens = nn.functional.pad(tokens, (0, 0, 0, padding)).to(self.dtype)
        return tokens, nn.functional.pad(mask, (0, padding))

    @staticmethod
    def _classes_to_ask(indices: list[Tensor] | None, num_images: int, num_classes: int, device) -> list[Tensor]:
        if indices is None:
            return [torch.arange(num_classes, device=device)] * num_images
        if len(indices) != num_images:
            raise SSPromptError(f"class_indices are for {len(indices)} images, but there are {num_images}")
        indices = [torch.as_tensor(classes, dtype=torch.long) for classes in indices]
        for classes in indices:
            if classes.ndim != 1 or len(classes) == 0 or classes.min() < 0 or classes.max() >= num_classes:
                raise SSPromptError(
                    f"class_indices holds {classes.tolist()}; an image needs a list of numbers from 0 to "
                    f"{num_classes - 1}, at least one"
                )
        return [classes.to(device) for classes in indices]

    def _decode(
        self,
        vision_features: list[Features],
        classes: list[Tensor],
        tokens: Tensor,
        mask: Tensor,
        keeps_queries: bool,
        kwargs: dict,
    ) -> Sam3PromptedOutput:
        """Image by image, so that nothing depends on the company of an image, and chunk by chunk."""
        has_gradient = torch.is_grad_enabled()
        chunk_size, recompute = self._plan(vision_features[0], sum(map(len, classes)), has_gradient)
        chunks, found = [], []
        for index, (levels, asked) in enumerate(zip(vision_features, classes)):
            instances = InstanceList(index, self.config.detr_decoder_config.num_queries)
            for part in asked.split(chunk_size):
                arguments = (self._decode_pairs, levels, tokens[part], mask[part], kwargs)
                if recompute:
                    chunk = checkpoint(*arguments, use_reentrant=False)
                else:
                    chunk = arguments[0](*arguments[1:])
                maps, presence, semantic, queries, masks = chunk
                if not has_gradient:
                    instances.add(part, queries, masks, presence)
                chunks.append(chunk if keeps_queries else (maps, presence, semantic))
                del chunk, queries, masks  # they would live as long as the next chunk is computed
            found.append(instances)
        parts = [torch.cat(tensors) for tensors in zip(*chunks)] + [None, None]
        counts = torch.tensor([len(asked) for asked in classes], device=tokens.device)
        return Sam3PromptedOutput(
            class_maps=parts[0],
            presence_logits=parts[1],
            semantic_logits=parts[2],
            queries_logits=parts[3],
            masks_logits=parts[4],
            instances=None if has_gradient else InstanceList.join(found),
            image_of=torch.arange(len(classes), device=tokens.device).repeat_interleave(counts),
            class_of=torch.cat(classes),
            batch_size=len(vision_features),
            num_classes=len(tokens),
        )

    def _plan(self, levels: Features, num_pairs: int, has_gradient: bool) -> tuple[int, bool]:
        """How many classes to decode together, and whether to compute them again for the gradient."""
        device, patch = levels[0].device, self.config.vision_config.backbone_config.patch_size
        scale = self.config.vision_config.scale_factors[-2]
        size = tuple(round(side / scale) * patch for side in levels[-1].shape[-2:])
        pair = memory.decode_bytes(self.config, size, has_gradient, levels[0].element_size())
        chunk_size = self.class_chunk_size
        if chunk_size is None:
            chunk_size = memory.pairs_at_once(pair, device)
        elif chunk_size < 1:
            raise SSPromptError(f"class_chunk_size is {chunk_size}; it must be 1 or more, or None")
        recompute = has_gradient and num_pairs > chunk_size
        if recompute:
            recompute = self.checkpoint_chunks
            if recompute is None:
                recompute = not memory.fits(num_pairs * pair, device)
        return chunk_size, recompute

    def _decode_pairs(self, levels: Features, tokens: Tensor, mask: Tensor, kwargs: dict) -> tuple[Tensor, ...]:
        """Maps `(n, h, w)`, presence `(n,)`, semantic logits `(n, h, w)`, scores `(n, Q)` and masks `(n, Q, h, w)` of
        one image and n classes with tokens `(n, L, D)`."""
        encode_positions = self.vision_encoder.neck.position_encoding
        positions = [encode_positions(level.shape, level.device, level.dtype) for level in levels]
        count = len(tokens)
        vision = Sam3VisionEncoderOutput(
            # the model drops the last level unseen
            fpn_hidden_states=(*(level.expand(count, -1, -1, -1) for level in levels), None),
            fpn_position_encoding=(*(position.expand(count, -1, -1, -1) for position in positions), None),
        )
        output = super().forward(
            vision_embeds=vision,
            text_embeds=SimpleNamespace(pooler_output=tokens),
            attention_mask=mask,
            **(kwargs | {"return_dict": True}),
        )
        semantic, presence = output.semantic_seg[:, 0], output.presence_logits[:, 0]
        heads = (semantic, output.pred_logits, output.pred_masks, presence)
        maps = class_maps(*heads, self.config.semantic_reading)
        return maps, presence, semantic, output.pred_logits, output.pred_masks

    def predictions(self, outputs: Sam3PromptedOutput) -> list[ClassPrediction]:
        """See [`PromptableModel.predictions`]: one."""
        queries = None
        if outputs.queries_logits is not None:
            queries = ClassQueries(outputs.queries_logits, outputs.masks_logits)
        return [
            ClassPrediction(
                maps=outputs.class_maps,
                image_of=outputs.image_of,
                class_of=outputs.class_of,
                batch_size=outputs.batch_size,
                num_classes=outputs.num_classes,
                presence_logits=outputs.presence_logits,
                queries=queries,
                instances=outputs.instances,
            )
        ]

    def save_pretrained(self, *args: Any, **kwargs: Any):
        """As in transformers. The configuration says the shape of the class tokens that are saved, which may have come
        from an adapter that was merged."""
        tokens = self.get_submodule(self.prompt_slots["class_tokens"].path).weight
        self.config.class_tokens_shape = None if tokens is None else list(tokens.shape[:2])
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


class Sam3ForPromptedSegmentation(Sam3Prompting, Sam3Model):
    """`Sam3Model` for lists of classes; loads its checkpoints, also those of `sam3_video`."""

    _keys_to_ignore_on_load_unexpected = [*Sam3Model._keys_to_ignore_on_load_unexpected, *TEXT_PARTS]


class Sam3LiteTextForPromptedSegmentation(Sam3Prompting, Sam3LiteTextModel):
    """`Sam3LiteTextModel` for lists of classes; loads its checkpoints."""

    _keys_to_ignore_on_load_unexpected = [*Sam3LiteTextModel._keys_to_ignore_on_load_unexpected, *TEXT_PARTS]
