"""Changes of appearance, for whole batches on any device: what the image encoder has to see through.

None of them is one of the renderers of `street-scenes/fog`, `night`, `rain` or `snow`, which pretraining never sees;
but they are of the same kind, as a pale veil is to fog, little light to night, and lines, smears and gloss to rain.
All take and return float images `(B, 3, H, W)` from 0 to 255, and draw from PyTorch's global random numbers.
"""

import torch
from torch.nn import functional as F


def uniform(images: torch.Tensor, low: float, high: float, *shape: int) -> torch.Tensor:
    """Random values, one an image unless `shape` says more: `(B, *shape)`, at least four dimensions."""
    shape = (*shape, *(1,) * (3 - len(shape)))
    return torch.empty(len(images), *shape, device=images.device).uniform_(low, high)


def number(low: float, high: float) -> float:
    """A random value, one for all of a batch."""
    return float(torch.empty(()).uniform_(low, high))


def smooth_field(images: torch.Tensor, channels: int = 1, cells: tuple[int, int] = (4, 6)) -> torch.Tensor:
    """Smooth random values from 0 to 1, `(B, channels, H, W)`."""
    coarse = torch.rand(len(images), channels, *cells, device=images.device)
    return F.interpolate(coarse, images.shape[-2:], mode="bicubic", align_corners=True).clamp(0, 1)


def grey_of(images: torch.Tensor) -> torch.Tensor:
    return images.mean(1, keepdim=True)


