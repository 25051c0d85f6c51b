"""SAM-HQ as a base model: transformers' `SamHQModel`, unchanged inside."""

from typing import Any

from torch import Tensor
from transformers import SamHQModel

from .decoding import Levels
from .modeling_sam import PaddedSamDecoding


class SamHQForPromptedSegmentation(PaddedSamDecoding, SamHQModel):
    """
    `SamHQModel` for lists of classes; loads its checkpoints. See [`SamDecoding`] and `prompting.py`.

    The mask of a class is SAM's first mask and the mask of high quality together, as in transformers by default
    (`hq_token_only=False`).
    """

    model_title = "SAM-HQ"

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """See [`SamPrompting.level_shapes`]: the state after the first layer with global attention, if the vision
        encoder has one, and the image embedding."""
        size, vision = self.prompt_encoder.image_embedding_size, self.config.vision_config
        early = [(vision.hidden_size, *size)] if vision.global_attn_indexes else []
        return [*early, (self.width, *size)]

    def encode_image(self, pixel_values: Tensor) -> Levels:
        """See [`SamPrompting.encode_image`]."""
        embedding, states = self.get_image_embeddings(pixel_values)
        return [*(state.permute(0, 3, 1, 2) for state in states[:1]), embedding]

    def decoder_arguments(self, levels: Levels) -> dict[str, Any]:
        """See [`PaddedSamDecoding.decoder_arguments`]."""
        states = [level.permute(0, 2, 3, 1) for level in levels[:-1]]
        return {"hq_token_only": False, "intermediate_embeddings": states}
