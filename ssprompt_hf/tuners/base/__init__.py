"""What all prompt methods share: configuration, the layer around a prompt slot, and the tuner."""

from .config import PromptConfig
from .layer import PromptLayer
from .model import PromptTuner

__all__ = ["PromptConfig", "PromptLayer", "PromptTuner"]