def shrunk(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Made smaller by a factor and large again: as an image of fewer pixels is enlarged."""
    small = [max(int(side / factor), 8) for side in images.shape[2:]]
    small = F.interpolate(images, small, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, images.shape[2:], mode="bilinear", align_corners=False)


def coarse(images: torch.Tensor) -> torch.Tensor:
    """With fewer pixels, all of a batch by the same factor."""
    return shrunk(images, 1 / (0.5 + 0.4 * float(torch.rand(()))))


def _veil(images, strength):
    """Contrast lost to a pale colour, more so towards a random height of the image."""
    rows = torch.linspace(0, 1, images.shape[2], device=images.device)[:, None]
    towards = 1 - (rows - uniform(images, 0.2, 0.6)).abs() * uniform(images, 0.5, 2.0)
    share = strength * (0.35 + 0.6 * (0.6 * towards.clamp(0, 1) + 0.4 * smooth_field(images)))
    color = uniform(images, 90, 235) + uniform(images, -15, 15, 3)
    return images + share.clamp(0, 0.97) * (color - images)


def _darkness(images, strength):
    """Little light, unevenly spread, with a colour cast, a curve and sensor noise."""
    light = 1 - strength * (0.6 + 0.37 * smooth_field(images))
    images = 255 * (images / 255).clamp(1e-4, 1) ** (1 + strength * uniform(images, 0, 0.8))
    cast = 1 - strength * uniform(images, 0, 0.35, 3)
    return images * light * cast + strength * uniform(images, 0, 9) * torch.randn_like(images)


def _blur(images, strength):
    """Detail and colour lost; all of a batch by the same factor."""
    blurred = shrunk(images, 1 + float(torch.rand(())) * 2.5)
    return blurred + strength * uniform(images, 0, 0.6) * (grey_of(blurred) - blurred)


def _specks(images, strength):
    """Bright or dark dots and short streaks."""
    share = strength * uniform(images, 0.002, 0.02)
    layer = (torch.rand_like(images[:, :1]) < share) * uniform(images, 0.4, 1, 1, *images.shape[2:])
    tall, wide = ((1, 1), (3, 1), (5, 3), (9, 1))[int(torch.randint(4, ()))]
    layer = F.max_pool2d(layer, (tall, wide), 1, (tall // 2, wide // 2))
    color = torch.where(uniform(images, 0, 1) < 0.25, 40.0, uniform(images, 180, 250))
    return images + layer * uniform(images, 0.4, 1) * (color - images)


def _glare(images, strength):
    """Bright surfaces and washed-out colours: a lifted part, or all of it."""
    images = images + strength * uniform(images, 0, 0.8) * (grey_of(images) - images)
    return images + strength * smooth_field(images) * uniform(images, 30, 130) * (1 - images / 300)


def _smears(images, strength):
    """As through drops or dirt on a pane: in spots, what lies behind is blurred and shifted."""
    height, width = images.shape[2:]
    shift = [int(number(-0.08, 0.08) * side) for side in (height, width)]
    cells = int(torch.randint(8, 25, ()))
    field = smooth_field(images, cells=(cells, round(cells * width / height)))
    spots = ((field - uniform(images, 0.6, 0.85)) * 12).clamp(0, 1)
    return images + strength * spots * (shrunk(images, 12).roll(shift, (2, 3)) + uniform(images, -10, 25) - images)


def _lines(images, strength):
    """Thin bright lines across a part of the image, all of a batch in one direction."""
    height, width = images.shape[2:]
    length = int(height * number(0.05, 0.2)) // 2 * 2 + 1
    starts = torch.rand_like(images[:, :1]) < strength * uniform(images, 0.0003, 0.0016)
    layer = starts * uniform(images, 0.1, 0.6, 1, height, width)
    layer = F.max_pool2d(layer, (length, 1), 1, (length // 2, 0))
    if torch.rand(()) < 0.7:  # slanted: rows moved by their height
        slant = number(-0.4, 0.4)
        grid = F.affine_grid(torch.tensor([[[1, slant, 0], [0, 1, 0]]]).to(images), (1, 1, height, width), False)
        layer = F.grid_sample(layer, grid.expand(len(images), -1, -1, -1), align_corners=False)
    return images + layer * (uniform(images, 150, 240) - images)


def _gloss(images, strength):
    """The upper part mirrored in the lower, blurred, as in polished or wet ground."""
    height = images.shape[2]
    line, rows = int(height * number(0.35, 0.6)), torch.arange(height, device=images.device)
    mirrored = (2 * line - rows).clamp(0, height - 1)
    below = ((rows - line) / (0.15 * height)).clamp(0, 1)[:, None]
    share = strength * uniform(images, 0.3, 0.9) * below * smooth_field(images, cells=(8, 12))
    return images * (1 - 0.3 * strength) * (1 - share) + shrunk(images, 6)[:, :, mirrored] * share


CHANGES = (_veil, _darkness, _blur, _specks, _glare, _smears, _lines, _gloss)


def change_appearance(images: torch.Tensor) -> torch.Tensor:
    """Each change in three of ten images, with a strength of its own."""
    for change in CHANGES:
        chosen = uniform(images, 0, 1) < 0.3
        images = torch.where(chosen, change(images, uniform(images, 0.2, 1)), images).clamp(0, 255)
    return images


def change_colors(images: torch.Tensor) -> torch.Tensor:
    """
    Brightness, contrast, saturation and hue, each changed in half of the images: in kind and strength the distortion
    that Mask2Former's recipes for street scenes use. Then a curve, and a gain of each channel as of a white balance.
    """

    def half(changed):
        return torch.where(uniform(images, 0, 1) < 0.5, changed, images)

    images = half(images + uniform(images, -32, 32))
    images = half(images * uniform(images, 0.5, 1.5))
    grey = grey_of(images)
    images = half(grey + uniform(images, 0.4, 1.5) * (images - grey))
    # A turn of the colours around the grey axis.
    angle = torch.deg2rad(uniform(images, -18, 18))[..., 0]
    third, side = (1 - angle.cos()) / 3, angle.sin() / 3**0.5
    eye = torch.eye(3, device=images.device)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=images.device)
    turn = third + angle.cos() * eye + side * cross
    images = half(torch.einsum("bij,bjhw->bihw", turn, images))
    images = half(255 * (images / 255).clamp(1e-4, 1) ** torch.exp(uniform(images, -0.5, 0.5)))
    return (images * uniform(images, 0.85, 1.15, 3)).clamp(0, 255)


class Textures:
    """
    Noise with the spectrum of photographs, whose amplitude falls with the frequency (Ruderman and Bialek, 1994).

    Args:
        device: where it lies.
        count, side: how many fields of how many pixels squared are made, once.
    """

    def __init__(self, device: torch.device, count: int = 48, side: int = 512):
        frequency = torch.fft.fftfreq(side, device=device)
        radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt().clamp(min=1 / side)
        slope = torch.empty(count, 1, 1, 1, device=device).uniform_(0.6, 1.3)
        spectrum = torch.fft.fft2(torch.randn(count, 3, side, side, device=device)) * radius**-slope
        fields = torch.fft.ifft2(spectrum).real
        # colours of surfaces vary less than their brightness
        fields = 0.8 * fields.mean(1, keepdim=True) * 3**0.5 + 0.35 * fields
        self.fields = (fields / fields.std((1, 2, 3), keepdim=True)).half()

    def cover(self, images: torch.Tensor, parts: torch.Tensor, num_parts: int, share: float = 0.6) -> torch.Tensor:
        """Multiply what is drawn by noise, each part (`parts`, int64 `(B, H, W)`) as strongly as chance has it."""
        count, _, side, _ = self.fields.shape
        height, width = images.shape[2:]
        top, left = (int(torch.randint(side - length + 1, ())) for length in (height, width))
        chosen = torch.randint(count, (2, len(images)), device=images.device)
        noise = self.fields[chosen, :, top : top + height, left : left + width].float()
        strength = torch.rand(2, len(images), num_parts, device=images.device) ** 2 * 0.28
        strength = strength * (torch.rand(len(images), 1, device=images.device) < share)
        index = parts.flatten(1)
        for field, amount in zip(noise, strength):
            images = images * (1 + amount.gather(1, index).view_as(parts)[:, None] * field).clamp(0.2, 2)
        return images.clamp(0, 255)


def resemble(images: torch.Tensor, photographs: torch.Tensor) -> torch.Tensor:
    """
    Give drawn images the statistics of photographs, in part: mean and spread of each channel in half of the images,
    and the amplitudes of the lowest frequencies in a third ("FDA", Yang and Soatto, 2020, eq. 3).

    Args:
        photographs: float `(B, 3, H, W)`, of the same size.
    """
    mean, std = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True) + 1
    wanted_mean, wanted_std = photographs.mean((2, 3), keepdim=True), photographs.std((2, 3), keepdim=True)
    share = uniform(images, 0.3, 1) * (uniform(images, 0, 1) < 0.5)
    images = images + share * ((images - mean) / std * wanted_std + wanted_mean - images)
    spectrum, wanted = torch.fft.rfft2(images), torch.fft.rfft2(photographs)
    height, width = spectrum.shape[2:]
    rows = torch.fft.fftfreq(height, device=images.device).abs()[:, None]
    columns = torch.arange(width, device=images.device)[None] / (2 * width)
    low = (torch.maximum(rows, columns) < uniform(images, 0.004, 0.02)) & (uniform(images, 0, 1) < 0.33)
    amplitude = torch.where(low, wanted.abs(), spectrum.abs())
    spectrum = torch.polar(amplitude, spectrum.angle())
    return torch.fft.irfft2(spectrum, s=images.shape[2:]).clamp(0, 255)
