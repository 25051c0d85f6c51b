"""Charts with Pillow alone: bars, a table as colours, points that moved."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .overlays import BACKGROUND, INK

BLUE, ORANGE, GREY, LIGHT = (46, 105, 168), (222, 125, 44), (130, 130, 130), (228, 228, 228)
SIZE, GAP = 13, 10


def _font(size: int = SIZE) -> ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _top_of_scale(largest: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten, so that ticks are round numbers."""
    if largest <= 0 or not math.isfinite(largest):
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= largest * (1 - 1e-9))


def bar_chart(
    title: str,
    names: Sequence[str],
    values: Sequence[float],
    groups: Sequence[int] | None = None,
    group_names: Sequence[str] = (),
    top: float | None = None,
    mark: float | None = None,
    row_height: int = 20,
) -> Image.Image:
    """
    Horizontal bars, one a name; values are written beside them.

    Args:
        title: over the chart.
        names: N texts.
        values: N numbers; what is negative or not finite has no bar.
        groups: N numbers 0 or 1, which choose the colour.
        group_names: of the groups, for a legend.
        top: end of the scale; by default a round number above the largest value.
        mark: a value to draw a line at, for instance that before training.
        row_height: pixels a bar.
    """
    font, values = _font(), [float(value) for value in values]
    finite = [value for value in values if math.isfinite(value)]
    top = _top_of_scale(max(finite, default=0.0)) if top is None else max([top, *finite])
    left = GAP + round(max((font.getlength(name) for name in names), default=0)) + 8
    plot, head = 420, 30 + 22 * bool(group_names)
    canvas = Image.new("RGB", (left + plot + 70, head + len(values) * row_height + 30), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), title, fill=INK, font=_font(SIZE + 1))
    place = GAP
    for index, name in enumerate(group_names):
        draw.rectangle((place, 32, place + 11, 43), fill=(BLUE, ORANGE)[index])
        draw.text((place + 16, 29), name, fill=INK, font=font)
        place += 40 + round(font.getlength(name))
    bottom = head + len(values) * row_height
    for tick in range(5):
        x = left + plot * tick / 4
        draw.line((x, head, x, bottom), fill=LIGHT)
        draw.text((x, bottom + 4), f"{top * tick / 4:g}", fill=GREY, font=font, anchor="ma")
    ends = [left + plot * max(value, 0) / top if math.isfinite(value) else None for value in values]
    for row, end in enumerate(ends):
        if end is not None:
            color = (BLUE, ORANGE)[groups[row] if groups is not None else 0]
            y = head + row * row_height
            draw.rectangle((left, y + 3, max(end, left + 1), y + row_height - 3), fill=color)
    if mark is not None and 0 <= mark <= top:
        x = left + plot * mark / top
        draw.line((x, head, x, bottom), fill=INK)
    for row, (name, end) in enumerate(zip(names, ends)):
        middle = head + (row + 0.5) * row_height
        draw.text((left - 6, middle), name, fill=INK, font=font, anchor="rm")
        if end is not None:
            text = f"{values[row]:.3g}"
            draw.text(
                (end + 5, middle), text, fill=INK, font=font, anchor="lm", stroke_width=2, stroke_fill=BACKGROUND
            )
    return canvas


def table_chart(
    title: str, columns: Sequence[str], rows: Sequence[str], values: np.ndarray, row_height: int = 14
) -> Image.Image:
    """
    A table as shades of blue, white for 0 and darkest for 1.

    Args:
        title: over the chart.
        columns, rows: names; column names stand on end.
        values: `(rows, columns)`, 0 to 1.
        row_height: pixels a row.
    """
    font, cell = _font(12), 26
    left = GAP + round(max((font.getlength(name) for name in rows), default=0)) + 8
    head = 30 + round(max((font.getlength(name) for name in columns), default=0)) + 8
    width = max(left + cell * len(columns) + GAP, GAP * 2 + round(_font(SIZE + 1).getlength(title)))
    canvas = Image.new("RGB", (width, head + row_height * len(rows) + GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), title, fill=INK, font=_font(SIZE + 1))
    for column, name in enumerate(columns):
        text = Image.new("RGB", (round(font.getlength(name)) + 4, 16), BACKGROUND)
        ImageDraw.Draw(text).text((2, 0), name, fill=INK, font=font)
        upright = text.rotate(90, expand=True)
        canvas.paste(upright, (left + column * cell + (cell - upright.width) // 2, head - upright.height - 3))
    for row, name in enumerate(rows):
        top = head + row * row_height
        draw.text((left - 6, top + row_height / 2), name, fill=INK, font=font, anchor="rm")
        for column in range(len(columns)):
            share = float(np.clip(np.nan_to_num(values[row, column]), 0, 1))
            color = tuple(round(255 + share * (channel - 255)) for channel in BLUE)
            x = left + column * cell
            draw.rectangle((x, top, x + cell - 2, top + row_height - 2), fill=color, outline=LIGHT)
    return canvas


def moved_points(title: str, before: np.ndarray, after: np.ndarray, size: tuple[int, int] = (300, 480)) -> Image.Image:
    """
    Places in the image before (grey) and after (blue), joined by lines.

    Args:
        title: over the chart.
        before, after: `(P, 2)`, x and y from 0 to 1.
        size: (height, width) of the frame in pixels.
    """
    height, width = size
    canvas = Image.new("RGB", (width + 2 * GAP, height + 30 + GAP), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 7), title, fill=INK, font=_font(SIZE + 1))
    draw.rectangle((GAP, 30, GAP + width, 30 + height), outline=GREY)
    for start, end in zip(np.asarray(before), np.asarray(after)):
        (x0, y0), (x1, y1) = ((GAP + width * point[0], 30 + height * point[1]) for point in (start, end))
        draw.line((x0, y0, x1, y1), fill=BLUE)
        draw.ellipse((x0 - 2, y0 - 2, x0 + 2, y0 + 2), fill=GREY)
        draw.ellipse((x1 - 3, y1 - 3, x1 + 3, y1 + 3), fill=BLUE)
    return canvas


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures in a row, their tops aligned."""
    canvas = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), BACKGROUND)
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width
    return canvas
