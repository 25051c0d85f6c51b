"""SAM 2 and the tracker of SAM 3 as base models: transformers' own models, unchanged inside."""

from typing import Any

from torch import Tensor, nn
from transformers import Sam2Model, Sam3TrackerModel

from ..sam.clicks import SamClicks
from ..sam.decoding import Levels, SamDecoding
from ..sam3.image_processing_sam3 import Sam3ImageProcessorPil
from .image_processing_sam2 import Sam2ImageProcessorPil

VIDEO_WEIGHTS = {
    r"^detector_model\.vision_encoder\.backbone\.": "vision_encoder.backbone.",
    r"^tracker_neck\.": "vision_encoder.neck.",
    r"^tracker_model\.": "",
}
"""Names in `sam3_video` -> those of the tracker."""


class Sam2Decoding(SamClicks, SamDecoding):
    """
    What SAM 2 and its relatives share; see [`SamDecoding`] and `models/sam/prompting.py`.

    As in transformers, the one mask of a class is that of the first mask token, or, where that one is not stable, the
    best of the others.
    """

    model_title = "SAM 2"
    pads_images = False

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """See [`SamPrompting.level_shapes`]: two levels of high resolution, and the image embedding."""
        decoder = self.mask_decoder
        channels = (decoder.conv_s0.out_channels, decoder.conv_s1.out_channels, self.width)
        return [(count, *size) for count, size in zip(channels, self.backbone_feature_sizes)]

    def encode_image(self, pixel_values: Tensor) -> Levels:
        """See [`SamPrompting.encode_image`]."""
        return self.get_image_embeddings(pixel_values)

    def feature_modules(self, stage: str = "features") -> list[nn.Module]:
        """See [`PromptableModel.feature_modules`]: the vision encoder, and what of the rest is applied ahead."""
        decoder = self.mask_decoder
        return [self.vision_encoder, decoder.conv_s0, decoder.conv_s1, nn.ParameterList([self.no_memory_embedding])]

    def decode_masks(
        self, levels: Levels, sparse: Tensor, positions: Tensor, dense: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See [`SamDecoding.decode_masks`]."""
        masks, scores, _, objects = self.mask_decoder(
            image_embeddings=levels[-1],
            image_positional_embeddings=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=levels[:-1],
        )
        return masks[0, :, 0], scores[0, :, 0], objects[0, :, 0]

    def click_arguments(self, levels: Levels) -> dict[str, Any]:
        """See [`SamClicks.click_arguments`]."""
        return {"image_embeddings": levels}


class Sam2ForPromptedSegmentation(Sam2Decoding, Sam2Model):
    """`Sam2Model` for lists of classes; loads its checkpoints, also those of `sam2_video`."""

    def default_image_processor(self) -> Sam2ImageProcessorPil:
        """Squares of the size that the model was built for."""
        return Sam2ImageProcessorPil(size={"height": self.image_size, "width": self.image_size})


class Sam3TrackerForPromptedSegmentation(Sam2Decoding, Sam3TrackerModel):
    """`Sam3TrackerModel` for lists of classes: what SAM 3 has for points, which is SAM 2 on SAM 3's vision encoder.
    Loads its checkpoints, also those of `sam3_video`."""

    model_title = "SAM 3's tracker"

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which renames the weights of `sam3_video` for its own class only."""
        return super().from_pretrained(*args, **{"key_mapping": VIDEO_WEIGHTS} | kwargs)

    def default_image_processor(self) -> Sam3ImageProcessorPil:
        """Squares of the size that the model was built for."""
        return Sam3ImageProcessorPil(size={"height": self.image_size, "width": self.image_size})
