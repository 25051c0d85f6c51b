"""What libraries raise where there is not enough memory."""

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says so: Python's and NumPy's, that of accelerators, and PyTorch's for the main memory, which
    is an ordinary `RuntimeError`."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
