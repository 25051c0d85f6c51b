"""COCO's run-length codes of masks: lengths of runs down the columns, alternately outside and inside.

Source: `common/maskApi.c` of https://github.com/cocodataset/cocoapi.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SSPromptError


def coco_rle(mask: np.ndarray) -> dict[str, Any]:
    """
    A mask in COCO's compressed run-length code, equal to that of `pycocotools.mask.encode`.

    Args:
        mask: bool (H, W).

    Returns:
        `size` [H, W] and `counts`, a text.
    """
    height, width = mask.shape
    change = np.empty((height, width), bool)
    # a pixel and the one above it; above the first row of a column is the end of the column before
    np.not_equal(mask[1:], mask[:-1], out=change[1:])
    change[0, 1:] = mask[0, 1:] != mask[-1, :-1]
    change[0, :1] = mask[0, :1]
    row, column = np.divmod(np.flatnonzero(change), width)
    positions = np.sort(column * height + row)
    counts = np.diff(positions, prepend=0, append=height * width)
    return {"size": [height, width], "counts": _compressed(counts)}


def rle_runs(codes: Sequence[Mapping[str, Any]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    The runs of masks in COCO's run-length code; of all masks at once, as each of them is little work.

    Args:
        codes: each with `size` [H, W] and `counts`: a text (str or bytes) as `coco_rle` writes it, or a list of
            lengths.

    Returns:
        for each mask, int64 (R,) starts and ends of the runs inside it, in the flat transposed mask; none is empty.

    Raises:
        SSPromptError: lengths that do not add up to the size.
    """
    lengths, numbers = _expanded([_as_text(code["counts"]) for code in codes])
    positions, lasts = np.concatenate([[0], np.cumsum(lengths)]), np.cumsum(numbers)
    starts, ends = [], []
    for code, first, last in zip(codes, lasts - numbers, lasts):
        height, width = code["size"]
        bounds = positions[first : last + 1] - positions[first]
        if bounds[-1] != height * width or (bounds[1:] < bounds[:-1]).any():
            raise SSPromptError(
                f"A run-length code of size {height}x{width} has lengths that add up to {bounds[-1]} pixels; its "
                f"`counts` are not those of a mask of {height * width} pixels."
            )
        # bounds[1] ends the first run outside and begins the first inside
        begin, end = bounds[1:-1:2], bounds[2::2]
        filled = begin < end
        starts.append(begin[filled])
        ends.append(end[filled])
    return starts, ends


def _as_text(counts: str | bytes | Sequence[int]) -> bytes:
    if isinstance(counts, bytes):
        return counts
    return (counts if isinstance(counts, str) else _compressed(np.asarray(counts, np.int64))).encode("ascii")


def _compressed(counts: np.ndarray) -> str:
    """Five bits a character, lowest first, of each count; from the fourth on of its difference to the last but one."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    characters, used = [], []
    more = np.ones(len(values), bool)
    while more.any():
        bits, values = values & 31, values >> 5
        used.append(more)
        more = more & (values != np.where(bits & 16, -1, 0))
        characters.append(bits + 32 * more + 48)
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def _expanded(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """The counts that `_compressed` wrote, of all texts one after the other, and how many each text has."""
    characters = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(characters & 32 == 0)  # characters that end a count
    if len(characters) and (not len(last) or last[-1] != len(characters) - 1):
        raise SSPromptError(f"The run-length code {texts[-1]!r} ends within a number.")
    ends = np.searchsorted(last, np.cumsum([len(text) for text in texts]))
    numbers = np.diff(ends, prepend=0)
    first = np.concatenate([[0], last + 1])[:-1]
    size = last - first + 1
    position = np.arange(len(characters)) - np.repeat(first, size)
    values = np.add.reduceat((characters & 31) << 5 * position, first)
    # the highest bit of the last character is the sign
    values -= (characters[last] & 16 != 0) * (1 << 5 * size)
    # each count from the fourth on is the sum of the differences at every other position before it
    position = np.arange(len(values)) - np.repeat(ends - numbers, numbers)
    for chosen in (position % 2 == 1, (position % 2 == 0) & (position > 0)):
        sums = np.cumsum(values * chosen)
        before = np.concatenate([[0], sums])[ends - numbers]
        values = np.where(chosen, sums - np.repeat(before, numbers), values)
    return values, numbers
