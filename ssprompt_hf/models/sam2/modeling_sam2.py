"""SAM 2 as a base model: transformers' `Sam2Model`, unchanged inside."""

from torch import Tensor, nn
from transformers import Sam2Model

from ..sam.decoding import Levels, SamDecoding
from .image_processing_sam2 import Sam2ImageProcessorPil


class Sam2ForPromptedSegmentation(SamDecoding, Sam2Model):
    """
    `Sam2Model` for lists of classes; loads its checkpoints, also those of `sam2_video`. See [`SamDecoding`] and
    `models/sam/prompting.py`.

    As in transformers, the one mask of a class is that of the first mask token, or, where that one is not stable, the
    best of the others.
    """

    model_title = "SAM 2"
    pads_images = False

    def default_image_processor(self) -> Sam2ImageProcessorPil:
        """Squares of the size that the model was built for."""
        return Sam2ImageProcessorPil(size={"height": self.image_size, "width": self.image_size})

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
