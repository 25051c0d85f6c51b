"""Faster routes on the CPU for the operations that dominate SEEM's cost, equal to PyTorch's own up to rounding.

Which route is taken depends on device, dtype and shapes only, never on whether gradients are recorded: a model gives
the same bits with and without `torch.no_grad()`.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Below this many multiply-adds a call costs more than it saves.
MIN_LINEAR_SIZE = 2**22
# Temporaries stay in the cache, and below glibc's limit (32 MB) for memory that is fetched from the system anew, and
# zeroed page by page, at each allocation.
CHUNK_ELEMENTS = 2**21


def _plain_cpu(*tensors: torch.Tensor) -> bool:
    """Whether eager float32 code on the CPU is running: compilers, exporters and autocast do better with plain ops."""
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def _has_onednn_linear() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_ONEDNN_LINEAR = _has_onednn_linear()


def _onednn_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return _onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _onednn_linear(grad_rows, weight.t().contiguous()).view_as(x)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_rows.t() @ x.reshape(-1, x.shape[-1])
        if ctx.needs_input_grad[2]:
            grad_bias = grad_rows.sum(0)
        return grad_x, grad_weight, grad_bias


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    `torch.nn.functional.linear`, through oneDNN where that pays.

    PyTorch sends float32 matrix products to MKL, which on CPUs of other makers uses less than half of the machine
    (measured on an AMD EPYC, two threads: 180 against 420 GFLOP/s). PyTorch's convolutions go through oneDNN already.

    Args:
        x: `(..., in_features)`.
        weight: `(out_features, in_features)`.
        bias: `(out_features,)` or `None`.

    Returns:
        `(..., out_features)`.
    """
    if not _ONEDNN_LINEAR or x.numel() * weight.shape[0] < MIN_LINEAR_SIZE or not _plain_cpu(x, weight):
        return F.linear(x, weight, bias)
    return _OneDnnLinear.apply(x.contiguous(), weight.contiguous(), bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of [`linear`]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


def map_tokens(function, x: torch.Tensor, width: int) -> torch.Tensor:
    """
    `function(x)` for a function of single tokens, such as an MLP, in chunks whose widest intermediate fits the cache.

    Args:
        function: maps `(tokens, channels)` to `(tokens, channels)`.
        x: `(..., channels)`.
        width: channels of the widest intermediate result.

    Returns:
        Tensor of the shape of `x`.
    """
    if not _plain_cpu(x) or x.numel() // x.shape[-1] * width <= CHUNK_ELEMENTS:
        return function(x)
    chunks = x.reshape(-1, x.shape[-1]).split(max(1, CHUNK_ELEMENTS // width))
    return torch.cat([function(chunk) for chunk in chunks]).view(x.shape)
