"""SAM as a base model: transformers' `SamModel`, unchanged inside."""

from typing import Any

import torch
from torch import Tensor
from transformers import SamModel

from .clicks import SamClicks
from .decoding import Levels, SamDecoding
from .image_processing_sam import SamImageProcessorPil


class PaddedSamDecoding(SamClicks, SamDecoding):
    """What SAM and SAM-HQ share: images are padded to the square."""

    model_title = "SAM"
    pads_images = True
    click_dtype = torch.float64

    def default_image_processor(self) -> SamImageProcessorPil:
        """Squares of the size that the model was built for."""
        side = self.image_size
        return SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})

    def decoder_arguments(self, levels: Levels) -> dict[str, Any]:
        """What the mask decoder takes besides."""
        return {}

    def decode_masks(
        self, levels: Levels, sparse: Tensor, positions: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        """See [`SamDecoding.decode_masks`]."""
        masks, scores = self.mask_decoder(
            image_embeddings=levels[-1],
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            **self.decoder_arguments(levels),
        )
        return masks[0, :, 0], scores[0, :, 0], None

    def click_arguments(self, levels: Levels) -> dict[str, Any]:
        """See [`SamClicks.click_arguments`]."""
        return {"image_embeddings": levels[-1], **self.decoder_arguments(levels)}


class SamForPromptedSegmentation(PaddedSamDecoding, SamModel):
    """`SamModel` for lists of classes; loads its checkpoints. See [`SamDecoding`] and `prompting.py`."""

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """See [`SamPrompting.level_shapes`]: the image embedding alone."""
        return [(self.width, *self.prompt_encoder.image_embedding_size)]

    def encode_image(self, pixel_values: Tensor) -> Levels:
        """See [`SamPrompting.encode_image`]."""
        return [self.get_image_embeddings(pixel_values)]
