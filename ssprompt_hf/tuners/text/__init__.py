"""What the methods share that learn words in front of a frozen text encoder."""

from .config import TextPromptConfig
from .layer import TextPromptLayer
from .model import TextPromptTuner
from .tokenizer import base_tokenizer, load_tokenizer

__all__ = ["TextPromptConfig", "TextPromptLayer", "TextPromptTuner", "base_tokenizer", "load_tokenizer"]
