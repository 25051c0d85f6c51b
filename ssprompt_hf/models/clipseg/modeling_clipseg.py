"""CLIPSeg as a base model: transformers' own, asked about a list of classes, with prompts that can be learned.

`CLIPSegForImageSegmentation` answers for as many images as phrases. [`CLIPSegForPromptedSegmentation`] is that model
and answers for any number of images and classes: the vision encoder reads an image once, and the decoder, unchanged
inside, is called once a pair, or a few pairs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPSegForImageSegmentation
from transformers.utils import ModelOutput

from ...errors import SSPromptError
from ...segmentation.predictions import ClassPrediction
from ..asked_classes import asked_classes
from ..forward import model_forward
from .phrases import CLIPSegPhrases
from .prompting import TEXT_PARTS, CLIPSegPrompting

CONDITIONS = ("conditional_pixel_values", "conditional_embeddings", "attention_mask", "position_ids", "labels")

PAIRS_AT_ONCE = 32
"""Pairs of image and class that are decoded together on a GPU, which keep half a GB for the gradient. Our own choice,
not measured."""

Activations = tuple[Tensor, ...]
"""Of one image: `(1, T, D)` a layer of `config.extract_layers`."""


@dataclass
class CLIPSegPromptedOutput(ModelOutput):
    """
    Of P pairs of image and class.

    Args:
        logits (`(P, H, W)`): whether a pixel is of the class, at the size of the pixel values.
        image_of, class_of (`(P,)`): int64, the pairs, in the order of images and of classes as they were asked.
        batch_size, num_classes (`int`): B and K.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    image_of: Tensor | None = None
    class_of: Tensor | None = None
    batch_size: int | None = None
    num_classes: int | None = None


class CLIPSegForPromptedSegmentation(CLIPSegPhrases, CLIPSegPrompting, CLIPSegForImageSegmentation):
    """
    `CLIPSegForImageSegmentation` for lists of classes; loads its checkpoints.

    Attributes:
        class_chunk_size (`int`, *optional*): how many classes of an image are decoded together. Results are those of
            `CLIPSegForImageSegmentation` to the bit with 1, which is the default on a CPU; elsewhere it is
            `PAIRS_AT_ONCE`. With more than one they differ by rounding, as matrix products of other shapes are summed
            in another order.
    """

    _keys_to_ignore_on_load_missing = [r"^token_offsets\."]
    _keys_to_ignore_on_load_unexpected = list(TEXT_PARTS)

    no_predictions = ("batch_size", "num_classes")
    class_chunk_size: int | None = None

    @model_forward
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        *args: Any,
        activations: list[Activations] | None = None,
        image_sizes: Tensor | None = None,
        class_indices: list[Tensor] | None = None,
        output_auxiliary_predictions: bool = False,
        **kwargs: Any,
    ) -> CLIPSegPromptedOutput | ModelOutput:
        """
        Ask B images about classes; or, with any argument of `CLIPSegForImageSegmentation.forward` that says what to
        look for, do what that does, bit for bit.

        Args:
            pixel_values: `(B, 3, H, W)`; or
            activations: of `decoder_inputs`.
            image_sizes: not needed, as images fill their squares.
            class_indices: int64 `(C_i,)`, one an image: the classes it is asked about; by default all.
            output_auxiliary_predictions: without effect: the decoder has one output.

        Raises:
            SSPromptError: there are no class embeddings; indices that are none of a class; images that are no squares
                of whole patches.
            AdapterError: token ids, and no text encoder.
        """
        if input_ids is not None or args or any(kwargs.get(name) is not None for name in CONDITIONS):
            if input_ids is not None:
                self._check_text_encoder("read phrases")
            return super().forward(input_ids, pixel_values, *args, **kwargs)
        if (pixel_values is None) == (activations is None):
            raise SSPromptError("pass pixel_values or activations, one of them")
        prompts = self.class_embeddings.weight
        if prompts is None:
            raise SSPromptError("there are no class prompts: call set_class_names, or load an adapter")
        if activations is None:
            features = [self.image_features(pixels[None]) for pixels in pixel_values]
            activations = self.decoder_inputs(features)["activations"]
        device = activations[0][0].device
        prompts = prompts.to(device, self.dtype)
        classes = asked_classes(class_indices, len(activations), len(prompts), device)
        chunk_size = self._chunk_size(device)
        # image by image, so that nothing depends on the company of an image; the decoder itself spreads the tokens of
        # one image over the classes of a chunk
        logits = [
            self.decoder(levels, prompts[part]).logits
            for levels, asked in zip(activations, classes)
            for part in asked.split(chunk_size)
        ]
        counts = torch.tensor([len(asked) for asked in classes], device=device)
        return CLIPSegPromptedOutput(
            logits=torch.cat(logits),
            image_of=torch.arange(len(classes), device=device).repeat_interleave(counts),
            class_of=torch.cat(classes),
            batch_size=len(classes),
            num_classes=len(prompts),
        )

    def _chunk_size(self, device: torch.device) -> int:
        if self.class_chunk_size is None:
            return 1 if device.type == "cpu" else PAIRS_AT_ONCE
        if self.class_chunk_size < 1:
            raise SSPromptError(f"class_chunk_size is {self.class_chunk_size}; it must be 1 or more, or None")
        return self.class_chunk_size

    def predictions(self, outputs: CLIPSegPromptedOutput) -> list[ClassPrediction]:
        """See [`PromptableModel.predictions`]: one, without instances, of which CLIPSeg knows nothing."""
        logits = outputs.logits
        return [
            ClassPrediction(
                maps=logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid(),
                image_of=outputs.image_of,
                class_of=outputs.class_of,
                batch_size=outputs.batch_size,
                num_classes=outputs.num_classes,
            )
        ]
