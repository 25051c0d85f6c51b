"""Convolutions as matrix products, without cuDNN."""

import torch
from torch import nn
from torch.nn import functional as F

_conv2d = F.conv2d


def conv2d(features, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    """`torch.nn.functional.conv2d`; those of one pixel, and of 3x3 with a stride of 1, by one matrix product."""
    if groups == 1 and stride in (1, (1, 1)) and dilation in (1, (1, 1)):
        kernel, device_type = tuple(weight.shape[2:]), features.device.type
        columns = None
        if kernel == (1, 1) and padding in (0, (0, 0)):
            columns = features.flatten(2)
        elif kernel == (3, 3) and padding in (1, (1, 1)):
            if torch.is_autocast_enabled(device_type):
                features = features.to(torch.get_autocast_dtype(device_type))
            columns = F.unfold(features, 3, padding=1)
        if columns is not None:
            outputs = torch.matmul(weight.flatten(1), columns).unflatten(2, features.shape[2:])
            return outputs if bias is None else outputs + bias[:, None, None].to(outputs.dtype)
    return _conv2d(features, weight, bias, stride, padding, dilation, groups)


def leave_cudnn_out() -> None:
    """
    Use PyTorch's own kernels for depth-wise convolutions, and matrix products for others, in this process.

    On an H200 with PyTorch 2.11, bfloat16 and images of several sizes, a run with cuDNN had not done 20 steps after 40
    seconds, with or without its benchmarks and in either memory format; without it steps took a quarter of a second
    from the start, two runs side by side.
    """
    torch.backends.cudnn.enabled = False
    nn.functional.conv2d = conv2d
