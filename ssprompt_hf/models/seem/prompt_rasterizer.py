"""Points, boxes, scribbles and masks drawn into the boolean images from which SEEM's visual sampler reads.

SEEM knows one kind of spatial prompt: a set of pixels. As in the official interactive evaluation a click is dilated
to 3x3 pixels; a scribble is a line three pixels wide, a box its filled area, and a mask is resized as in the official
demo (bilinear, every pixel that is touched).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

Size = tuple[int, int]


def rasterize_prompts(
    original_sizes: Sequence[Size],
    image_sizes: Sequence[Size],
    padded_size: Size,
    input_points: Any = None,
    input_labels: Any = None,
    input_boxes: Any = None,
    input_boxes_labels: Any = None,
    input_scribbles: Any = None,
    input_scribbles_labels: Any = None,
    input_masks: Any = None,
    input_masks_labels: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw the prompts of a batch at the size of the padded input.

    All prompts are nested by image, then by object; an object without a prompt of some kind has `None` or an empty
    list there. Coordinates are pixels of the original image, x to the right, with (0, 0) in the middle of the first
    pixel. Labels are 1 (positive, the default) or 0 (negative).

    Args:
        original_sizes, image_sizes (B pairs of height and width): before and after resizing.
        padded_size (`tuple[int, int]`): height and width of the padded batch.
        input_points: `[image][object][point][x, y]`; `input_labels`: `[image][object][point]`.
        input_boxes: `[image][object][x1, y1, x2, y2]`, first and last pixel; `input_boxes_labels`: `[image][object]`.
        input_scribbles: `[image][object][line][point][x, y]`; `input_scribbles_labels`: `[image][object][line]`.
        input_masks: `[image][object]`, (height, width) at the original size; `input_masks_labels`: `[image][object]`.

    Returns:
        `(positive, negative)`: bool arrays of shape `(B, O, *padded_size)`, where O is the largest number of objects
        of an image; missing objects are all `False`.

    Raises:
        ValueError: if the nesting does not fit the images, labels do not fit their prompts or are neither 0 nor 1, or
            a prompt has the wrong shape or lies outside its image.
    """
    kinds = {
        "input_points": (input_points, input_labels, "input_labels", _draw_points),
        "input_boxes": (input_boxes, input_boxes_labels, "input_boxes_labels", _draw_box),
        "input_scribbles": (input_scribbles, input_scribbles_labels, "input_scribbles_labels", _draw_scribbles),
        "input_masks": (input_masks, input_masks_labels, "input_masks_labels", _draw_mask),
    }
    batch_size, num_objects = len(image_sizes), 0
    for name, (prompts, labels, labels_name, _) in kinds.items():
        if prompts is None:
            if labels is not None:
                raise ValueError(f"`{labels_name}` was passed without `{name}`.")
            continue
        _check_length(prompts, batch_size, name, "images")
        num_objects = max([num_objects, *(0 if objects is None else len(objects) for objects in prompts)])
        if labels is not None:
            _check_length(labels, batch_size, labels_name, "images")

    canvas = np.zeros((2, batch_size, num_objects, *padded_size), dtype=bool)  # negative, positive
    for name, (prompts, labels, labels_name, draw) in kinds.items():
        for image in range(batch_size if prompts is not None else 0):
            objects = [] if prompts[image] is None else prompts[image]
            object_labels = None if labels is None else labels[image]
            if object_labels is not None:
                _check_length(object_labels, len(objects), f"{labels_name}[{image}]", "objects")
            height, width = image_sizes[image]
            for index, prompt in enumerate(objects):
                where = f"{name}[{image}][{index}]"
                if prompt is not None and not hasattr(prompt, "__len__"):
                    raise ValueError(f"`{where}` is {prompt!r}: prompts are nested by image, then object.")
                if prompt is None or len(prompt) == 0:
                    continue
                label = None if object_labels is None else object_labels[index]
                drawing = canvas[:, image, index, :height, :width]
                draw(drawing, prompt, label, tuple(original_sizes[image]), where)
    return canvas[1], canvas[0]


def _draw_points(canvas: np.ndarray, points, labels, original_size: Size, where: str):
    points = _coordinates(points, 2, original_size, where)
    labels = _labels(labels, len(points), where)
    for label in (0, 1):
        _draw_dots(canvas[label], points[labels == label], original_size)


