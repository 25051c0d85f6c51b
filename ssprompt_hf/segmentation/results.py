"""What `predict` returns."""

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from ..data.classes import IGNORE_INDEX, default_palette
from ..errors import SSPromptError
from ..plotting.overlays import overlay
from . import inference
from .policy import InferencePolicy
from .predictions import Prediction
from .tiles import MaskGeometry


@dataclass(frozen=True)
class Segment:
    """
    One segment of an image.

    Args:
        id: its value in `SegmentationResult.segments_map`, from 1.
        class_id: position of its class in the class names.
        name: of its class.
        area: in pixels.
        score: of the model, 0 to 1; None for semantic segmentation, where every class is one segment.
    """

    id: int
    class_id: int
    name: str
    area: int
    score: float | None = None


@dataclass(frozen=True)
class SegmentationResult:
    """
    The segmentation of one image.

    Args:
        task: `"semantic"`, `"instance"` or `"panoptic"`.
        class_map: uint8 `(H, W)`, class ids at the size of the image, 255 where there is none.
        segments_map: int32 `(H, W)`, ids of `segments`, 0 where there is none.
        segments: largest first.
        class_names, colors: names and RGB colours (0 to 255) of the classes.
        image: the image.
        path: its file, if it came from one.
    """

    task: str
    class_map: np.ndarray
    segments_map: np.ndarray
    segments: list[Segment]
    class_names: list[str]
    colors: list[tuple[int, int, int]]
    image: Image.Image
    path: str | None = None

    def overlay(self, alpha: float = 0.6) -> Image.Image:
        """The image under the colours of its classes; instances and panoptic segments get white borders."""
        pixels = overlay(np.asarray(self.image), self.class_map, self.colors, alpha)
        if self.task != "semantic":
            border = np.zeros(self.segments_map.shape, dtype=bool)
            border[:, 1:] |= self.segments_map[:, 1:] != self.segments_map[:, :-1]
            border[1:] |= self.segments_map[1:] != self.segments_map[:-1]
            pixels = np.where(border[..., None], np.uint8(255), pixels)
        return Image.fromarray(pixels)

    def save(self, path: str | os.PathLike) -> None:
        """
        Write the class map as an 8-bit PNG, a label file of the data sets of this package.

        Raises:
            SSPromptError: `path` does not end in `.png`; other formats, JPEG above all, may change class ids.
        """
        if os.path.splitext(path)[1].lower() != ".png":
            raise SSPromptError(f"{os.fspath(path)}: class ids are kept only by PNG; let the name end in .png")
        Image.fromarray(self.class_map).save(path)

    def __repr__(self) -> str:
        height, width = self.class_map.shape
        found = ", ".join(f"{segment.name} {segment.area / self.class_map.size:.0%}" for segment in self.segments[:5])
        return f"SegmentationResult({self.task}, {height}x{width}, {len(self.segments)} segments: {found})"


def segment_image(
    prediction: Prediction,
    index: int,
    geometry: MaskGeometry,
    task: str,
    thing_class_ids: set[int],
    policy: InferencePolicy,
) -> tuple[Tensor, list[dict] | None]:
    """
    What is seen in one image, without overlaps.

    Returns:
        `(segmentation, segments_info)`: class indices and None for semantic segmentation; else ids of segments, 0
        where there is none, and dicts of `id`, `label_id`, `was_fused` and `score`.

    Raises:
        SSPromptError: a task that the base model has no masks of single objects for.
    """
    if task == "semantic":
        return inference.class_map(prediction, index, geometry), None
    if not prediction.supports_instances:
        raise SSPromptError(f"the base model has no masks of single objects: task={task!r} needs another one")
    if task == "panoptic":
        return inference.panoptic(prediction, index, geometry, thing_class_ids, policy)
    found = inference.instances(prediction, index, geometry, thing_class_ids, policy, return_masks=False)
    return found.shown(policy.instance_threshold)


def build_result(
    task: str,
    segments: tuple[Tensor, list[dict] | None],
    image: Image.Image,
    class_names: list[str],
    colors: list | None = None,
    path: str | None = None,
) -> SegmentationResult:
    """
    A result from what [`segment_image`] has found.

    Args:
        task: as above.
        segments: of [`segment_image`].
        image: the image.
        class_names, colors: of the classes; colours are taken from the default palette if there are none.
        path: where the image came from.
    """
    segmentation, infos = segments
    segmentation = segmentation.cpu().numpy()
    if task == "semantic":
        class_map = segmentation.astype(np.uint8)
        segments_map = segmentation.astype(np.int32) + 1
        infos = [{"id": int(index) + 1, "label_id": int(index), "score": None} for index in np.unique(segmentation)]
    else:
        segments_map = segmentation.astype(np.int32)
        table = np.full(max((info["id"] for info in infos), default=0) + 1, IGNORE_INDEX, dtype=np.uint8)
        for info in infos:
            table[info["id"]] = info["label_id"]
        class_map = table[segments_map]
    areas = np.bincount(segments_map.reshape(-1), minlength=max((info["id"] for info in infos), default=0) + 1)
    found = [
        Segment(info["id"], info["label_id"], class_names[info["label_id"]], int(areas[info["id"]]), info["score"])
        for info in infos
    ]
    palette = default_palette(len(class_names)) if colors is None else [tuple(color) for color in colors]
    found.sort(key=lambda segment: -segment.area)
    return SegmentationResult(task, class_map, segments_map, found, list(class_names), palette, image, path)
