"""Masks at the size of the result, tile by tile.

Masks go from their own resolution to the padded input (bilinear), lose the padding, and go to the target size. Both
resizes are linear and separable, so that a tile of the result is a small piece of the masks between two matrices. No
mask is ever held at full size, and masks that have no part in a tile are not computed there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils.cpu_ops import linear

Size = tuple[int, int]
"""(height, width) in pixels."""

TILE_SIZE: Size = (64, 256)
"""Of the result: 6.5 MB of float32 for a hundred masks, which stays in the cache."""


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


def mask_tiles(masks: Tensor, geometry: MaskGeometry) -> Iterator[MaskTile]:
    """
    The tiles of the result, row by row.

    Args:
        masks (`torch.Tensor` of shape `(N, h, w)`): logits or probabilities, at their own resolution.
        geometry (`MaskGeometry`): the sizes of this image.
    """
    axes = [_axis_weights(masks, geometry, axis) for axis in (0, 1)]
    strength = [max(weights.abs().sum(1).max().item() for _, _, weights in axis) for axis in axes]
    # The weights of a pixel sum to 1, up to rounding, for which there is the second term.
    overshoot = (strength[0] * strength[1] - 1) / 2 + 1e-3
    for rows, from_rows, vertical in axes[0]:
        band = masks[:, from_rows].to(vertical.dtype)
        for columns, from_columns, horizontal in axes[1]:
            yield MaskTile(rows, columns, band[..., from_columns], vertical, horizontal, overshoot)


def _axis_weights(masks: Tensor, geometry: MaskGeometry, axis: int) -> list[tuple[slice, slice, Tensor]]:
    """For every tile along an axis: where it lies, the pixels of the masks it depends on, and their weights."""
    side = masks.shape[1 + axis]
    identity = torch.eye(side, dtype=_mask_dtype(masks))
    # (side, target): what becomes of masks of which every row has a single pixel
    sizes = (geometry.padded_size, geometry.image_size, geometry.target_size)
    line = MaskGeometry(*((side, size[axis]) for size in sizes), geometry.interpolation)
    weights = resize_masks(identity[None], line)[0]
    tiles = []
    for start in range(0, weights.shape[1], TILE_SIZE[axis]):
        positions = slice(start, min(start + TILE_SIZE[axis], weights.shape[1]))
        used = weights[:, positions].any(1).nonzero().flatten()
        sources = slice(int(used[0]), int(used[-1]) + 1)
        tiles.append((positions, sources, weights[sources, positions].T.contiguous().to(masks.device)))
    return tiles
