"""Masks by their runs of pixels, and what they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SSPromptError
from ..utils.run_length import rle_runs


def counts(index: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """int64 (size,): the pixels of the runs of each index."""
    # sums of integers below 2**53 are exact in float64, in which bincount adds up weights
    return np.bincount(index, weights=lengths, minlength=size).astype(np.int64)


@dataclass(frozen=True)
class RunMasks:
    """
    M masks of one image, each given by its runs in the flat transposed image.

    Args:
        shape: (H, W).
        starts, ends: for each mask int64 (R,), without empty runs.
    """

    shape: tuple[int, int]
    starts: list[np.ndarray]
    ends: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def areas(self) -> np.ndarray:
        """int64 (M,), in pixels."""
        pairs = zip(self.starts, self.ends)
        return np.fromiter(((end - start).sum() for start, end in pairs), np.int64, len(self.starts))


def run_masks(masks: Any) -> RunMasks:
    """
    Masks by their runs.

    Args:
        masks: bool (M, H, W), a list of COCO's run-length codes, or `RunMasks`.

    Raises:
        SSPromptError: codes of several sizes, or whose lengths do not add up.
    """
    if is_coded(masks):
        sizes = {tuple(code["size"]) for code in masks}
        if len(sizes) > 1:
            raise SSPromptError(f"The masks of one image have several sizes: {sorted(sizes)}.")
        return RunMasks(sizes.pop(), *rle_runs(masks))
    if isinstance(masks, RunMasks):
        return masks
    pairs = [mask_runs(np.ascontiguousarray(mask.T).reshape(-1)) for mask in masks]
    return RunMasks(masks.shape[1:], [start for start, _ in pairs], [end for _, end in pairs])


def is_coded(masks: Any) -> bool:
    """Whether these are run-length codes, at least one."""
    return isinstance(masks, (list, tuple)) and len(masks) > 0 and isinstance(masks[0], Mapping)


def run_overlaps(first: RunMasks, second: RunMasks) -> np.ndarray:
    """int64 (M, N): the pixels that each of M masks shares with each of N others of the same image."""
    shared = np.zeros((len(first), len(second)), np.int64)
    if not len(first):
        return shared
    mask_of = np.repeat(np.arange(len(first)), [len(starts) for starts in first.starts])
    starts, ends = np.concatenate(first.starts), np.concatenate(first.ends)
    for column, (others, other_ends) in enumerate(zip(second.starts, second.ends)):
        if not len(others):
            continue
        near = np.flatnonzero((ends > others[0]) & (starts < other_ends[-1]))
        pixels = _pixels_before(ends[near], others, other_ends) - _pixels_before(starts[near], others, other_ends)
        shared[:, column] = counts(mask_of[near], pixels, len(first))
    return shared


def _pixels_before(positions: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many pixels of the mask with these runs, at least one, lie before each position."""
    run = np.searchsorted(starts, positions, side="right") - 1
    before = np.cumsum(ends - starts) - (ends - starts)
    return np.where(run < 0, 0, before[run] + np.minimum(positions, ends[run]) - starts[run])


def mask_runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (R,) starts and ends of the runs of True in a flat mask."""
    size = len(mask)
    change = np.empty(size // 8 * 8 + 8, bool)
    change[0], change[size:] = mask[0], False
    np.not_equal(mask[1:], mask[:-1], out=change[1:size])
    # few pixels change: eight at a time are passed over
    words = np.flatnonzero(change.view(np.uint64) != 0)
    word, byte = change.reshape(-1, 8)[words].nonzero()
    positions = words[word] * 8 + byte
    if mask[-1]:
        positions = np.append(positions, size)
    return positions[::2], positions[1::2]
