"""SAM 2: transformers' own model, asked about classes, with its prompts where they can be learned."""

from .image_processing_sam2 import Sam2ImageProcessorPil
from .modeling_sam2 import Sam2ForPromptedSegmentation

__all__ = ["Sam2ForPromptedSegmentation", "Sam2ImageProcessorPil"]
