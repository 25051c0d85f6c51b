"""Faster routes on the CPU for the operations that dominate SEEM's cost, equal to PyTorch's own up to rounding.

Which route is taken depends on device, dtype and shapes only, never on whether gradients are recorded: a model gives
the same bits with and without `torch.no_grad()`.
"""

from collections.abc import Callable
from itertools import product

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Below this many multiply-adds a call costs more than it saves.
MIN_LINEAR_SIZE = 2**22
# Likewise for attention: below this many scores a head, PyTorch's own kernel is about as fast, and as a single
# parallel region it suffers less from other work on the same cores.
MIN_SCORES = 2**17
# Temporaries stay in the cache, and below glibc's limit (32 MB) for memory that is fetched from the system anew, and
# zeroed page by page, at each allocation.
CHUNK_ELEMENTS = 2**21


def _plain_cpu(*tensors: torch.Tensor) -> bool:
    """Whether eager float32 code on the CPU is running: compilers, exporters and autocast do better with plain ops."""
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
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
    # Sizes are looked at last: compilers would record them as conditions of the graph.
    if not _ONEDNN_LINEAR or not _plain_cpu(x, weight) or x.numel() * weight.shape[0] < MIN_LINEAR_SIZE:
        return F.linear(x, weight, bias)
    return _OneDnnLinear.apply(x.contiguous(), weight.contiguous(), bias)


class Linear(nn.Linear):
    """`torch.nn.Linear` by way of [`linear`]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight, self.bias)


class Conv1x1(nn.Conv2d):
    """`torch.nn.Conv2d` with a 1x1 kernel, by way of [`linear`]: in channels-last memory the two are the same."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`x @ y` for two matrices; `x` is contiguous, and `y` or its transpose is: oneDNN crawls along other strides."""
    return _OneDnnLinear.apply(x, y.t(), None)


def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """
    `x @ y` for few rows and many columns, as when masks are made of queries and features.

    Args:
        x: `(batch, rows, channels)`.
        y: `(batch, channels, columns)`; channels-last memory is as good as any.

    Returns:
        `(batch, rows, columns)`.
    """
    if not _ONEDNN_LINEAR or not _plain_cpu(x, y) or x.shape[1] * y[0].numel() < MIN_LINEAR_SIZE:
        return x @ y
    if not (y[0].is_contiguous() or y[0].t().is_contiguous()):
        y = y.contiguous()
    products = [_product(*pair)[None] for pair in zip(x.contiguous(), y)]
    return products[0] if len(products) == 1 else torch.cat(products)


