"""CLIPSeg: transformers' own model, with its prompts where they can be learned."""

from .image_processing_clipseg import CLIPSegImageProcessorPil
from .modeling_clipseg import CLIPSegForPromptedSegmentation, CLIPSegPromptedOutput

__all__ = ["CLIPSegForPromptedSegmentation", "CLIPSegImageProcessorPil", "CLIPSegPromptedOutput"]
