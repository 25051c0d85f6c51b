"""Clicks: what they should give back, and where the answer is corrected.

The first click lies somewhere on the object, often alone. Further ones lie where the answer to those before is most
wrong, on the object or beside it, as those of a patient user do (as in "Reviving Iterative Training with Mask Guidance
for Interactive Segmentation", Sofiiuk et al., 2021).
"""

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from ssprompt_hf.data.street_scenes.classes import IGNORE_INDEX

from .losses import mask_losses
from .views import Batch

OBJECTS_AN_IMAGE = 4
MOST_FIRST_CLICKS = 4
CORRECTIONS = (0.4, 0.25, 0.2, 0.15)  # probability of 0, 1, 2, 3 of them
SMALLEST_PART = 12  # cells, of a photograph
UNKNOWN = -20.0  # a logit where nobody knows, against a target of 0: no loss, no gradient


def drawn_objects(batch: Batch, images: int) -> torch.Tensor:
    """Random segments of the first images, `(images, OBJECTS_AN_IMAGE, h, w)`, shares of each cell."""
    used = (batch.classes[:images] >= 0).float()
    used[:, 0] += 1e-6  # an image without any
    chosen = torch.multinomial(used, OBJECTS_AN_IMAGE, replacement=True)
    rows = torch.arange(images, device=chosen.device)[:, None]
    return batch.masks[:images][rows, chosen]


def labelled_parts(
    labels: torch.Tensor, cell: int = 4, generator: np.random.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Random connected parts of classes, all classes alike.

    Args:
        labels: int64 `(B, H, W)`, 255 where it is not known.

    Returns:
        masks, float `(B, OBJECTS_AN_IMAGE, H / cell, W / cell)`, empty in an image without a part that is large
        enough; and bool `(B, 1, H / cell, W / cell)`, where labels are known.
    """
    generator = generator or np.random.default_rng(int(torch.randint(2**31, ())))
    coarse = labels[:, cell // 2 :: cell, cell // 2 :: cell].cpu().numpy()
    masks = np.zeros((len(coarse), OBJECTS_AN_IMAGE, *coarse.shape[1:]), np.float32)
    for image, chosen in zip(coarse, masks):
        parts = []
        for label in np.setdiff1d(image, [IGNORE_INDEX]):
            numbers, count = ndimage.label(image == label)
            large = np.flatnonzero(np.bincount(numbers.ravel(), minlength=count + 1)[1:] >= SMALLEST_PART) + 1
            if len(large):
                parts.append(numbers == generator.choice(large))
        for place in range(OBJECTS_AN_IMAGE if parts else 0):
            chosen[place] = parts[generator.integers(len(parts))]
    known = torch.from_numpy(coarse != IGNORE_INDEX)[:, None]
    return torch.from_numpy(masks).to(labels.device), known.to(labels.device)


def _clicked(strokes: torch.Tensor, cells: torch.Tensor, columns: int, cell: int) -> None:
    """Sets squares of 3x3 pixels, as wide as a click is drawn, in the middle of cells `(N, n)` of `(N, H, W)`."""
    objects = torch.arange(len(cells), device=cells.device)[:, None].expand_as(cells)
    rows, columns = cells // columns * cell + cell // 2, cells % columns * cell + cell // 2
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            strokes[objects, rows + down, columns + right] = True


def _middles(region: torch.Tensor) -> torch.Tensor:
    """A weight of each cell of regions `(N, h, w)`, much larger away from their borders."""
    around = F.avg_pool2d(region[:, None], 5, 1, 2)[:, 0]
    return region * around**3


def click_loss(model, features, targets: torch.Tensor, known: torch.Tensor | None = None) -> torch.Tensor:
    """
    Clicks on objects must give the objects back, and corrections must correct.

    Args:
        features: `SeemImageFeatures` of B images.
        targets: float `(B, O, h, w)`, at the resolution of masks; an empty object counts nothing.
        known: bool `(B, 1, h, w)`: where targets are known; by default everywhere.
    """
    (images, objects), (height, width) = targets.shape[:2], targets.shape[2:]
    cell = features.padded_size[0] // height
    known = torch.ones_like(targets[:, :1], dtype=torch.bool) if known is None else known
    known = known.expand_as(targets).flatten(0, 1)
    targets = targets.flatten(0, 1)
    flat = targets.flatten(1)
    strokes = torch.zeros(
        2, len(targets), height * cell, width * cell, dtype=torch.bool, device=targets.device
    )  # positive, negative
    # inside if it can be; half of the objects get one click, in the middle or anywhere
    inside = torch.where(
        torch.rand(len(flat), 1, device=flat.device) < 0.5, (flat > 0.5).float(), _middles(targets).flatten(1)
    )
    cells = torch.multinomial(inside + 1e-4 * flat + 1e-9, MOST_FIRST_CLICKS, replacement=True)
    counts = torch.randint(1, MOST_FIRST_CLICKS + 1, (len(cells), 1), device=flat.device)
    counts = torch.where(torch.rand(len(flat), 1, device=flat.device) < 0.5, 1, counts)
    _clicked(
        strokes[0],
        torch.where(torch.arange(MOST_FIRST_CLICKS, device=flat.device) < counts, cells, cells[:, :1]),
        width,
        cell,
    )
    for _ in range(int(torch.multinomial(torch.tensor(CORRECTIONS), 1))):
        with torch.no_grad():
            logits, fit, _ = _answers(model, features, strokes.unflatten(1, (images, objects)))
            found = logits[torch.arange(len(logits), device=fit.device), fit.argmax(1)].unflatten(1, (height, width))
            found, wanted = found > 0, targets > 0.5
            missed, excess = (wanted & ~found & known).float(), (found & ~wanted & known).float()
            is_missed = (missed.sum((1, 2)) >= excess.sum((1, 2)))[:, None, None]
            weights = torch.where(
                is_missed, _middles(missed) + 1e-6 * targets + 1e-9, _middles(excess) + 1e-6 * excess
            )
            cells = torch.multinomial(weights.flatten(1), 1)
            for polarity, chosen in zip(strokes, (is_missed, ~is_missed)):
                clicks = torch.zeros_like(polarity)
                _clicked(clicks, cells, width, cell)
                polarity |= clicks & chosen
    logits, fit, embed_size = _answers(model, features, strokes.unflatten(1, (images, objects)))
    logits = torch.where(known.flatten(1)[:, None], logits, UNKNOWN)
    flat = flat * known.flatten(1)
    losses = mask_losses(logits, flat[:, None].expand_as(logits))
    counted = (flat.sum(1) > 0).float()
    fit_loss = F.cross_entropy(fit / embed_size**0.5, losses.argmin(1), reduction="none")
    return ((losses.min(1).values + 0.5 * fit_loss) * counted).sum() / counted.sum().clamp(min=1)


def _answers(model, features, strokes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Mask logits `(N, copies, h * w)` of the queries of each of N objects, how well they fit the clicks by the
    model's own measure `(N, copies)`, and the size of an embedding."""
    states = model.model(
        image_features=features,
        positive_prompt_masks=strokes[0],
        negative_prompt_masks=strokes[1],
        output_objects=False,
    )
    shape = (strokes.shape[2], model.config.queries_per_object)
    embeds = states.spatial_states.mask_embeds
    logits = (embeds @ features.mask_features.flatten(2)).unflatten(1, shape).flatten(0, 1)
    fit = embeds.unflatten(1, shape) * states.spatial_prompts.mask_embeds[:, :, None]
    return logits, fit.sum(-1).flatten(0, 1).float(), embeds.shape[-1]
