"""What `predict` returns for clicks, boxes, scribbles and phrases."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from ..data.classes import default_palette
from ..plotting.overlays import outlined, overlay, with_legend, write_on
from .files import bounding_box, save_ids
from .inference import logit
from .policy import InferencePolicy
from .tiles import resize_masks
from .visual_prompts import PromptAnswer, VisualPrompts


@dataclass(frozen=True)
class PromptedSegment:
    """
    One mask.

    Args:
        mask: bool `(H, W)`, at the size of the image. Masks may overlap.
        score: of the model, as a rule from 0 to 1.
        label: the phrase that was asked for; None for what was pointed at.
        object_index: position of the object in the points, boxes or scribbles; None for a phrase, and where boxes are
            examples (SAM 3), as what was found then belongs to all of them.
    """

    mask: np.ndarray
    score: float
    label: str | None = None
    object_index: int | None = None

    @property
    def area(self) -> int:
        """In pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """Left, top, right and bottom, the last two behind the mask; None if it is empty."""
        return bounding_box(self.mask)

    @property
    def name(self) -> str:
        """The phrase, or `"object 1"` and so on; `"like the boxes"` where boxes are examples (SAM 3)."""
        if self.label is not None:
            return self.label
        return "like the boxes" if self.object_index is None else f"object {self.object_index + 1}"


@dataclass(frozen=True)
class PromptedResult:
    """
    The answer about one image.

    Args:
        segments: for each object that was pointed at, then for each phrase, in their order and the best scored first.
            Where boxes are examples (SAM 3): for each phrase or, without phrases, for all boxes together.
        image: the image.
        phrases: the best score of each phrase, whether it was found or not.
        path: file of the image, if it came from one.
    """

    segments: list[PromptedSegment]
    image: Image.Image
    phrases: dict[str, float] = field(default_factory=dict)
    path: str | None = None

    @property
    def masks(self) -> np.ndarray:
        """bool `(N, H, W)`, of the segments."""
        shape = (0, self.image.height, self.image.width)
        return np.stack([one.mask for one in self.segments]) if self.segments else np.zeros(shape, bool)

    @property
    def missing(self) -> list[str]:
        """The phrases that are not in the image."""
        found = {segment.label for segment in self.segments}
        return [phrase for phrase in self.phrases if phrase not in found]

    def segments_map(self) -> np.ndarray:
        """uint8 or uint16 `(H, W)`: 1 + index of the segment at every pixel, the smaller one where they overlap; 0
        where there is none."""
        dtype = np.uint8 if len(self.segments) < 256 else np.uint16
        numbers = np.zeros((self.image.height, self.image.width), dtype=dtype)
        for index in sorted(range(len(self.segments)), key=lambda index: -self.segments[index].area):
            numbers[self.segments[index].mask] = index + 1
        return numbers

    def overlay(self, alpha: float = 0.6, legend: bool = False) -> Image.Image:
        """
        The image under its masks, a colour each, with white borders, names and scores.

        Args:
            alpha: weight of the colours.
            legend: whether a legend of the segments is added below; the picture is larger than the image then.
        """
        numbers, colors = self.segments_map(), self._colors()
        pixels = overlay(np.asarray(self.image), numbers.astype(np.int64) - 1, colors, alpha)
        texts = {index: f"{one.name} {one.score:.2f}" for index, one in enumerate(self.segments, start=1)}
        picture = write_on(Image.fromarray(outlined(pixels, numbers)), numbers, texts)
        return with_legend(picture, list(zip(texts.values(), colors))) if legend else picture

    def save(self, path: str | os.PathLike) -> None:
        """
        Write `segments_map` as a PNG with a palette.

        Raises:
            SSPromptError: `path` does not end in `.png`.
        """
        save_ids(path, self.segments_map(), dict(enumerate(self._colors(), start=1)))

    def _colors(self) -> list[tuple[int, int, int]]:
        return default_palette(len(self.segments))

    def __repr__(self) -> str:
        found = ", ".join(f"{segment.name} {segment.score:.2f}" for segment in self.segments[:5])
        missing = f"; not there: {', '.join(self.missing)}" if self.missing else ""
        return f"PromptedResult({self.image.height}x{self.image.width}, {len(self.segments)} masks: {found}{missing})"


def parts_at(mask: np.ndarray, points: Iterable[tuple[float, float]]) -> np.ndarray:
    """
    The connected parts of a mask that points lie on: of one object, where others that look alike are in the mask, too.

    Args:
        mask: bool `(H, W)`.
        points: x, y in pixels.

    Returns:
        bool `(H, W)`; the mask as it is if no point lies on it.
    """
    height, width = mask.shape
    parts, _ = ndimage.label(mask, np.ones((3, 3)))
    pixels = [(min(height - 1, max(0, round(y))), min(width - 1, max(0, round(x)))) for x, y in points]
    chosen = {int(parts[pixel]) for pixel in pixels} - {0}
    return np.isin(parts, list(chosen)) if chosen else mask


@torch.no_grad()
def prompted_result(
    answers: Sequence[PromptAnswer],
    image: Image.Image,
    policy: InferencePolicy,
    threshold: float | None = None,
    path: str | None = None,
    prompts: VisualPrompts | None = None,
) -> PromptedResult:
    """
    A result of what a model has answered.

    Args:
        answers: of `AnswersPrompts.answer_prompts`.
        image, path: of the result.
        policy: the threshold of masks, and the smallest mask of a phrase. What was pointed at is never too small.
        threshold: least score of masks; by default those are shown whose score is above their answer's own, as in
            transformers' post-processing.
        prompts: what was asked; needed where only connected parts are wanted.
    """
    min_area = policy.least_area(image.width * image.height)
    segments, phrases = [], {}
    for answer in answers:
        if answer.phrase is not None:
            phrases[answer.phrase] = max(answer.scores.tolist(), default=0.0)
        limit = logit(policy.mask_threshold) if answer.are_logits else policy.mask_threshold
        for index in answer.scores.argsort(descending=True, stable=True).tolist():
            score = answer.scores[index].item()
            if threshold is not None:
                if score < threshold:
                    break
            elif answer.threshold is not None and score <= answer.threshold:
                break
            # one by one: a mask at full size takes four bytes a pixel
            mask = (resize_masks(answer.masks[index : index + 1], answer.geometry)[0] > limit).cpu().numpy()
            if prompts is not None and prompts.connected and answer.object_index is not None:
                mask = parts_at(mask, prompts.points[answer.object_index][prompts.labels[answer.object_index] == 1])
            if answer.phrase is None or np.count_nonzero(mask) >= min_area:
                segments.append(PromptedSegment(mask, score, answer.phrase, answer.object_index))
    return PromptedResult(segments, image, phrases, path)
