"""Generic changes of appearance: what the image encoder has to see through.

None of them is one of the renderers of `street-scenes/fog`, `night`, `rain` or `snow`, which pretraining never sees.
"""

import numpy as np
import torch
from torch.nn import functional as F


def _smooth_field(shape: tuple[int, int], rng: np.random.Generator) -> torch.Tensor:
    """Smooth random values from 0 to 1, `(H, W)`."""
    coarse = torch.from_numpy(rng.random((1, 1, int(rng.integers(2, 5)), int(rng.integers(2, 7))))).float()
    return F.interpolate(coarse, shape, mode="bicubic", align_corners=True)[0, 0].clamp(0, 1)


def _veil(image, strength, rng):
    """Contrast lost to a pale colour, more so towards a random height of the image."""
    height, width = image.shape[1:]
    rows = torch.linspace(0, 1, height)[:, None].expand(height, width)
    towards = 1 - (rows - float(rng.uniform(0.2, 0.6))).abs() * float(rng.uniform(0.5, 2.0))
    share = strength * (0.35 + 0.6 * (0.6 * towards.clamp(0, 1) + 0.4 * _smooth_field((height, width), rng)))
    colour = torch.tensor(rng.uniform(90, 235) + rng.uniform(-15, 15, 3), dtype=torch.float32)[:, None, None]
    return image + share.clamp(0, 0.97) * (colour - image)


def _darkness(image, strength, rng):
    """Little light, unevenly spread, with a colour cast, a curve and sensor noise."""
    light = 1 - strength * (0.6 + 0.37 * _smooth_field(tuple(image.shape[1:]), rng))
    image = 255 * (image / 255).clamp(0, 1) ** float(1 + strength * rng.uniform(0, 0.8))
    cast = torch.tensor(1 - strength * rng.uniform(0, 0.35, 3), dtype=torch.float32)[:, None, None]
    noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    return image * light * cast + strength * float(rng.uniform(0, 9)) * noise


def _blur(image, strength, rng):
    """Detail and colour lost."""
    scale = 1 + strength * float(rng.uniform(0.5, 2.5))
    small = [max(int(side / scale), 8) for side in image.shape[1:]]
    small = F.interpolate(image[None], small, mode="bilinear", antialias=True, align_corners=False)
    image = F.interpolate(small, tuple(image.shape[1:]), mode="bilinear", align_corners=False)[0]
    return image + strength * float(rng.uniform(0, 0.6)) * (image.mean(0, keepdim=True) - image)


def _specks(image, strength, rng):
    """Bright or dark dots and short streaks."""
    height, width = image.shape[1:]
    layer = torch.zeros(1, 1, height, width)
    count = int(strength * rng.uniform(0.002, 0.02) * height * width)
    layer[0, 0, rng.integers(0, height, count), rng.integers(0, width, count)] = torch.from_numpy(
        rng.uniform(0.4, 1, count).astype(np.float32)
    )
    tall, wide = int(rng.choice([1, 3, 5, 9])), int(rng.choice([1, 1, 3]))
    layer = F.max_pool2d(layer, (tall, wide), 1, (tall // 2, wide // 2))[0]
    colour = float(rng.choice([40.0, 180.0, 230.0, 250.0]))
    return image + layer * float(rng.uniform(0.4, 1)) * (colour - image)


def _glare(image, strength, rng):
    """Bright surfaces and washed-out colours: a lifted lower half, or all of it."""
    field = _smooth_field(tuple(image.shape[1:]), rng)
    grey = image.mean(0, keepdim=True)
    image = image + strength * float(rng.uniform(0, 0.8)) * (grey - image)
    return image + strength * field * float(rng.uniform(30, 130)) * (1 - image / 300)


CHANGES = (_veil, _darkness, _blur, _specks, _glare)


def change_appearance(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """
    One to three random changes of one image.

    Args:
        image: float `(3, H, W)`, 0 to 255.
    """
    for index in sorted(rng.choice(len(CHANGES), int(rng.integers(1, 4)), replace=False)):
        image = CHANGES[index](image, float(rng.uniform(0.2, 1)), rng)
    return image.clamp(0, 255)
