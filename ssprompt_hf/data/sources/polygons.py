"""Outlines to masks, each by the rule of the tools that wrote them."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw

SCALE = 5
"""COCO's outlines are followed on a grid that is so much finer than the pixels."""

FARTHEST = 2.0**40
"""Coordinates on this grid that are farther from 0 count as this; up to it all sums are exact."""

DRAWN_FARTHEST = 1_000_000
"""Pixels from 0 to the farthest point that Pillow is given; it goes through all rows of an ellipse, seen or not."""


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
    corners = np.trunc(np.clip(SCALE * np.asarray(points, np.float64).reshape(-1, 2) + 0.5, -FARTHEST, FARTHEST))
    starts = corners.astype(np.int64)
    ends = np.roll(starts, -1, axis=0)
    sides = np.abs(ends - starts)
    # an edge is walked along its longer side, always from the smaller coordinate, so that both directions give the
    # same points
    wide = sides[:, 0] >= sides[:, 1]
    axis = np.where(wide, 0, 1)
    edges = np.arange(len(starts))
    turned = (starts[edges, axis] > ends[edges, axis])[:, None]
    low, high = np.where(turned, ends, starts), np.where(turned, starts, ends)
    steps = sides.max(1)
    slope = (high - low)[edges, 1 - axis] / np.maximum(steps, 1)

    def across(edge: np.ndarray, step: np.ndarray) -> np.ndarray:
        """The coordinate along the shorter side after so many steps."""
        return np.trunc(low[edge, 1 - axis[edge]] + slope[edge] * step + 0.5).astype(np.int64)

    # of each edge only the steps over the middles of the image's columns are looked at, however long it is
    first = np.where(wide, low[:, 0], across(edges, np.zeros_like(steps)))
    last = np.where(wide, high[:, 0], across(edges, steps))
    middle = SCALE // 2
    begin = np.maximum(-((middle - np.minimum(first, last)) // SCALE), 0)
    end = np.minimum((np.maximum(first, last) - 1 - middle) // SCALE, width - 1)
    counts = np.maximum(end - begin + 1, 0)
    edge = np.repeat(edges, counts)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
    x = SCALE * column + middle
    y = np.empty_like(x)
    flat = wide[edge]
    step = x[flat] - low[edge[flat], 0]
    y[flat] = np.minimum(across(edge[flat], step), across(edge[flat], step + 1))
    y[~flat] = low[edge[~flat], 1] + _steps_before(x[~flat], edge[~flat], steps, slope, across)
    row = np.ceil(np.clip((y + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)
    changes = column * height + row
    odd = np.cumsum(np.bincount(changes, minlength=height * width + 1)[: height * width]) % 2 == 1
    return odd.reshape(width, height).T


def _steps_before(
    x: np.ndarray,
    edge: np.ndarray,
    steps: np.ndarray,
    slope: np.ndarray,
    across: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """The steps of a steep edge after which it goes from `x` to `x + 1` or back, by bisection."""
    before, after = np.zeros_like(x), steps[edge]
    rising = slope[edge] > 0
    while (after - before > 1).any():
        between = (before + after) // 2
        beyond = (across(edge, between) > x) == rising
        before, after = np.where(beyond, before, between), np.where(beyond, between, after)
    return before


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

    Raises:
        ValueError: a point lies too far outside the image.
    """
    far = max(map(abs, itertools.chain.from_iterable(points)), default=0)
    if not far <= DRAWN_FARTHEST:
        raise ValueError(f"it has a coordinate of {far:g}, and the image has {size[1]}x{size[0]} pixels")
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
