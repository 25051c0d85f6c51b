"""SAM 3 and SAM 3 LiteText: transformers' own models, with their prompts where they can be learned."""

from .image_processing_sam3 import Sam3ImageProcessorPil
from .modeling_sam3 import Sam3ForPromptedSegmentation, Sam3LiteTextForPromptedSegmentation, Sam3PromptedOutput

__all__ = [
    "Sam3ForPromptedSegmentation",
    "Sam3ImageProcessorPil",
    "Sam3LiteTextForPromptedSegmentation",
    "Sam3PromptedOutput",
]