def _draw_scribbles(canvas: np.ndarray, lines, labels, original_size: Size, where: str):
    labels = _labels(labels, len(lines), where)
    for index, (line, label) in enumerate(zip(lines, labels)):
        line = _coordinates(line, 2, original_size, f"{where}[{index}]")
        # At least one dot a pixel, in the finer of the two grids.
        scale = max(1.0, *(new / old for new, old in zip(canvas.shape[1:], original_size)))
        dots = [line[:1]]
        for start, end in pairwise(line):
            steps = 1 + int(np.ceil(scale * np.abs(end - start).max()))
            dots.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
        _draw_dots(canvas[label], np.concatenate(dots), original_size)


def _draw_box(canvas: np.ndarray, box, label, original_size: Size, where: str):
    box = _coordinates([box], 4, original_size, where)[0]
    x1, y1, x2, y2 = box
    if x1 > x2 or y1 > y2:
        raise ValueError(f"`{where}` must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, got {box.tolist()}.")
    (label,) = _labels(None if label is None else [label], 1, where)
    (top, left), (bottom, right) = (
        _to_pixels(np.array([corner]), original_size, canvas.shape[1:])[0] for corner in ((x1, y1), (x2, y2))
    )
    canvas[label, top : bottom + 1, left : right + 1] = True


def _draw_mask(canvas: np.ndarray, mask, label, original_size: Size, where: str):
    mask = torch.as_tensor(np.asarray(mask) != 0)
    if tuple(mask.shape) != original_size:
        raise ValueError(
            f"`{where}` has shape {tuple(mask.shape)}, but its image has {original_size} (height, width): masks are "
            "given at the size of the original image."
        )
    (label,) = _labels(None if label is None else [label], 1, where)
    if mask.shape != canvas.shape[1:]:
        mask = F.interpolate(mask[None, None].float(), size=canvas.shape[1:], mode="bilinear")[0, 0] > 0
    canvas[label] |= mask.numpy()


def _draw_dots(canvas: np.ndarray, points: np.ndarray, original_size: Size):
    """3x3 squares around points (n, 2), cut at the border of the image."""
    pixels = _to_pixels(points, original_size, canvas.shape)
    offsets = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(1, -1, 2)
    rows, columns = np.moveaxis(pixels[:, None] + offsets, -1, 0)
    canvas[rows.clip(0, canvas.shape[0] - 1), columns.clip(0, canvas.shape[1] - 1)] = True


def _to_pixels(points: np.ndarray, original_size: Size, size: Size) -> np.ndarray:
    """(row, column) in an image of `size` of (x, y) in the original one."""
    scale = np.array(size) / np.array(original_size)
    return np.floor((points[:, ::-1] + 0.5) * scale).astype(int).clip(0, np.array(size) - 1)


def _coordinates(points, columns: int, original_size: Size, where: str) -> np.ndarray:
    try:
        points = np.asarray(points, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{where}` must hold {columns} numbers a row, got {points!r}.") from error
    if points.ndim != 2 or points.shape[1] != columns:
        raise ValueError(
            f"`{where}` must hold {columns} numbers a row, got an array of shape {points.shape}: prompts are nested "
            "by image and by object."
        )
    height, width = original_size
    outside = ~((points >= -0.5) & (points <= np.array([width, height] * (columns // 2)))).all(axis=1)
    if outside.any():
        raise ValueError(
            f"`{where}` has {points[outside][0].tolist()}, outside the image of {width}x{height} pixels: coordinates "
            "are x, y in pixels of the original image."
        )
    return points


def _labels(labels, count: int, where: str) -> np.ndarray:
    labels = np.ones(count, dtype=int) if labels is None else np.asarray(labels)
    if labels.shape != (count,) or not np.isin(labels, (0, 1)).all():
        raise ValueError(f"The labels of `{where}` must be {count} times 1 (positive) or 0 (negative), got {labels}.")
    return labels.astype(int)


def _check_length(value, length: int, name: str, unit: str):
    if value is None or len(value) != length:
        count = None if value is None else len(value)
        raise ValueError(
            f"`{name}` has {count} entries for {length} {unit}: prompts are nested by image and by object."
        )
