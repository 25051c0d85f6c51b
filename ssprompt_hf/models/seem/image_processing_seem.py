"""Images to SEEM's inputs and its outputs back to results. Works with PIL and NumPy; torchvision is not needed."""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging

from ..interface import PromptableImageProcessor
from .post_processing import SeemPostProcessingMixin
from .pretrained_names import ResolvesPretrainedNames
from .prompt_rasterizer import rasterize_prompts

logger = logging.get_logger(__name__)

PROMPT_ARGUMENTS = (
    "input_points",
    "input_labels",
    "input_boxes",
    "input_boxes_labels",
    "input_scribbles",
    "input_scribbles_labels",
    "input_masks",
    "input_masks_labels",
)


class SeemImageProcessorKwargs(ImagesKwargs, total=False):
    """
    max_shortest_edge (`int`, *optional*):
        The shorter side becomes `enlargement` times what it is, but at least `size["shortest_edge"]` and at most this;
        `size["longest_edge"]` grows with it. By default all get `size["shortest_edge"]`. Whoever asks for another
        `size` without this gets that size for all images.
    enlargement (`float`, *optional*, defaults to 1.0):
        Where there is a `max_shortest_edge`: by how much images between the two sizes are enlarged.
    size_divisibility (`int`, *optional*, defaults to 32):
        Batches are zero-padded, after normalisation, on the right and at the bottom, to a multiple of this.
    ignore_index (`int`, *optional*, defaults to 255):
        The id of unlabelled pixels in segmentation maps; padding gets it too.
    mask_stride (`int`, *optional*, defaults to 4):
        Input pixels a pixel of the predicted masks, for outputs that do not say their `padded_size`.
    thing_class_ids (`list[int]`, *optional*):
        Countable classes, for instance and panoptic results; by default all classes.
    object_mask_threshold (`float`, *optional*, defaults to 0.8):
        Panoptic results: least class score of a segment.
    overlap_threshold (`float`, *optional*, defaults to 0.8):
        Panoptic results: least share of its mask that a segment must keep.
    """

    max_shortest_edge: int | None
    enlargement: float
    size_divisibility: int
    ignore_index: int
    mask_stride: int
    thing_class_ids: list[int] | None
    object_mask_threshold: float
    overlap_threshold: float


