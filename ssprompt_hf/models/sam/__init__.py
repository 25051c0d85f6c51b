"""SAM and SAM-HQ: transformers' own model, asked about classes, with its prompts where they can be learned."""

from .image_processing_sam import SamImageProcessorPil
from .modeling_sam import SamForPromptedSegmentation
from .modeling_sam_hq import SamHQForPromptedSegmentation

__all__ = ["SamForPromptedSegmentation", "SamHQForPromptedSegmentation", "SamImageProcessorPil"]
