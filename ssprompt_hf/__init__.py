"""ssprompt_hf: adapt promptable segmentation models with learned spatial and semantic prompts."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ssprompt_model import SSPromptModel
    from .tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig

# Imported on first use: `import ssprompt_hf` alone should not wait for torch.
_EXPORTS = {
    "CoOpConfig": ".tuners",
    "LOCNConfig": ".tuners",
    "SSPromptConfig": ".tuners",
    "SSPromptModel": ".ssprompt_model",
    "VSPLConfig": ".tuners",
}

__all__ = ["CoOpConfig", "LOCNConfig", "SSPromptConfig", "SSPromptModel", "VSPLConfig"]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)
