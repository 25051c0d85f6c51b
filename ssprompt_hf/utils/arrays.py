"""Arrays of whatever kind."""

from typing import Any

import numpy as np
import torch


def as_array(value: Any) -> np.ndarray:
    """A numpy array of a tensor on any device, an array or nested lists."""
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
