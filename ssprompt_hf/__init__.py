"""ssprompt_hf: adapt promptable segmentation models with learned spatial and semantic prompts."""

import importlib
from typing import TYPE_CHECKING

from .utils.version import __version__

if TYPE_CHECKING:
    from .model import SSPromptModel
    from .studio.app import SSPromptStudio
    from .training.arguments import SSPromptTrainingArguments
    from .training.evaluation_runs import evaluate_adapter, evaluate_adapters
    from .training.runs import train_adapter
    from .training.settings import DataArguments, PromptArguments
    from .training.trainer import SSPromptTrainer
    from .tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig

# Imported on first use: `import ssprompt_hf` alone should not wait for torch.
_EXPORTS = {
    "CoOpConfig": ".tuners",
    "DataArguments": ".training.settings",
    "LOCNConfig": ".tuners",
    "PromptArguments": ".training.settings",
    "SSPromptConfig": ".tuners",
    "SSPromptModel": ".model",
    "SSPromptStudio": ".studio.app",
    "SSPromptTrainer": ".training.trainer",
    "SSPromptTrainingArguments": ".training.arguments",
    "VSPLConfig": ".tuners",
    "evaluate_adapter": ".training.evaluation_runs",
    "evaluate_adapters": ".training.evaluation_runs",
    "train_adapter": ".training.runs",
}

__all__ = [
    "CoOpConfig",
    "DataArguments",
    "LOCNConfig",
    "PromptArguments",
    "SSPromptConfig",
    "SSPromptModel",
    "SSPromptStudio",
    "SSPromptTrainer",
    "SSPromptTrainingArguments",
    "VSPLConfig",
    "__version__",
    "evaluate_adapter",
    "evaluate_adapters",
    "train_adapter",
]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
