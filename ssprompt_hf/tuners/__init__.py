"""Prompt methods for PEFT. Importing this package makes them known to it."""

from .config import PromptConfig, PromptPeftType
from .coop import CoOpConfig, CoOpLayer, CoOpTuner
from .locn import LOCNConfig, LOCNLayer, LOCNTuner
from .prompt_layer import PromptLayer
from .prompt_tuner import PromptTuner
from .ssprompt import SSPromptConfig, SSPromptLayer, SSPromptTuner, point_grid_tokens
from .vspl import VSPLConfig, VSPLLayer, VSPLTuner

__all__ = [
    "CoOpConfig",
    "CoOpLayer",
    "CoOpTuner",
    "LOCNConfig",
    "LOCNLayer",
    "LOCNTuner",
    "PromptConfig",
    "PromptLayer",
    "PromptPeftType",
    "PromptTuner",
    "SSPromptConfig",
    "SSPromptLayer",
    "SSPromptTuner",
    "VSPLConfig",
    "VSPLLayer",
    "VSPLTuner",
    "point_grid_tokens",
]
