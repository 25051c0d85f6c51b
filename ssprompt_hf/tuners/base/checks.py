"""Whether the name and the tensors of an adapter are such as a model can have."""

import torch
from torch import nn

from ...errors import AdapterError
from ..peft_compat import BufferDict
from .layer import Shape

RESERVING = nn.ParameterDict(), nn.ModuleDict(), BufferDict()
"""What has attributes that no adapter can be called."""

PROMPT_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""That prompts may be stored in. Of floats with eight bits and less, PyTorch can hardly compute anything."""


def check_adapter_name(name: str) -> None:
    """
    Raises:
        AdapterError: PyTorch's dictionaries of parameters, which hold adapters by their names, cannot have one of this
            name: it is that of something else in them (`"copy"`, `"items"`), is empty, or has a dot.
    """
    if not name or "." in name or any(hasattr(kind, name) for kind in RESERVING):
        raise AdapterError(
            f"adapter_name is {name!r}, which PyTorch's dictionaries of parameters cannot hold (it is empty, has a "
            "dot, or is the name of one of their methods): choose another name"
        )


def check_adapter_tensors(expected: dict[str, Shape], tensors: dict[str, torch.Tensor]) -> None:
    """
    Raises:
        AdapterError: tensors are missing or unknown, or have another shape or values that are not finite.
    """
    if missing := sorted(set(expected) - set(tensors)):
        raise AdapterError(
            f"the adapter's file lacks {missing[0]} ({len(missing)} of {len(expected)} tensors missing)"
        )
    if unknown := sorted(set(tensors) - set(expected)):
        raise AdapterError(f"the adapter's file holds {unknown[0]}, which its configuration has no use for")
    for name, shape in expected.items():
        found = tuple(tensors[name].shape)
        if len(found) != len(shape) or any(wanted not in (None, side) for side, wanted in zip(found, shape)):
            wanted = ", ".join("any" if side is None else str(side) for side in shape)
            raise AdapterError(
                f"{name} has shape {found} in the adapter's file; configuration and base model need ({wanted})"
            )
        if tensors[name].dtype not in PROMPT_DTYPES:
            known = ", ".join(str(dtype).removeprefix("torch.") for dtype in PROMPT_DTYPES)
            raise AdapterError(f"{name} has the type {tensors[name].dtype} in the adapter's file; prompts are {known}")
        if not tensors[name].isfinite().all():
            raise AdapterError(f"{name} holds values that are not finite: the adapter's file is damaged")
