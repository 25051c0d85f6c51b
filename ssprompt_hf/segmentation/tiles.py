"""Masks at the size of the result, tile by tile.

Masks go from their own resolution to the padded input (bilinear), lose the padding, and go to the target size. Both
resizes are linear and separable, so that a tile of the result is a small piece of the masks between two matrices. On
the CPU no mask is ever held at full size, and masks that have no part in a tile are not computed there. On other
devices tiles are as large as memory allows, most often the whole image: each takes the host some round trips.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.cpu_ops import linear

Size = tuple[int, int]
"""(height, width) in pixels."""

TILE_SIZE: Size = (64, 256)
"""Of the result, on the CPU: 6.5 MB of float32 for a hundred masks, which stays in the cache."""
MEMORY_SHARE = 1 / 64
"""Of a GPU's memory, for the masks in a tile; several tensors of that size are held at once."""
OTHER_DEVICES_BYTES = 2**28
"""The same where a device does not say how much memory it has."""


class MaskGeometry(NamedTuple):
    """
    Where the masks of one image lie.

    Args:
        padded_size: of the input that the masks cover.
        image_size: of the image within it, at the top left.
        target_size: of the result.
        interpolation: of the resize from image to target size: `"bicubic"` (antialiased) or `"bilinear"`.
    """

    padded_size: Size
    image_size: Size
    target_size: Size
    interpolation: str = "bicubic"


def resize_masks(masks: Tensor, geometry: MaskGeometry) -> Tensor:
    """
    Masks, as logits or probabilities, at the target size.

    Args:
        masks (`torch.Tensor` of shape `(N, h, w)`): at their own resolution.
        geometry (`MaskGeometry`): the sizes of this image.

    Returns:
        `torch.Tensor` of shape `(N, *geometry.target_size)`, float32 for half-precision input.
    """
    masks = masks.to(_mask_dtype(masks))
    masks = F.interpolate(masks[None], size=geometry.padded_size, mode="bilinear", align_corners=False)
    height, width = geometry.image_size
    masks = masks[..., :height, :width]
    # At scale 1 both filters are the identity, exactly.
    if geometry.target_size != geometry.image_size:
        mode = geometry.interpolation
        masks = F.interpolate(
            masks, size=geometry.target_size, mode=mode, align_corners=False, antialias=mode == "bicubic"
        )
    return masks[0]


def _mask_dtype(masks: Tensor) -> torch.dtype:
    return torch.promote_types(masks.dtype, torch.float32)


@dataclass(frozen=True)
class MaskTile:
    """
    A tile of the result.

    Args:
        rows, columns: where it lies.
        patch: (N, h', w') of the masks, what it depends on.
        vertical: (rows, h') and horizontal: (columns, w'), weights of both resizes.
        overshoot: how far the weights reach below 0: the share of a patch's range by which results leave that range.
    """

    rows: slice
    columns: slice
    patch: Tensor
    vertical: Tensor
    horizontal: Tensor
    overshoot: float

    def bounds(self) -> tuple[Tensor, Tensor]:
        """(N,) and (N,): no value of each mask is lower or higher."""
        low, high = torch.aminmax(self.patch.flatten(1), dim=1)
        margin = self.overshoot * (high - low)
        return low - margin, high + margin

    def reaching(self, threshold: float) -> Tensor:
        """int64: the masks that may have a value at or above `threshold`."""
        return (self.bounds()[1] >= threshold).nonzero().flatten()

    def values(self, masks: Tensor | slice = slice(None)) -> Tensor:
        """(n, rows, columns): the values of the chosen masks, equal to those of [`resize_masks`] up to rounding."""
        with torch.autocast(self.patch.device.type, enabled=False):
            return linear(self.vertical @ self.patch[masks], self.horizontal)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        """(N, P): the values of all masks at single pixels, counted within the tile."""
        with torch.autocast(self.patch.device.type, enabled=False):
            lines = self.vertical @ self.patch  # (N, rows, w')
            return torch.einsum("npw,pw->np", lines[:, rows], self.horizontal[columns])


def mask_tiles(masks: Tensor, geometry: MaskGeometry) -> Iterator[MaskTile]:
    """
    The tiles of the result, row by row.

    Args:
        masks (`torch.Tensor` of shape `(N, h, w)`): logits or probabilities, at their own resolution.
        geometry (`MaskGeometry`): the sizes of this image.
    """
    tile = tile_size(masks, geometry.target_size)
    dtype = _mask_dtype(masks)
    sizes = (geometry.padded_size, geometry.image_size, geometry.target_size)
    (rows, high), (columns, wide) = (
        _axis_weights(
            masks.shape[1 + axis],
            *(size[axis] for size in sizes),
            geometry.interpolation,
            tile[axis],
            dtype,
            masks.device,
        )
        for axis in (0, 1)
    )
    # The weights of a pixel sum to 1, up to rounding, for which there is the second term.
    overshoot = (high * wide - 1) / 2 + 1e-3
    for to_rows, from_rows, vertical in rows:
        band = masks[:, from_rows].to(dtype)
        for to_columns, from_columns, horizontal in columns:
            yield MaskTile(to_rows, to_columns, band[..., from_columns], vertical, horizontal, overshoot)


def tile_size(masks: Tensor, target_size: Size) -> Size:
    """
    How large the tiles of a result are. The same for the same masks on the same device, whatever else is in memory, so
    that results are, too.

    Args:
        masks (`torch.Tensor` of shape `(N, h, w)`): decides by its number and device.
        target_size (`tuple[int, int]`): of the result.
    """
    if masks.device.type == "cpu":
        return TILE_SIZE
    budget = float(OTHER_DEVICES_BYTES)
    if masks.device.type == "cuda":
        budget = torch.cuda.get_device_properties(masks.device).total_memory * MEMORY_SHARE
    pixels = int(budget / (max(len(masks), 1) * _mask_dtype(masks).itemsize))
    columns = min(target_size[1], max(TILE_SIZE[1], pixels // TILE_SIZE[0]))
    return min(target_size[0], max(TILE_SIZE[0], pixels // columns)), columns


@lru_cache(maxsize=16)
def _axis_weights(
    side: int,
    padded: int,
    image: int,
    target: int,
    interpolation: str,
    step: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[tuple[slice, slice, Tensor]], float]:
    """
    Along an axis of masks with `side` pixels, for every tile of `step` pixels: where it lies, the pixels of the masks
    it depends on, and their weights; and how much the weights of a pixel add up to at most, without their signs.
    """
    # kept for later calls, which may ask for gradients
    with torch.inference_mode(False), torch.no_grad():
        identity = torch.eye(side, dtype=dtype, device="cpu")
        # (side, target): what becomes of masks of which every row has a single pixel
        line = MaskGeometry((side, padded), (side, image), (side, target), interpolation)
        weights = resize_masks(identity[None], line)[0]
        tiles = []
        for start in range(0, target, step):
            positions = slice(start, min(start + step, target))
            used = weights[:, positions].any(1).nonzero().flatten()
            sources = slice(int(used[0]), int(used[-1]) + 1)
            tiles.append((positions, sources, weights[sources, positions].T.contiguous().to(device)))
    return tiles, weights.abs().sum(0).max().item()
