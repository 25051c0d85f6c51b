"""Prompt methods for PEFT. Importing this package makes them known to it."""

from .config import PromptConfig, PromptPeftType
from .prompt_layer import PromptLayer
from .prompt_tuner import PromptTuner
from .ssprompt import SSPromptConfig, SSPromptLayer, SSPromptTuner, point_grid_tokens

__all__ = [
    "PromptConfig",
    "PromptLayer",
    "PromptPeftType",
    "PromptTuner",
    "SSPromptConfig",
    "SSPromptLayer",
    "SSPromptTuner",
    "point_grid_tokens",
]
