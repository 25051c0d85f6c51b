"""Pictures of label maps, with Pillow alone."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.classes import IGNORE_INDEX, Color, SegmentationClasses
from ..errors import SSPromptError

BACKGROUND = (255, 255, 255)
INK = (20, 20, 20)
BAND = 256
"""Rows of an image that are mixed with colours at once."""


def colorize(label: np.ndarray, colors: Sequence[Color], ignore_color: Color = (0, 0, 0)) -> np.ndarray:
    """Class indices (H, W), with anything from K on shown as ignored -> uint8 (H, W, 3)."""
    table = np.empty((IGNORE_INDEX + 1, 3), np.uint8)
    table[:] = ignore_color
    table[: len(colors)] = np.asarray(colors, np.uint8).reshape(-1, 3)
    return table[np.clip(label, 0, IGNORE_INDEX)]


def overlay(image: np.ndarray, label: np.ndarray, colors: Sequence[Color], alpha: float = 0.6) -> np.ndarray:
    """Lays the classes' colours over the image; ignored pixels show the image.

    Args:
        image: uint8 (H, W, 3), RGB.
        label: integer (H, W), class indices; anything from K on is ignored.
        colors: K RGB colours.
        alpha: weight of the colour, 0 (only the image) to 1 (only the colour).

    Returns:
        uint8 (H, W, 3).

    Raises:
        SSPromptError: image and label differ in size.
    """
    label = np.asarray(label)
    if image.shape[:2] != label.shape:
        raise SSPromptError(f"The image has size {image.shape[:2]}, the label {label.shape}; resize one of them.")
    result = np.empty_like(image)
    for start in range(0, len(image), BAND):  # sums take 24 bytes a pixel
        rows = slice(start, start + BAND)
        mixed = (1 - alpha) * image[rows] + alpha * colorize(label[rows], colors)
        known = (label[rows] >= 0) & (label[rows] < len(colors))
        result[rows] = np.where(known[..., None], mixed.round().astype(np.uint8), image[rows])
    return result


def outlined(pixels: np.ndarray, segments: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) with white borders between the ids of an integer (H, W)."""
    border = np.zeros(segments.shape, dtype=bool)
    border[:, 1:] |= segments[:, 1:] != segments[:, :-1]
    border[1:] |= segments[1:] != segments[:-1]
    return np.where(border[..., None], np.uint8(255), pixels)


MAX_TEXTS = 40
"""So many segments of a picture, the largest, are written on."""


def write_on(picture: Image.Image, segments: np.ndarray, texts: dict[int, str]) -> Image.Image:
    """
    A copy of a picture with a text in the middle of each segment that it fits into, the largest `MAX_TEXTS`.

    Args:
        picture: of size (W, H).
        segments: integer (H, W), ids that are not negative.
        texts: id -> text.
    """
    picture = picture.copy()
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=max(11, round(min(picture.size) / 45)))
    areas = np.bincount(segments.reshape(-1), minlength=max(texts, default=0) + 1)
    for number in sorted(texts, key=lambda number: -areas[number])[:MAX_TEXTS]:
        left, top, right, bottom = draw.textbbox((0, 0), texts[number], font=font)
        width, height = right - left + 4, bottom - top + 4
        if areas[number] < width * height:
            continue
        rows, columns = (segments == number).nonzero()
        # the pixel nearest to the centre of gravity, which may lie outside
        nearest = ((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2).argmin()
        x = int(np.clip(columns[nearest] - width // 2, 0, max(0, picture.width - width)))
        y = int(np.clip(rows[nearest] - height // 2, 0, max(0, picture.height - height)))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=BACKGROUND)
        draw.text((x + 2 - left, y + 2 - top), texts[number], fill=INK, font=font)
    return picture


def with_legend(picture: Image.Image, entries: Sequence[tuple[str, Color]]) -> Image.Image:
    """A picture over a legend of (name, colour)."""
    if not entries:
        return picture
    font, gap = ImageFont.load_default(size=14), 6
    widest = max(font.getlength(name) for name, _ in entries)
    legend = _legend(entries, max(picture.width, round(widest) + 40), gap, font)
    canvas = Image.new("RGB", (max(picture.width, legend.width), picture.height + legend.height), BACKGROUND)
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (0, picture.height))
    return canvas


def comparison_picture(
    image: np.ndarray,
    classes: SegmentationClasses,
    truth: np.ndarray | None = None,
    zero_shot: np.ndarray | None = None,
    adapted: np.ndarray | None = None,
    titles: dict[str, str] | None = None,
    panel_width: int = 480,
    alpha: float = 0.6,
) -> Image.Image:
    """Image, truth, zero-shot and adapted side by side, two in a row, over a legend of the classes that occur.

    Args:
        image: uint8 (H, W, 3), RGB.
        classes: names and colours.
        truth: integer (H, W), class indices, 255 ignored; as the next two left out when None.
        zero_shot: prediction without adapter.
        adapted: prediction with adapter.
        titles: other titles than the argument names, for instance `{"adapted": "SSPrompt, 61.2 mean IoU"}`.
        panel_width: width of each panel in pixels.
        alpha: weight of the colours.
    """
    titles = {"image": "image", "truth": "truth", "zero_shot": "zero-shot", "adapted": "adapted"} | (titles or {})
    given = {"truth": truth, "zero_shot": zero_shot, "adapted": adapted}
    labels = {key: np.asarray(label) for key, label in given.items() if label is not None}
    colors = classes.colors
    panels = {"image": image} | {key: overlay(image, label, colors, alpha) for key, label in labels.items()}

    height = max(1, round(panel_width * image.shape[0] / image.shape[1]))
    font = ImageFont.load_default(size=14)
    bar, gap = 22, 6
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    width = columns * panel_width + (columns + 1) * gap
    present = np.unique(np.concatenate([label.ravel() for label in labels.values()])) if labels else np.array([], int)
    entries = [(classes.names[index], colors[index]) for index in present if 0 <= index < len(classes)]
    legend = _legend(entries, width, gap, font)
    canvas = Image.new("RGB", (width, rows * (height + bar + gap) + gap + legend.height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for position, (key, panel) in enumerate(panels.items()):
        left = gap + position % columns * (panel_width + gap)
        top = gap + position // columns * (height + bar + gap)
        draw.text((left, top), titles[key], fill=INK, font=font)
        resized = Image.fromarray(panel).resize((panel_width, height), Image.Resampling.LANCZOS)
        canvas.paste(resized, (left, top + bar))
    canvas.paste(legend, (0, canvas.height - legend.height))
    return canvas


def _legend(entries: Sequence[tuple[str, Color]], width: int, gap: int, font: ImageFont.ImageFont) -> Image.Image:
    """Coloured squares with names, in as many lines as they need."""
    box, line = 14, 22
    places, left, top = [], gap, gap
    for name, color in entries:
        step = box + 5 + round(font.getlength(name)) + 14
        if left + step > width and left > gap:
            left, top = gap, top + line
        places.append((left, top, name, color))
        left += step
    canvas = Image.new("RGB", (width, top + line if entries else 1), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for left, top, name, color in places:
        draw.rectangle((left, top, left + box - 1, top + box - 1), fill=tuple(color), outline=INK)
        draw.text((left + box + 5, top - 2), name, fill=INK, font=font)
    return canvas
