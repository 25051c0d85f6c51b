"""SAM 2 and the tracker of SAM 3: transformers' own models, asked about classes, with prompts that can be learned."""

from .image_processing_sam2 import Sam2ImageProcessorPil
from .modeling_sam2 import Sam2ForPromptedSegmentation, Sam3TrackerForPromptedSegmentation

__all__ = ["Sam2ForPromptedSegmentation", "Sam2ImageProcessorPil", "Sam3TrackerForPromptedSegmentation"]
