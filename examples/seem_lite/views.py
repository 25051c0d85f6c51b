"""Training batches: windows of drawn scenes and of photographs, changed in colour, with their segments."""

from dataclasses import dataclass

import torch

from ssprompt_hf.data.street_scenes.classes import IGNORE_INDEX, Part
from ssprompt_hf.training.losses import label_shares

from .appearance import Textures, change_appearance, change_colors, coarse, resemble, uniform
from .names import StepClasses
from .photographs import Photographs
from .scenes import ScenePool
from .windows import cut, windows

# What the model is shown, in turn; masks have a fourth of the sides.
IMAGE_SIZES = ((288, 384), (256, 512), (224, 352), (288, 512))
PIXEL_MEAN, PIXEL_STD = 127.0, 128.0  # of EfficientNet-Lite
MOST_SEGMENTS = 32
CHANGED_SHARE = 0.55
UNCHANGED_SHARE = 0.6  # of the plain scenes: they look as the data set's do
COARSE_SHARE = 0.35  # images that come from a smaller one


def normalise(images: torch.Tensor) -> torch.Tensor:
    return (images - PIXEL_MEAN) / PIXEL_STD


@dataclass
class Batch:
    """
    Attributes:
        pixel_values: normalised `(B, 3, H, W)`.
        labels: int64 `(B, H, W)`, classes of the step; base_labels: those of the base label set.
        names: of the classes of the step.
        masks: float `(B, M, h, w)`, the share of each cell that belongs to a segment; nothing in unused places.
        classes: int64 `(B, M)`, -1 in unused places.
    """

    pixel_values: torch.Tensor
    labels: torch.Tensor
    base_labels: torch.Tensor
    names: list[str]
    masks: torch.Tensor
    classes: torch.Tensor


def segments_of(
    labels: torch.Tensor, instances: torch.Tensor, things: torch.Tensor, cell: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The segments of a batch, one an instance of a thing and one a class of stuff; at most `MOST_SEGMENTS` an image, the
    largest ones.

    Args:
        labels: int64 `(B, H, W)`, 255 ignored. instances: int64 `(B, H, W)`, below 256. things: bool `(classes,)`.

    Returns:
        masks `(B, M, H / cell, W / cell)` and classes `(B, M)`, as of [`Batch`].
    """
    count, height, width = labels.shape
    known = labels != IGNORE_INDEX
    is_thing = things.to(labels.device)[labels.clamp(max=len(things) - 1)]
    key = labels * 256 + torch.where(is_thing, instances, 0)
    areas = torch.zeros(count, (len(things) + 1) * 256, device=labels.device)
    key = torch.where(known, key, len(things) * 256)
    areas.scatter_add_(1, key.flatten(1), torch.ones_like(key.flatten(1), dtype=areas.dtype))
    areas[:, -256:] = 0
    most, keys = areas.topk(MOST_SEGMENTS, dim=1)
    present = most >= 16
    place = torch.full_like(areas, IGNORE_INDEX, dtype=torch.long)
    numbers = torch.arange(MOST_SEGMENTS, device=labels.device).expand(count, -1)
    place.scatter_(1, keys, torch.where(present, numbers, IGNORE_INDEX))
    segment = place.gather(1, key.flatten(1)).view(count, height, width)
    masks = label_shares(segment, MOST_SEGMENTS, (height // cell, width // cell)) / cell**2
    return masks, torch.where(present, keys // 256, -1)


@torch.no_grad()
def drawn_batch(
    pool: ScenePool,
    photographs: Photographs | None,
    textures: Textures,
    classes: StepClasses,
    base: StepClasses,
    count: int,
    size: tuple[int, int],
) -> tuple[Batch, torch.Tensor]:
    """A batch of drawn scenes, and its images before they are normalised, `(B, 3, H, W)`, 0 to 255."""
    device = pool.image.device
    index = torch.randint(pool.size, (count,), device=device)
    grid = windows(count, size, pool.image.shape[-2:], device, smallest=0.45)
    images = cut(pool.image[index], grid, "bilinear")
    layers = torch.stack([pool.part[index], pool.instance[index]], dim=1)
    parts, instances = cut(layers, grid, "nearest").long().unbind(1)
    images = torch.where(uniform(images, 0, 1) < COARSE_SHARE, coarse(images), images)
    drawn = images
    images = textures.cover(images, parts, len(Part))
    if photographs is not None:
        images = resemble(images, photographs.cut(count, size, smallest=0.4))
    images = change_colors(images)
    changed = uniform(images, 0, 1) < CHANGED_SHARE
    images = torch.where(changed, change_appearance(images), images)
    unchanged = pool.plain[index][:, None, None, None] & (uniform(images, 0, 1) < UNCHANGED_SHARE)
    images = torch.where(unchanged, drawn, images)
    labels, base_labels = classes.of_part.to(device)[parts], base.of_part.to(device)[parts]
    masks, segment_classes = segments_of(labels, instances, classes.things)
    batch = Batch(normalise(images), labels, base_labels, classes.names, masks, segment_classes)
    return batch, images
