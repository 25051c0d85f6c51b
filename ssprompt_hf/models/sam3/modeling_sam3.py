"""SAM 3 as a base model: transformers' own, asked about a list of classes, with its prompts where they can be learned.

`Sam3Model` answers for one image and one phrase. [`Sam3ForPromptedSegmentation`] is that model and answers for any
number of images and classes: it calls `Sam3Model.forward` once a pair, or a few pairs, and changes nothing inside.
"""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig, Sam3LiteTextModel, Sam3Model
from transformers.utils import ModelOutput

from ...errors import SSPromptError
from ...segmentation.predictions import ClassInstances, ClassPrediction, ClassQueries
from ..asked_classes import asked_classes
from ..forward import model_forward
from ..transformers_compat import Sam3VisionEncoderOutput
from . import memory
from .phrases import Sam3Phrases
from .prompting import TEXT_PARTS, Sam3Prompting
from .readings import InstanceList, check_reading, class_maps

PHRASES = ("input_ids", "text_embeds", "vision_embeds", "input_boxes", "input_boxes_labels", "attention_mask")

Features = tuple[Tensor, ...]
"""Of one image: `(1, D, h, w)` a level, finest first, without the last level, which the decoder does not read."""


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


class Sam3Decoding(Sam3Prompting):
    """
    What asks one of transformers' two SAM 3 models about images and classes.

    Attributes:
        class_chunk_size (`int`, *optional*): how many classes of an image are decoded together; by default as many as
            memory suggests, see [`memory.pairs_at_once`]. Results are those of `Sam3Model` to the bit with 1, which is
            the default on a CPU. With more they differ by rounding (5e-7 in the logits), as matrix products of other
            shapes are summed in another order.
        checkpoint_chunks (`bool`, *optional*): whether training forgets what a chunk computed and computes it again
            for the gradient, which is the same to the bit, takes a third more time, and memory for one chunk and the
            outputs of the others. By default if memory would not suffice otherwise.
    """

    no_predictions = ("instances", "batch_size", "num_classes")

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        self.class_chunk_size: int | None = None
        self.checkpoint_chunks: bool | None = None

    @model_forward
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
        classes = asked_classes(class_indices, len(vision_features), len(tokens), device)
        check_reading(self.config.semantic_reading)
        keeps_queries = torch.is_grad_enabled() or class_indices is not None
        return self._decode(vision_features, classes, tokens.to(device), mask.to(device), keeps_queries, kwargs)

    def _tokens_in_force(self) -> tuple[Tensor, Tensor]:
        """`(K, L, D)` in the model's dtype, and `(K, L)` bool: which are no padding. L is that of texts with padding:
        the sums of an attention over fewer tokens are other ones in the last bits."""
        tokens = self.class_tokens.weight
        if tokens is None:
            raise SSPromptError("there are no class prompts: call set_class_names, or load an adapter")
        mask = (tokens != 0).any(-1)
        if not torch.compiler.is_compiling() and not mask.any(1).all():
            empty = (~mask.any(1)).nonzero().flatten().tolist()
            raise SSPromptError(f"the class prompts {empty} are all zeros, so that there is nothing to ask about")
        padding = max(0, self.max_text_tokens - tokens.shape[1])
        tokens = nn.functional.pad(tokens, (0, 0, 0, padding)).to(self.dtype)
        return tokens, nn.functional.pad(mask, (0, padding))

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

    def vision_output(self, levels: Features, count: int = 1) -> Sam3VisionEncoderOutput:
        """What `Sam3Model.forward` takes as `vision_embeds`, of one image for `count` questions."""
        encode_positions = self.vision_encoder.neck.position_encoding
        positions = [encode_positions(level.shape, level.device, level.dtype) for level in levels]
        return Sam3VisionEncoderOutput(
            # the model drops the last level unseen
            fpn_hidden_states=(*(level.expand(count, -1, -1, -1) for level in levels), None),
            fpn_position_encoding=(*(position.expand(count, -1, -1, -1) for position in positions), None),
        )

    def _decode_pairs(self, levels: Features, tokens: Tensor, mask: Tensor, kwargs: dict) -> tuple[Tensor, ...]:
        """Maps `(n, h, w)`, presence `(n,)`, semantic logits `(n, h, w)`, scores `(n, Q)` and masks `(n, Q, h, w)` of
        one image and n classes with tokens `(n, L, D)`."""
        vision = self.vision_output(levels, len(tokens))
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


class Sam3ForPromptedSegmentation(Sam3Phrases, Sam3Decoding, Sam3Model):
    """`Sam3Model` for lists of classes; loads its checkpoints, also those of `sam3_video`."""

    _keys_to_ignore_on_load_unexpected = [*Sam3Model._keys_to_ignore_on_load_unexpected, *TEXT_PARTS]


class Sam3LiteTextForPromptedSegmentation(Sam3Phrases, Sam3Decoding, Sam3LiteTextModel):
    """`Sam3LiteTextModel` for lists of classes; loads its checkpoints."""

    _keys_to_ignore_on_load_unexpected = [*Sam3LiteTextModel._keys_to_ignore_on_load_unexpected, *TEXT_PARTS]
