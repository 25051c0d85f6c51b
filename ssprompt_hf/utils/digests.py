"""Digests of tensors: what they hold, whatever file they are in."""

import hashlib
from collections.abc import Mapping

import torch


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The tensor's values; through uint8, as numpy knows no bfloat16."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hexadecimal SHA-256 digest of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
