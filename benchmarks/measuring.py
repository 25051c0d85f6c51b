"""What the benchmarks share: fair timing, the unit of time and inputs."""

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

from ssprompt_hf.models.seem import SeemForUniversalSegmentation
from ssprompt_hf.models.seem.architectures import base_model_config

IMAGE_SIZE = (512, 1024)  # height and width in pixels
CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle", "background",
)  # fmt: skip


def minimum_seconds(functions: dict[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, float]:
    """
    The least time of each function in seconds, of `repeats` rounds after one to warm up.

    The functions take turns, so that all of them meet the quiet moments of a machine that has other work to do; their
    ratios stay comparable where their times do not. With a single CPU thread its processor time is taken, which other
    work hardly changes.
    """
    alone = torch.device(device).type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    best = dict.fromkeys(functions, float("inf"))
    for round_index in range(repeats + 1):
        for name, function in functions.items():
            synchronize(device)
            start = clock()
            result = function()
            synchronize(device)
            elapsed = clock() - start
            del result
            if round_index:
                best[name] = min(best[name], elapsed)
    return best


def synchronize(device: str):
    """Wait for work that the device has only been told of."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def unit_convolution(device: str = "cpu") -> Callable[[], torch.Tensor]:
    """The unit of time: PyTorch's own 3x3 convolution 512 -> 512 on 128x256 (155 GFLOP) in float32."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 512, 128, 256, generator=generator).to(device)
    weight = torch.randn(512, 512, 3, 3, generator=generator).to(device)
    return lambda: F.conv2d(features, weight, padding=1)


def random_model(name: str = "seem-t", **overrides) -> SeemForUniversalSegmentation:
    """A full-size model with random weights, in eval mode, without its text encoder unless that is asked for."""
    torch.manual_seed(0)
    config = base_model_config(name)
    for key, value in {"use_text_model": False, **overrides}.items():
        setattr(config, key, value)
    return SeemForUniversalSegmentation(config).eval()


def random_image(device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """`(1, 3, 512, 1024)`."""
    return torch.randn(1, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of which the least time counts")
    parser.add_argument("--output", type=Path, help="JSON file for the numbers")
    return parser


def write_numbers(numbers: dict, path: Path | None):
    """Write `numbers` and the circumstances as JSON, if a path is given."""
    if path is None:
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    circumstances = {"torch": torch.__version__, "threads": torch.get_num_threads(), "load_average": load}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**circumstances, **numbers}, indent=2) + "\n")
