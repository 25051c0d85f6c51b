"""SAM: transformers' own model, asked about classes, with its prompts where they can be learned."""

from .image_processing_sam import SamImageProcessorPil
from .modeling_sam import SamForPromptedSegmentation

__all__ = ["SamForPromptedSegmentation", "SamImageProcessorPil"]
