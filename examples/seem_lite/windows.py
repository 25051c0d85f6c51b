"""Random windows of images, cut on any device."""

import torch
from torch.nn import functional as F


def windows(count: int, size: tuple[int, int], of: tuple[int, int], device, smallest: float = 0.5) -> torch.Tensor:
    """
    Sampling grids `(count, *size, 2)` of random windows of images: mirrored or not, between `smallest` and 1 of the
    largest window with about the proportions of `size`.
    """
    # the largest window of these proportions, in shares of the image
    ratio = size[1] / size[0] / (of[1] / of[0])
    ratio = ratio * torch.empty(count, device=device).uniform_(-0.15, 0.15).exp()
    width, height = ratio.clamp(max=1), (1 / ratio).clamp(max=1)
    # in four of ten images all of it
    zoom = torch.empty(count, device=device).uniform_(smallest, 1)
    zoom = torch.where(torch.rand(count, device=device) < 0.4, 1.0, zoom)
    width, height = width * zoom, height * zoom
    left = (torch.rand(count, device=device) * 2 - 1) * (1 - width)
    top = (torch.rand(count, device=device) * 2 - 1) * (1 - height)
    mirror = torch.where(torch.rand(count, device=device) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 2] = width * mirror, left
    theta[:, 1, 1], theta[:, 1, 2] = height, top
    return F.affine_grid(theta, (count, 1, *size), align_corners=False)


def cut(values: torch.Tensor, grid: torch.Tensor, mode: str) -> torch.Tensor:
    """Windows of `(B, C, H, W)`, float."""
    return F.grid_sample(values.float(), grid, mode=mode, padding_mode="border", align_corners=False)
