"""Masks of brush strokes, and objects of predictions."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from ..errors import SSPromptError


def stroke_mask(line: Sequence[tuple[float, float]], radius: float, size: tuple[int, int]) -> np.ndarray:
    """
    What lies under a brush.

    Args:
        line: x, y of its middle, in pixels.
        radius: in pixels.
        size: (height, width) of the image.

    Returns:
        bool `(H, W)`.

    Raises:
        SSPromptError: the line has no points, or they are none; or the radius is not positive.
    """
    points = np.asarray(line, np.float64)
    if not len(points):
        raise SSPromptError("the stroke has no points")
    if points.ndim != 2 or points.shape[1] != 2 or not (np.isfinite(points).all() and radius > 0):
        raise SSPromptError("the stroke must hold x and y, in pixels, and the radius must be positive")
    radius = min(radius, max(size))
    canvas = Image.new("1", size[::-1])
    draw = ImageDraw.Draw(canvas)
    if len(line) > 1:
        draw.line([tuple(point) for point in line], fill=1, width=max(1, round(2 * radius)))
    for x, y in line:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(canvas)


def whole_objects(classes: np.ndarray, segments: np.ndarray, things: Iterable[int]) -> np.ndarray:
    """
    Numbers of the objects of a prediction, so that no pixel of a thing is left over: those between segments go to the
    nearest in the same connected part of their class, and a part without a segment is an object.

    Args:
        classes: integer `(H, W)`, class ids.
        segments: integer `(H, W)`, 0 where there is none.
        things: class ids.

    Returns:
        int64 `(H, W)`, from 1; 0 outside of things.
    """
    objects, count = np.zeros(classes.shape, np.int64), 0
    for class_id in things:
        parts, num_parts = ndimage.label(classes == class_id, np.ones((3, 3)))
        for part, window in enumerate(ndimage.find_objects(parts, num_parts), start=1):
            inside = parts[window] == part
            numbers = np.where(inside, segments[window], 0)
            if numbers.any():
                rows, columns = ndimage.distance_transform_edt(
                    numbers == 0, return_distances=False, return_indices=True
                )
                known, numbers = np.unique(numbers[rows, columns], return_inverse=True)
                numbers = numbers.reshape(inside.shape)
            else:
                known, numbers = (0,), np.zeros(inside.shape, np.int64)
            objects[window][inside] = numbers[inside] + count + 1
            count += len(known)
    return objects
