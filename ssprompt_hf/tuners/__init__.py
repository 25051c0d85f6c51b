"""Prompt methods for PEFT. Importing this package makes them known to it."""

from .base import PromptConfig, PromptLayer, PromptTuner
from .coop import CoOpConfig, CoOpLayer, CoOpTuner
from .locn import LOCNConfig, LOCNLayer, LOCNTuner
from .methods import METHODS
from .peft_compat import PromptPeftType
from .ssprompt import SSPromptConfig, SSPromptLayer, SSPromptTuner, point_grid_tokens
from .vspl import VSPLConfig, VSPLLayer, VSPLTuner

__all__ = [
    "METHODS",
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
