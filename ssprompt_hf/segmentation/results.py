"""What `predict` returns."""

import math
import os
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data.classes import IGNORE_INDEX, default_palette
from ..errors import SSPromptError
from ..plotting.overlays import outlined, overlay, with_legend, write_on
from . import inference
from .files import coco_annotation, save_ids
from .policy import InferencePolicy
from .predictions import Prediction
from .tiles import MaskGeometry


@dataclass(frozen=True)
class Segment:
    """
    One segment of an image.

    Args:
        id: its value in `SegmentationResult.segments_map`, from 1.
        class_id: of its class in label files (`SegmentationResult.class_ids`): without a class file its position.
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
        class_indices: uint8 `(H, W)`, positions in `class_names` at the size of the image, 255 where there is none.
        segments_map: int32 `(H, W)`, ids of `segments`, 0 where there is none.
        segments: largest first.
        class_names, colors: names and RGB colours (0 to 255) of the classes.
        image: the image.
        path: its file, if it came from one.
        class_ids: of the classes in label files, as the class file has them; by default their positions.
        none_id: in label files, of pixels without a class.
    """

    task: str
    class_indices: np.ndarray
    segments_map: np.ndarray
    segments: list[Segment]
    class_names: list[str]
    colors: list[tuple[int, int, int]]
    image: Image.Image
    path: str | None = None
    class_ids: list[int] | None = None
    none_id: int = IGNORE_INDEX

    @cached_property
    def class_map(self) -> np.ndarray:
        """uint8 `(H, W)`, or uint16 where ids need it: `class_ids` at the size of the image, `none_id` where there is
        no class. A label map in the terms of the class file."""
        if self.class_ids is None:
            return self.class_indices
        is_small = max(*self.class_ids, self.none_id) < 256
        table = np.full(IGNORE_INDEX + 1, self.none_id, dtype=np.uint8 if is_small else np.uint16)
        table[: len(self.class_ids)] = self.class_ids
        return table[self.class_indices]

    def overlay(self, alpha: float = 0.6, legend: bool = False) -> Image.Image:
        """
        The image under the colours of its classes. Instances and panoptic segments get white borders, and names and
        scores where they fit.

        Args:
            alpha: weight of the colours.
            legend: whether a legend of the classes is added below; the picture is larger than the image then.
        """
        picture = Image.fromarray(self._colored(alpha))
        if self.task != "semantic":
            texts = {segment.id: f"{segment.name} {segment.score:.2f}" for segment in self.segments}
            picture = write_on(picture, self.segments_map, texts)
        if not legend:
            return picture
        present = dict.fromkeys(segment.name for segment in self.segments)
        return with_legend(picture, [(name, self.colors[self.class_names.index(name)]) for name in present])

    def _colored(self, alpha: float) -> np.ndarray:
        pixels = overlay(np.asarray(self.image), self.class_indices, self.colors, alpha)
        return pixels if self.task == "semantic" else outlined(pixels, self.segments_map)

    def save(self, path: str | os.PathLike) -> None:
        """
        Write the class map as a PNG with the colours as its palette (16-bit and grey where ids need it): a label file
        of the data sets of this package, to be read with the class file that the model was trained with.

        Raises:
            SSPromptError: `path` does not end in `.png`; other formats, JPEG above all, may change class ids.
        """
        save_ids(path, self.class_map, dict(zip(self.class_ids or range(len(self.colors)), self.colors)))

    def save_instances(self, path: str | os.PathLike) -> None:
        """
        Write `segments_map` as a PNG of 8 or 16 bits: an instance map of the data sets of this package.

        Raises:
            SSPromptError: as `save`.
        """
        save_ids(path, self.segments_map, dict(enumerate(default_palette(len(self.segments)), start=1)))

    def coco_annotations(self) -> list[dict]:
        """The segments as annotations of COCO: `category_id` (`class_id`), `segmentation` (run-length code), `bbox`,
        `area`, `iscrowd` (0), and `score` where there is one."""
        annotations = []
        for segment in self.segments:
            annotation = coco_annotation(self.segments_map == segment.id, segment.class_id, segment.score)
            annotations.append(annotation)
        return annotations

    def __repr__(self) -> str:
        height, width = self.class_indices.shape
        size = self.class_indices.size
        found = ", ".join(f"{segment.name} {segment.area / size:.0%}" for segment in self.segments[:5])
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
        `(segmentation, segments_info)`: class indices (uint8) and None for semantic segmentation; else ids of
        segments, 0 where there is none, and dicts of `id`, `label_id`, `was_fused` and `score`.

    Raises:
        SSPromptError: a task that the base model has no masks of single objects for.
    """
    if task == "semantic":
        return inference.class_map(prediction, index, geometry).to(torch.uint8), None  # an eighth of its memory
    if not prediction.supports_instances:
        raise SSPromptError(f"the base model has no masks of single objects: task={task!r} needs another one")
    if task == "panoptic":
        found = inference.panoptic(prediction, index, geometry, thing_class_ids, policy)
    else:
        candidates = inference.instances(prediction, index, geometry, thing_class_ids, policy, return_masks=False)
        found = candidates.shown(policy.instance_threshold)
    return without_specks(*found, policy.least_area(math.prod(geometry.target_size)))


def without_specks(segmentation: Tensor, infos: list[dict], min_area: int) -> tuple[Tensor, list[dict]]:
    """Segments as of [`segment_image`] without those of fewer than `min_area` pixels; their ids are left out, too."""
    areas = segmentation.flatten().bincount(minlength=max((info["id"] for info in infos), default=0) + 1).tolist()
    small = [info["id"] for info in infos if areas[info["id"]] < min_area]
    if small:
        segmentation = segmentation.masked_fill(torch.isin(segmentation, segmentation.new_tensor(small)), 0)
    return segmentation, [info for info in infos if info["id"] not in small]


def build_result(
    task: str,
    segments: tuple[Tensor, list[dict] | None],
    image: Image.Image,
    class_names: list[str],
    colors: list | None = None,
    path: str | None = None,
    class_ids: list[int] | None = None,
    none_id: int = IGNORE_INDEX,
) -> SegmentationResult:
    """
    A result from what [`segment_image`] has found.

    Args:
        task: as above.
        segments: of [`segment_image`].
        image: the image.
        class_names, colors: of the classes; colours are taken from the default palette if there are none.
        path: where the image came from.
        class_ids, none_id: of [`SegmentationResult`].
    """
    segmentation, infos = segments
    counts = segmentation.flatten().bincount(minlength=max((info["id"] for info in infos or ()), default=0) + 1).cpu()
    # every copy of a large image counts
    if task == "semantic":
        class_indices = segmentation.to(torch.uint8).cpu().numpy()
        infos = [{"id": index + 1, "label_id": index, "score": None} for index in counts.nonzero().flatten().tolist()]
        segments_map = np.add(class_indices, 1, dtype=np.int32)
        areas = [0, *counts.tolist()]
    else:
        segments_map = segmentation.int().cpu().numpy()
        areas = counts.tolist()
        table = np.full(len(areas), IGNORE_INDEX, dtype=np.uint8)
        for info in infos:
            table[info["id"]] = info["label_id"]
        class_indices = table[segments_map]
    ids = range(len(class_names)) if class_ids is None else class_ids
    found = [
        Segment(info["id"], ids[label], class_names[label], areas[info["id"]], info["score"])
        for info in infos
        for label in [info["label_id"]]
    ]
    palette = default_palette(len(class_names)) if colors is None else [tuple(color) for color in colors]
    found.sort(key=lambda segment: -segment.area)
    return SegmentationResult(
        task, class_indices, segments_map, found, list(class_names), palette, image, path, class_ids, none_id
    )
