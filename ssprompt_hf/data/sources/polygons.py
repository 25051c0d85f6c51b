"""Outlines to masks, each by the rule of the tools that wrote them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

SCALE = 5
"""COCO's outlines are followed on a grid that is so much finer than the pixels."""


def coco_polygon(points: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """
    The mask of an outline as `pycocotools` draws it.

    The outline is followed point by point on a finer grid. Where it passes the middle of a column, all pixels below
    in that column change sides; what has changed an odd number of times is inside.

    Args:
        points: x and y in pixels by turns, at least three pairs.
        size: (H, W).

    Returns:
        bool (H, W).

    Source: `rleFrPoly` of `common/maskApi.c` of https://github.com/cocodataset/cocoapi.
    """
    height, width = size
    corners = np.trunc(SCALE * np.asarray(points, np.float64).reshape(-1, 2) + 0.5).astype(np.int64)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    steps = np.abs(ends - starts).max(1)
    # an edge is walked along its longer side, always from the smaller coordinate, so that both directions give the
    # same points
    wide = np.abs(ends - starts)[:, 0] >= np.abs(ends - starts)[:, 1]
    axis = np.where(wide, 0, 1)
    edges = np.arange(len(corners))
    turned = starts[edges, axis] > ends[edges, axis]
    low = np.where(turned[:, None], ends, starts)
    high = np.where(turned[:, None], starts, ends)
    slope = (high - low)[edges, 1 - axis] / np.maximum(steps, 1)
    edge = np.repeat(edges, steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    step = np.where(turned[edge], steps[edge] - step, step)
    along = low[edge, axis[edge]] + step
    across = np.trunc(low[edge, 1 - axis[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    x, y = np.where(wide[edge], along, across), np.where(wide[edge], across, along)
    moved = np.flatnonzero(x[1:] != x[:-1]) + 1
    column = (np.minimum(x[moved], x[moved - 1]) + 0.5) / SCALE - 0.5
    row = np.ceil(np.clip((np.minimum(y[moved], y[moved - 1]) + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)
    inside = (column == np.floor(column)) & (column >= 0) & (column <= width - 1)
    changes = column[inside].astype(np.int64) * height + row[inside]
    odd = np.cumsum(np.bincount(changes, minlength=height * width + 1)[: height * width]) % 2 == 1
    return odd.reshape(width, height).T


def drawn(shape: str, points: Sequence[Sequence[float]], size: tuple[int, int], width: int = 1) -> np.ndarray:
    """
    The mask of a shape as Pillow draws it, with the pixels on its border, as LabelMe does.

    Args:
        shape: `polygon`, `rectangle`, `ellipse` (these by two corners) or `line`.
        points: x and y in pixels.
        size: (H, W).
        width: of a line.

    Returns:
        bool (H, W).
    """
    canvas = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    corners = [tuple(point) for point in points]
    if shape == "line":
        draw.line(corners, fill=1, width=width)
    elif shape == "polygon":
        draw.polygon(corners, fill=1, outline=1)
    else:
        left, right = sorted(x for x, _ in corners)
        top, bottom = sorted(y for _, y in corners)
        (draw.rectangle if shape == "rectangle" else draw.ellipse)([left, top, right, bottom], fill=1, outline=1)
    return np.asarray(canvas, bool)


def ellipse_points(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0, count: int = 90
) -> list[float]:
    """x and y by turns of `count` points of an ellipse, turned clockwise by `degrees`."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    turn = np.deg2rad(degrees)
    points = [center[0] + x * np.cos(turn) - y * np.sin(turn), center[1] + x * np.sin(turn) + y * np.cos(turn)]
    return np.stack(points, 1).reshape(-1).tolist()
