from ..peft_compat import register_prompt_method
from .config import SSPromptConfig
from .layer import SSPromptLayer
from .model import SSPromptTuner
from .point_grid import point_grid_tokens

__all__ = ["SSPromptConfig", "SSPromptLayer", "SSPromptTuner", "point_grid_tokens"]

register_prompt_method("SSPROMPT", SSPromptConfig, SSPromptTuner)
