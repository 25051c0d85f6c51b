"""ssprompt_hf: adapt promptable segmentation models with learned spatial and semantic prompts."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ssprompt_model import SSPromptModel
    from .tuners import SSPromptConfig

# Imported on first use: `import ssprompt_hf` alone should not wait for torch.
_EXPORTS = {"SSPromptConfig": ".tuners", "SSPromptModel": ".ssprompt_model"}

__all__ = ["SSPromptConfig", "SSPromptModel"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
