"""Photographs without labels: their statistics, and what a model is taught about them, by itself or by another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ssprompt_hf.data.street_scenes.classes import IGNORE_INDEX

from .windows import cut, windows

SUFFIXES = (".jpg", ".jpeg", ".png")
SIZE = (360, 480)
ASKED_SIZES = ((288, 384), (352, 480), (448, 608))


class Photographs:
    """
    All photographs of a folder, scaled to one size.

    Args:
        folder: read with everything below it.
        device: where they lie, uint8 `(N, 3, H, W)`.

    Attributes:
        scores: class scores of all of them by another model, half precision `(N, K, H / 2, W / 2)`; None before
            [`~Photographs.ask`].
    """

    def __init__(self, folder: Path, device: torch.device):
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise SystemExit(f"error: no photographs in {folder}")
        images = []
        for path in paths:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)))
        self.images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous().to(device)
        self.scores: torch.Tensor | None = None

    def cut(self, count: int, size: tuple[int, int], smallest: float = 0.5) -> torch.Tensor:
        """Random windows, float `(count, 3, *size)`, 0 to 255."""
        index, grid = self._draw(count, size, smallest)
        return cut(self.images[index], grid, "bilinear")

    def cut_scored(self, count: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The same with the scores of the same windows, `(count, K, *size)`."""
        index, grid = self._draw(count, size)
        return cut(self.images[index], grid, "bilinear"), cut(self.scores[index], grid, "bilinear")

    @torch.no_grad()
    def ask(self, label: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """
        Ask a model about all photographs, each at several sizes and mirrored, and keep the mean of its answers.

        Args:
            label: from images `(1, 3, H, W)`, 0 to 255, to scores `(1, K, h, w)`.
        """
        kept = (SIZE[0] // 2, SIZE[1] // 2)
        scores = []
        for image in self.images[:, None].float():
            views = [F.interpolate(image, size, mode="bilinear", antialias=True) for size in ASKED_SIZES]
            answers = [label(view) for view in views] + [label(view.flip(3)).flip(3) for view in views]
            answers = [F.interpolate(answer.float(), kept, mode="bilinear") for answer in answers]
            scores.append(torch.stack(answers).mean(0).half())
        self.scores = torch.cat(scores)

    def _draw(self, count: int, size: tuple[int, int], smallest: float = 0.5) -> tuple[torch.Tensor, torch.Tensor]:
        """Random photographs, by their positions, and a window of each."""
        index = torch.randint(len(self.images), (count,), device=self.images.device)
        return index, windows(count, size, SIZE, self.images.device, smallest)


@torch.no_grad()
def pseudo_labels(scores: torch.Tensor, size: tuple[int, int], sure: float = 0.85) -> torch.Tensor:
    """
    What a teacher is sure of: of each class at least the surer half of its pixels, and all above `sure` (after "CBST",
    Zou et al., 2018).

    Args:
        scores: `(B, K, h, w)`, not negative; they are divided by their sum over the classes.
        size: of the result.

    Returns:
        int64 `(B, *size)`, 255 where it is not sure.
    """
    scores = F.interpolate(scores.float(), size, mode="bilinear", align_corners=False)
    confidence, labels = (scores / scores.sum(1, keepdim=True).clamp(min=1e-6)).max(1)
    thresholds = torch.full((scores.shape[1],), sure, device=scores.device)
    for index in range(scores.shape[1]):
        values = confidence[labels == index]
        if len(values):
            thresholds[index] = values.median().clamp(max=sure)
    return torch.where(confidence >= thresholds[labels], labels, IGNORE_INDEX)


@torch.no_grad()
def paste_classes(
    photographs: torch.Tensor, labels: torch.Tensor, images: torch.Tensor, drawn_labels: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Paste random classes of drawn images onto photographs, each in a third of the images ("ClassMix", Olsson et al.,
    2021): so a photograph's labels always hold some that are true.

    Args:
        photographs, images: `(B, 3, H, W)`; labels, drawn_labels: int64 `(B, H, W)`.

    Returns:
        mixed images and labels.
    """
    chosen = torch.rand(len(images), num_classes + 1, device=images.device) < 1 / 3
    chosen[:, -1] = False
    pasted = chosen.gather(1, drawn_labels.clamp(max=num_classes).flatten(1)).view_as(drawn_labels)
    return torch.where(pasted[:, None], images, photographs), torch.where(pasted, drawn_labels, labels)