class SeemImageProcessor(ResolvesPretrainedNames, SeemPostProcessingMixin, PromptableImageProcessor, PilBackend):
    r"""
    Image processor of SEEM: bicubic resize of the shorter side, normalisation, zero padding, prompts drawn into masks,
    and the post-processing of outputs.

    Pixels are normalised on the scale 0 to 255. Images given as floats between 0 and 1 need `do_rescale=True`, which
    multiplies them by `rescale_factor`, 255.

    Args:
        kwargs ([`SeemImageProcessorKwargs`]):
            Besides those listed there `do_resize`, `size` (`{"shortest_edge": 512, "longest_edge": 2048}`),
            `resample`, `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`, `image_std`, `do_pad` and
            `do_convert_rgb`.
    """

    valid_kwargs = SeemImageProcessorKwargs
    model_input_names = ["pixel_values", "image_sizes", "original_sizes"]

    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 512, "longest_edge": 2048}
    max_shortest_edge = None
    enlargement = 1.0
    default_to_square = False
    resample = PILImageResampling.BICUBIC
    do_rescale = False
    rescale_factor = 255.0
    do_normalize = True
    image_mean = [123.675, 116.28, 103.53]
    image_std = [58.395, 57.12, 57.375]
    do_pad = True
    size_divisibility = 32
    ignore_index = 255
    size_forms = (("shortest_edge",), ("height", "width"))

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> "SeemImageProcessor":
        """As in `transformers`."""
        if kwargs.get("size") is not None:
            image_processor_dict = {**image_processor_dict, "max_shortest_edge": kwargs.pop("max_shortest_edge", None)}
        return super().from_dict(image_processor_dict, **kwargs)

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        instance_id_to_semantic_id: list[dict[int, int]] | dict[int, int] | None = None,
        **kwargs: Unpack[SeemImageProcessorKwargs],
    ) -> BatchFeature:
        """
        Prepare a batch of images, of any sizes.

        Args:
            images (`ImageInput`): B images: PIL, or arrays (H, W, 3) or (3, H, W) on the scale 0 to 255.
            segmentation_maps (`ImageInput`, *optional*): B integer maps (H, W), of class ids, or of instance ids if
                `instance_id_to_semantic_id` is given.
            instance_id_to_semantic_id (`dict[int, int]`, or a list of them, *optional*): the class of each instance.
            input_points, input_labels, input_boxes, input_boxes_labels, input_scribbles, input_scribbles_labels,
            input_masks, input_masks_labels (*optional*): spatial prompts; see [`rasterize_prompts`].

        Returns:
            `BatchFeature` with

            - `pixel_values` (B, 3, Hp, Wp) float32, where Hp and Wp are multiples of `size_divisibility`;
            - `image_sizes` (B, 2) int64, height and width in it without padding;
            - `original_sizes` (B, 2) int64, height and width before resizing;
            - with prompts, `positive_prompt_masks` and `negative_prompt_masks` (B, O, Hp, Wp) bool; images with fewer
              than O objects end with empty ones;
            - with `segmentation_maps`, `labels` (B, Hp, Wp) int64, the class ids, `ignore_index` where there is none;
            - with `instance_id_to_semantic_id`, `mask_labels`, a list of (n, Hp, Wp) float32, and `class_labels`, a
              list of (n,) int64.

        Raises:
            ValueError: for prompts or maps that do not fit their images, and instances without a class.
        """
        prompts = {name: kwargs.pop(name, None) for name in PROMPT_ARGUMENTS}
        prompts = {name: value for name, value in prompts.items() if value is not None}
        if kwargs.get("size") is not None:
            kwargs.setdefault("max_shortest_edge", None)  # the size that is asked for, and no other
        extra = {
            "segmentation_maps": segmentation_maps,
            "instance_id_to_semantic_id": instance_id_to_semantic_id,
            "prompts": prompts,
        }
        return super().preprocess(images, image_like_kwargs=extra, **kwargs)

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.resized_size`]."""
        wanted = self.size if isinstance(self.size, SizeDict) else SizeDict(**self.size)
        limits = self.max_shortest_edge, self.enlargement
        return self._resized_size(size, wanted, *limits) if self.do_resize else size

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """See [`PromptableImageProcessor.padded_size`]."""
        return self._padded_size([size], self.do_pad, self.size_divisibility)

    def with_image_size(self, image_size: int) -> "SeemImageProcessor":
        """
        See [`PromptableImageProcessor.with_image_size`].

        `longest_edge` is there for elongated images. It grows with the shorter side, or it would hold back ordinary
        ones, but does not shrink: SAM's is little more than the shorter side, because the model was trained on
        squares.
        """
        size = dict(self.size)
        limit = size.get("longest_edge")
        resized = {"shortest_edge": image_size}
        if limit is not None:
            usual = size.get("shortest_edge", image_size)
            resized["longest_edge"] = max(limit, limit * image_size // usual)
        return type(self).from_dict(self.to_dict(), size=resized)

    def _preprocess_image_like_inputs(
        self, images, segmentation_maps, instance_id_to_semantic_id, prompts, **kwargs
    ) -> BatchFeature:
        conversion = {key: kwargs.pop(key) for key in ("do_convert_rgb", "input_data_format")}
        images = self._prepare_image_like_inputs(images, **conversion)
        return_tensors = kwargs.pop("return_tensors")
        sizes = [image.shape[-2:] for image in images]
        wanted, limits = kwargs["size"], (kwargs.pop("max_shortest_edge"), kwargs.pop("enlargement"))
        resized = [self._resized_size(size, wanted, *limits) if kwargs["do_resize"] else size for size in sizes]
        padded_size = self._padded_size(resized, kwargs["do_pad"], kwargs["size_divisibility"])
        data = {
            "pixel_values": self._preprocess(images, resized, padded_size, **kwargs),
            "image_sizes": np.array(resized, dtype=np.int64),
            "original_sizes": np.array(sizes, dtype=np.int64),
        }
        if prompts:
            positive, negative = rasterize_prompts(sizes, resized, padded_size, **prompts)
            data |= {"positive_prompt_masks": positive, "negative_prompt_masks": negative}
        targets = {}
        if segmentation_maps is not None:
            maps = self._prepare_image_like_inputs(segmentation_maps, do_convert_rgb=False, expected_ndims=2)
            targets = self._targets(
                maps, sizes, resized, padded_size, instance_id_to_semantic_id, kwargs["ignore_index"]
            )
            data["labels"] = targets.pop("labels")
        elif instance_id_to_semantic_id is not None:
            raise ValueError("`instance_id_to_semantic_id` was passed without `segmentation_maps`.")
        batch = BatchFeature(data, tensor_type=return_tensors)
        for name, values in targets.items():  # lists of arrays of different lengths
            batch[name] = [torch.from_numpy(value) for value in values] if return_tensors == "pt" else values
        return batch

    def _preprocess(self, images, resized, padded_size, **kwargs) -> np.ndarray:
        """Normalised pixels (B, C, *padded_size) of channels-first images."""
        pixel_values = np.zeros((len(images), images[0].shape[0], *padded_size), dtype=np.float32)
        for index, (image, (height, width)) in enumerate(zip(images, resized)):
            if np.issubdtype(image.dtype, np.floating) and not kwargs["do_rescale"] and image.max() <= 1.0:
                logger.warning_once(
                    "An image has no value above 1, but pixels are normalised on the scale 0 to 255: for floats "
                    "between 0 and 1 pass `do_rescale=True`."
                )
            if image.shape[-2:] != (height, width):
                image = self._resized(image, height, width, kwargs["resample"])
            if kwargs["do_rescale"]:
                image = self.rescale(image, kwargs["rescale_factor"])
            if kwargs["do_normalize"]:
                image = self.normalize(image, kwargs["image_mean"], kwargs["image_std"])
            pixel_values[index, :, :height, :width] = image
        return pixel_values

    def _resized(self, image: np.ndarray, height: int, width: int, resample) -> np.ndarray:
        if image.dtype != np.uint8 or image.shape[0] != 3 or not isinstance(resample, int):
            return self.resize(image, SizeDict(height=height, width=width), resample=resample)
        # the same, without two more copies of what may be a very large image
        picture = Image.fromarray(np.moveaxis(image, 0, -1)).resize((width, height), resample)
        return np.moveaxis(np.asarray(picture), -1, 0)

    @staticmethod
    def _resized_size(
        original_size: tuple[int, int], size: SizeDict, max_shortest_edge: int | None = None, enlargement: float = 1.0
    ) -> tuple[int, int]:
        """Height and width with the shorter side as asked, rounded down as torchvision does it for official SEEM."""
        if size.height and size.width:
            return size.height, size.width
        short, long = sorted(original_size)
        new_short, limit = size.shortest_edge, size.longest_edge
        if max_shortest_edge is not None:
            new_short = max(new_short, min(int(short * enlargement), max_shortest_edge))
            limit = limit and limit * new_short // size.shortest_edge
        new_long = int(new_short * long / short)
        if limit and new_long > limit:
            new_short, new_long = max(1, int(limit * new_short / new_long)), limit
        height, width = original_size
        return (new_short, new_long) if height <= width else (new_long, new_short)

    @staticmethod
    def _padded_size(sizes: list[tuple[int, int]], do_pad: bool, divisor: int) -> tuple[int, int]:
        if do_pad:
            return tuple(math.ceil(max(sides) / divisor) * divisor for sides in zip(*sizes))
        if len(set(sizes)) > 1:
            raise ValueError(f"Images of different sizes {sorted(set(sizes))} need `do_pad=True` to form one batch.")
        return sizes[0]

    def _targets(self, maps, sizes, resized, padded_size, instance_to_class, ignore_index: int) -> dict:
        """`labels`, and with `instance_to_class` also `mask_labels` and `class_labels`."""
        if len(maps) != len(sizes):
            raise ValueError(f"{len(maps)} segmentation maps were passed for {len(sizes)} images.")
        if isinstance(instance_to_class, dict):
            instance_to_class = [instance_to_class] * len(maps)
        labels = np.full((len(maps), *padded_size), ignore_index, dtype=np.int64)
        targets = {"labels": labels}
        if instance_to_class is not None:
            targets |= {"mask_labels": [], "class_labels": []}
        for index, (ids, original, (height, width)) in enumerate(zip(maps, sizes, resized)):
            if ids.size != math.prod(original) or ids.shape[-2:] != original:
                raise ValueError(
                    f"Segmentation map {index} has shape {ids.shape}, but its image has {original} (height, width)."
                )
            ids = Image.fromarray(ids.reshape(original).astype(np.int32))
            ids = np.asarray(ids.resize((width, height), Image.Resampling.NEAREST), dtype=np.int64)
            if instance_to_class is None:
                labels[index, :height, :width] = ids
                continue
            instances = [int(i) for i in np.unique(ids) if i != ignore_index]
            if missing := [i for i in instances if i not in instance_to_class[index]]:
                raise ValueError(
                    f"Segmentation map {index} holds instances {missing} that `instance_id_to_semantic_id` gives no "
                    f"class: add them, or set their pixels to the ignore index {ignore_index}."
                )
            masks = np.zeros((len(instances), *padded_size), dtype=np.float32)
            for mask, instance in zip(masks, instances):
                inside = ids == instance
                mask[:height, :width] = inside
                labels[index, :height, :width][inside] = instance_to_class[index][instance]
            targets["mask_labels"].append(masks)
            targets["class_labels"].append(np.array([instance_to_class[index][i] for i in instances], dtype=np.int64))
        return targets