def scaled_dot_product_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """
    `torch.nn.functional.scaled_dot_product_attention`, through oneDNN where that pays.

    PyTorch's own kernel cuts a hundred queries into blocks of 32, too small for fast products: it takes two and a half
    times as long. Here a head's scores are computed whole, as they are small beside the image's keys and values.

    Args:
        query: `(batch, heads, queries, head_dim)`.
        keys, values: `(batch, heads, L, head_dim)`, in memory of any order.
        mask: bool, broadcastable to `(batch, heads, queries, L)`; True where a query may look, which for every query
            must be somewhere.

    Returns:
        `(batch, heads, queries, head_dim)`.
    """
    if not _ONEDNN_LINEAR or not _plain_cpu(query, keys, values) or query.shape[2] * keys.shape[2] < MIN_SCORES:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    batch_size, num_heads, num_queries, head_dim = query.shape
    if mask is not None:
        bias = torch.where(mask, 0.0, -torch.inf).expand(batch_size, num_heads, num_queries, keys.shape[2])
    query = (query * head_dim**-0.5).contiguous()
    chunk = max(1, CHUNK_ELEMENTS // keys.shape[2])  # as many queries at a time as keep the scores in the cache
    outputs = []
    for image, head in product(range(batch_size), range(num_heads)):
        head_keys, head_values = keys[image, head].contiguous(), values[image, head].contiguous()
        for first in range(0, num_queries, chunk):
            rows = slice(first, first + chunk)
            scores = _product(query[image, head, rows], head_keys.t())
            if mask is not None:
                scores += bias[image, head, rows]
            outputs.append(_product(scores.softmax(-1), head_values))
    return torch.cat(outputs).view(batch_size, num_heads, num_queries, -1)


def map_tokens(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, width: int) -> torch.Tensor:
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


# Winograd's F(4x4, 3x3) ("Fast Algorithms for Convolutional Neural Networks", Lavin and Gray, 2016): a tile of 4x4
# outputs takes 36 multiplications a channel pair instead of 144. The usual points 0, 1, -1, 2, -2 lose one to two
# digits; with these, errors are about 2e-6 of the largest value (direct: 3e-7; F(2x2, 3x3): 5e-7).
_WINOGRAD_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
_TILE, _WINDOW = 4, 6
MIN_WINOGRAD_CHANNELS = 128
MIN_WINOGRAD_TILES = 64
WINOGRAD_CHUNK_TILES = 128


def _winograd_matrices() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Transforms of a filter (36, 9), an input window (36, 36) and a product (16, 36), for flattened squares."""

    def powers(count):
        infinity = [0.0] * (count - 1) + [1.0]
        rows = [[point**exponent for exponent in range(count)] for point in _WINOGRAD_POINTS]
        return torch.tensor([*rows, infinity], dtype=torch.float64)

    filter_matrix, output_matrix = powers(3), powers(_TILE).T
    input_matrix = torch.linalg.inv(powers(_WINDOW)).T
    return tuple(torch.kron(matrix, matrix).float() for matrix in (filter_matrix, input_matrix, output_matrix))


_FILTER_TRANSFORM, _INPUT_TRANSFORM, _OUTPUT_TRANSFORM = _winograd_matrices()


def _num_tiles(x: torch.Tensor) -> int:
    return -(-x.shape[2] // _TILE) * -(-x.shape[3] // _TILE)


def _winograd(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`conv3x3` by Winograd's algorithm, a few rows of tiles at a time so that temporaries stay in the cache."""
    batch_size, in_channels, height, width = x.shape
    out_channels = weight.shape[0]
    tiles_down, tiles_across = -(-height // _TILE), -(-width // _TILE)
    filters = (_FILTER_TRANSFORM @ weight.flatten(2).permute(2, 0, 1).reshape(9, -1)).view(
        -1, out_channels, in_channels
    )
    multiply = _onednn_linear if _ONEDNN_LINEAR else F.linear
    pixels = x.permute(0, 2, 3, 1)
    output = x.new_empty(batch_size, tiles_down * _TILE, tiles_across * _TILE, out_channels)
    chunk = max(1, WINOGRAD_CHUNK_TILES // tiles_across)
    for first in range(0, tiles_down, chunk):
        rows = min(chunk, tiles_down - first)
        top, bottom = first * _TILE - 1, (first + rows) * _TILE + 1
        inside = slice(max(top, 0), min(bottom, height))
        for image in range(batch_size):
            padded = x.new_zeros(bottom - top, tiles_across * _TILE + 2, in_channels)
            padded[inside.start - top : inside.stop - top, 1 : width + 1] = pixels[image, inside]
            # Overlapping windows, (6, 6, rows, tiles_across, channels)
            windows = padded.unfold(0, _WINDOW, _TILE).unfold(1, _WINDOW, _TILE).permute(3, 4, 0, 1, 2)
            windows = (_INPUT_TRANSFORM @ windows.reshape(_WINDOW**2, -1)).view(_WINDOW**2, -1, in_channels)
            products = x.new_empty(_WINDOW**2, rows * tiles_across, out_channels)
            for window, kernel, result in zip(windows, filters, products):
                result.copy_(multiply(window, kernel))
            tiles = (_OUTPUT_TRANSFORM @ products.flatten(1)).view(_TILE, _TILE, rows, tiles_across, out_channels)
            if bias is not None:
                tiles += bias
            target = output[image, first * _TILE : (first + rows) * _TILE]
            target.view(rows, _TILE, tiles_across, _TILE, out_channels).copy_(tiles.permute(2, 0, 3, 1, 4))
    output = output[:, :height, :width].permute(0, 3, 1, 2)
    return output.contiguous(memory_format=torch.channels_last)


class _WinogradConv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _winograd(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        bias_sizes = [weight.shape[0]] if ctx.has_bias else None
        return torch.ops.aten.convolution_backward(
            grad, x, weight, bias_sizes, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, ctx.needs_input_grad
        )


def conv3x3(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    3x3 convolution of stride 1 and padding 1, on the CPU by Winograd's algorithm where that pays.

    Args:
        x: `(batch, in_channels, height, width)`; channels-last memory saves a copy.
        weight: `(out_channels, in_channels, 3, 3)`.
        bias: `(out_channels,)` or `None`.

    Returns:
        `(batch, out_channels, height, width)`, equal to `F.conv2d(x, weight, bias, padding=1)` up to about 1e-6 of the
        largest value.
    """
    if (
        not _plain_cpu(x, weight)
        or min(weight.shape[:2]) < MIN_WINOGRAD_CHANNELS
        or _num_tiles(x) < MIN_WINOGRAD_TILES
    ):
        return F.conv2d(x, weight, bias, padding=1)
    return _WinogradConv3x3.apply(x, weight, bias)


class Conv3x3(nn.Conv2d):
    """`torch.nn.Conv2d` with a 3x3 kernel, stride 1 and padding 1, by way of [`conv3x3`]."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv3x3(x, self.weight, self.bias)
