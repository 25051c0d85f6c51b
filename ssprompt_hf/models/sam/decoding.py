"""What asks SAM or SAM 2 about images and classes: one batched call of transformers' mask decoder an image."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from ...errors import SSPromptError
from ..asked_classes import asked_classes
from ..forward import model_forward
from .predictions import MaskPrediction, class_maps
from .prompting import SamPrompting

OWN_PROMPTS = ("input_points", "input_labels", "input_boxes", "input_masks", "image_embeddings", "multimask_output")
"""Arguments of transformers' `forward`, which is called if there is any of them."""

MAX_PAIRS = 32
"""Pairs of image and class that are decoded together, and whose gradients are kept, by default."""

Levels = list[Tensor]
"""Of one image: `(1, C, h, w)` a level, finest first; the last is the image embedding."""


@dataclass
class SamPromptedOutput(ModelOutput):
    """
    Of P pairs of image and class.

    Args:
        class_maps (`(P, h, w)`): 0 to 1, see [`class_maps`].
        masks_logits (`(P, h, w)`), iou_scores (`(P,)`): as in transformers with `multimask_output=False`.
        object_score_logits (`(P,)`): whether there is an object at all; None in SAM.
        image_of, class_of (`(P,)`): int64, the pairs, in the order of images and of classes as they were asked.
        batch_size, num_classes (`int`): B and K.
    """

    loss: Tensor | None = None
    class_maps: Tensor | None = None
    masks_logits: Tensor | None = None
    iou_scores: Tensor | None = None
    object_score_logits: Tensor | None = None
    image_of: Tensor | None = None
    class_of: Tensor | None = None
    batch_size: int | None = None
    num_classes: int | None = None


class SamDecoding(SamPrompting):
    """
    `forward` and `predictions` of SAM and SAM 2.

    Attributes:
        class_chunk_size (`int`): how many classes of an image are decoded together. Results are to the bit those of
            transformers' model with so many sets of points, and differ by rounding from those of each class alone.
            Training of more pairs of image and class than this forgets what a chunk computed and computes it again for
            the gradient, which is the same to the bit.
    """

    no_predictions = ("batch_size", "num_classes")
    class_chunk_size = MAX_PAIRS

    @model_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        *args: Any,
        vision_features: list[Levels] | None = None,
        image_sizes: Tensor | None = None,
        class_indices: list[Tensor] | None = None,
        output_auxiliary_predictions: bool = False,
        **kwargs: Any,
    ) -> SamPromptedOutput | ModelOutput:
        """
        Ask B images about classes; or, with points, boxes or masks, do what transformers' model does, bit for bit.

        Args:
            pixel_values: `(B, 3, H, W)`; or
            vision_features: of `decoder_inputs`.
            image_sizes: `(B, 2)`, height and width of each image without padding; what coordinates are shares of.
            class_indices: int64 `(C_i,)`, one an image: the classes it is asked about; by default all.
            output_auxiliary_predictions: without effect: there are none.

        Raises:
            SSPromptError: there are no class tokens; indices that are none of a class; images of another size.
        """
        if args or any(kwargs.get(name) is not None for name in OWN_PROMPTS):
            return super().forward(pixel_values, *args, **kwargs)
        if (pixel_values is None) == (vision_features is None):
            raise SSPromptError("pass pixel_values or vision_features, one of them")
        if self.class_chunk_size < 1:
            raise SSPromptError(f"class_chunk_size is {self.class_chunk_size}; it must be 1 or more")
        tokens = self.class_tokens.weight
        if tokens is None:
            raise SSPromptError("there are no class prompts: call set_class_names, or load an adapter")
        if vision_features is None:
            features = [self.image_features(pixels[None]) for pixels in pixel_values]
            vision_features = self.decoder_inputs(features, pixel_values.device)["vision_features"]
        count, device = len(vision_features), vision_features[0][0].device
        classes = asked_classes(class_indices, count, len(tokens), device)
        points = self._spatial_tokens(image_sizes, count)
        tokens = tokens.to(device, self.dtype)
        context = self.get_image_wide_positional_embeddings(), self.prompt_encoder(None, None, None, None)[1]
        recompute = torch.is_grad_enabled() and sum(map(len, classes)) > self.class_chunk_size
        chunks = []
        for levels, own_points, asked in zip(vision_features, points, classes):
            for part in asked.split(self.class_chunk_size):
                arguments = (levels, own_points.to(device), tokens[part], context)
                if recompute:
                    chunks.append(checkpoint(self._decode_chunk, *arguments, use_reentrant=False))
                else:
                    chunks.append(self._decode_chunk(*arguments))
        masks, scores, objects = (None if parts[0] is None else torch.cat(parts) for parts in zip(*chunks))
        lengths = torch.tensor([len(asked) for asked in classes], device=device)
        return SamPromptedOutput(
            class_maps=class_maps(masks, scores, objects),
            masks_logits=masks,
            iou_scores=scores,
            object_score_logits=objects,
            image_of=torch.arange(count, device=device).repeat_interleave(lengths),
            class_of=torch.cat(classes),
            batch_size=count,
            num_classes=len(tokens),
        )

    def _decode_chunk(
        self, levels: Levels, points: Tensor, tokens: Tensor, context: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Masks `(n, h, w)`, scores `(n,)` and object scores `(n,)` of one image and n classes, of points `(N, D)` and
        tokens `(n, T, D)`."""
        sparse = torch.cat([points.expand(len(tokens), -1, -1), tokens], dim=1)[None]
        return self.decode_masks(levels, sparse, *context)

    def decode_masks(
        self, levels: Levels, sparse: Tensor, positions: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        One call of the mask decoder, with `multimask_output=False`.

        Args:
            levels: of one image.
            sparse: `(1, n, N + T, D)`, prompts.
            positions, dense: `(1, D, h, w)`, of the image's positions and of "no mask".

        Returns:
            `(n, 4 h, 4 w)` logits, `(n,)` IoU scores, and `(n,)` logits of an object; None without.
        """
        raise NotImplementedError

    def predictions(self, outputs: SamPromptedOutput) -> list[MaskPrediction]:
        """See [`PromptableModel.predictions`]: one. What SAM 2 says of an object is the class's presence."""
        return [
            MaskPrediction(
                maps=outputs.class_maps,
                image_of=outputs.image_of,
                class_of=outputs.class_of,
                batch_size=outputs.batch_size,
                num_classes=outputs.num_classes,
                presence_logits=outputs.object_score_logits,
                padded_size=(self.image_size, self.image_size) if self.pads_images else None,
            )
        ]
