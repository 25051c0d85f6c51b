"""Resizing, flipping, and the targets of the three tasks."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import SSPromptError
from ..utils.tasks import TASKS
from .classes import IGNORE_INDEX


def shorter_side_size(size: tuple[int, int], shortest_edge: int, longest_edge: int | None = None) -> tuple[int, int]:
    """(H, W) after resizing so that the shorter side is `shortest_edge` pixels, the longer rounded down.

    Where the longer side would pass `longest_edge`, it becomes `longest_edge` and the shorter follows.
    """
    height, width = size
    short, long = shortest_edge, int(shortest_edge * max(height, width) / min(height, width))
    if longest_edge is not None and long > longest_edge:
        short, long = max(1, int(longest_edge * short / long)), longest_edge
    return (short, long) if height <= width else (long, short)


def resize_example(example: dict[str, Any], shortest_edge: int, longest_edge: int | None = None) -> dict[str, Any]:
    """A copy of an example with a shorter side of `shortest_edge` pixels: image bicubic, maps nearest."""
    size = shorter_side_size(example["image"].shape[:2], shortest_edge, longest_edge)
    if size == example["image"].shape[:2]:
        return dict(example)
    target = (size[1], size[0])
    resized = dict(example)
    resized["image"] = np.asarray(Image.fromarray(example["image"]).resize(target, Image.Resampling.BICUBIC))
    for key in ("label", "instance"):
        if key in example:
            resized[key] = np.asarray(Image.fromarray(example[key]).resize(target, Image.Resampling.NEAREST))
    return resized


def draw_flip(seed: int, epoch: int, index: int) -> bool:
    """Whether image `index` is mirrored in `epoch`: a fair coin that depends on these three alone, so that a resumed
    run, and any number of processes or workers, draw the same."""
    return hashlib.sha256(f"flip {int(seed)} {int(epoch)} {int(index)}".encode()).digest()[0] < 128


def flip_example(example: dict[str, Any]) -> dict[str, Any]:
    """A copy of an example mirrored left to right."""
    maps = {
        key: np.ascontiguousarray(example[key][:, ::-1]) for key in ("image", "label", "instance") if key in example
    }
    return example | maps


def mask_targets(
    label: np.ndarray,
    instance: np.ndarray | None = None,
    thing_indices: Sequence[int] = (),
    task: str = "semantic",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks and their classes, for matching losses.

    Args:
        label: uint8 (H, W), class index, 255 ignored.
        instance: integer (H, W), 0 where there is no instance; needed for things in instance and panoptic targets.
        thing_indices: class indices of the countable classes.
        task: `semantic`: one mask per class present; `instance`: one per instance of a thing; `panoptic`: one per
            instance of a thing and one per stuff class present. Thing pixels without instance belong to no mask.

    Returns:
        int64 (M,) class indices, and bool (M, H, W) disjoint masks, ordered by class and instance; M may be 0.

    Raises:
        SSPromptError: an unknown task, or things without instance map.
    """
    if task not in TASKS:
        raise SSPromptError(f"`task` must be one of {', '.join(TASKS)}, not {task!r}.")
    things = np.zeros(IGNORE_INDEX + 1, bool)
    if task != "semantic":
        things[list(thing_indices)] = True
    is_thing = things[label]
    if instance is None:
        if task == "instance" or is_thing.any():
            raise SSPromptError(
                f"{task} targets need instance maps; this data set has none. Train with task='semantic'."
            )
        instance = np.zeros(label.shape, np.int64)
    # one number a segment: class and instance together, 0 as instance of stuff
    segment = label.astype(np.int64) << 32
    segment[is_thing] |= instance[is_thing].astype(np.int64)
    keep = (label != IGNORE_INDEX) & ~(is_thing & (instance == 0))
    if task == "instance":
        keep &= is_thing
    segments = np.unique(segment[keep])
    masks = (segment[None] == segments[:, None, None]) & keep
    return torch.from_numpy(segments >> 32), torch.from_numpy(masks)
