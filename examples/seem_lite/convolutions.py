"""Convolutions as matrix products, without cuDNN, and the choice between the two."""

import json
import subprocess
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

_conv2d = F.conv2d


def conv2d(features, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> torch.Tensor:
    """`torch.nn.functional.conv2d`; those of one pixel, and of 3x3 with a stride of 1, by matrix products."""
    if groups == 1 and stride in (1, (1, 1)) and dilation in (1, (1, 1)):
        kernel, device_type = tuple(weight.shape[2:]), features.device.type
        is_point, is_square = kernel == (1, 1) and padding in (0, (0, 0)), kernel == (3, 3) and padding in (1, (1, 1))
        if is_point or is_square:
            if torch.is_autocast_enabled(device_type):
                dtype = torch.get_autocast_dtype(device_type)
                features, weight = features.to(dtype), weight.to(dtype)
            columns = features.flatten(2) if is_point else F.unfold(features, 3, padding=1)
            # one product an image: a single one of them all would copy the columns twice
            outputs = torch.bmm(weight.flatten(1).expand(len(columns), -1, -1), columns)
            outputs = outputs.unflatten(2, features.shape[2:])
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


def use_cudnn() -> None:
    """Undo [`leave_cudnn_out`]."""
    torch.backends.cudnn.enabled = True
    nn.functional.conv2d = _conv2d


WAYS = {"products": leave_cudnn_out, "cudnn": use_cudnn}
CUDNN_FORMAT = torch.channels_last
NUM_BATCHES = 3  # sizes of batches that cuDNN makes itself ready for: without and with photographs, and the teacher's


def time_convolutions(steps: Callable[[str], list[Callable[[], None]]], rounds: int = 3) -> None:
    """
    Prints a line of JSON for each way of convolving: the seconds of the first round of steps, in which cuDNN makes
    itself ready, and of a later one.

    Args:
        steps: called with the way; what a round consists of.
        rounds: how many later rounds are timed.
    """
    for way, use in WAYS.items():
        use()
        begun = time.time()
        parts = steps(way)
        for index in range(rounds + 1):
            for part in parts:
                part()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if index == 0:
                first, begun = time.time() - begun, time.time()
        print(json.dumps({"way": way, "first": first, "later": (time.time() - begun) / rounds}), flush=True)


def choose_convolutions(command: list[str], seconds_left: float, limit: float = 35.0) -> str:
    """
    The way of convolving that has done more after `seconds_left`.

    Args:
        command: calls [`time_convolutions`], in a process of its own, as cuDNN may not come back in time.
        limit: seconds after which what has not been measured is out of question.
    """
    try:
        output = subprocess.run(command, stdout=subprocess.PIPE, timeout=limit).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    return fastest(output.decode(), seconds_left)


def fastest(lines: str, seconds_left: float) -> str:
    """Of the lines of [`time_convolutions`] the way that does most rounds in the time that is left; `"products"` if
    there is no other."""
    rounds = {"products": 0.0}
    for line in lines.splitlines():
        if line.startswith("{"):
            times = json.loads(line)
            rounds[times["way"]] = max(0.0, seconds_left - NUM_BATCHES * times["first"]) / times["later"]
    return max(rounds, key=rounds.get)
