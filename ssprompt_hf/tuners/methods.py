"""The methods that can be trained and compared, by the names that users write."""

from .base.config import PromptConfig
from .coop import CoOpConfig
from .locn import LOCNConfig
from .ssprompt import SSPromptConfig
from .vspl import VSPLConfig

METHODS: dict[str, type[PromptConfig] | None] = {
    "zero_shot": None,
    "ssprompt": SSPromptConfig,
    "spaprompt": SSPromptConfig,
    "semprompt": SSPromptConfig,
    "coop": CoOpConfig,
    "locn": LOCNConfig,
    "vspl": VSPLConfig,
}
"""In the order of the paper's tables, with the configurations behind them. `spaprompt` and `semprompt` are the spatial
and the semantic half of SSPrompt; `zero_shot` learns nothing."""
