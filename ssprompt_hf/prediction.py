"""What `SSPromptModel.predict` does: with classes, and with clicks, boxes, scribbles and phrases."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from PIL import Image

from .data.image_inputs import ImageLike, image_sources, open_image
from .errors import SSPromptError
from .models.interactive import check_prompts
from .models.interface import CachedFeatures, PromptableImageProcessor
from .segmentation.policy import InferencePolicy
from .segmentation.prompted import PromptedResult, prompted_result
from .segmentation.results import SegmentationResult, build_result, segment_image
from .segmentation.visual_prompts import TEXT, read_prompts
from .tuners.base.calls import Call
from .tuners.base.config import check_choice
from .tuners.text import base_tokenizer
from .utils.tasks import TASKS

if TYPE_CHECKING:
    from .model import SSPromptModel


@torch.no_grad()
def predict_classes(
    model: "SSPromptModel",
    call: Call,
    images: ImageLike | list[ImageLike],
    task: str | None,
    batch_size: int,
    threshold: float | None,
    image_size: int | None,
    min_area: int | None,
    tile: int | None,
) -> SegmentationResult | list[SegmentationResult]:
    """`SSPromptModel.predict` by classes, whose arguments and errors these are; `call` says which."""
    if isinstance(images, EncodedImage):
        raise SSPromptError("an encoded image is for points, boxes, scribbles and text: give the image itself")
    config = call.config
    task = task or (config.task if config is not None else "semantic")
    check_choice("task", task, TASKS)
    processor = model.sized_image_processor(image_size or (config.image_size if config is not None else None))
    policy = processor.inference_policy().with_limits(threshold, min_area)
    if tile is not None and (tile < 2 or task != "semantic"):
        raise SSPromptError(f"tile is {tile}, task is {task!r}: tiles of 2 pixels or more make semantic maps only")
    sources, is_single = image_sources(images)
    results = []
    if tile is not None:
        results = [_predict_in_tiles(model, call, source, processor, tile) for source in sources]
        return results[0] if is_single else results
    for start in range(0, len(sources), batch_size):
        results += _predict_batch(model, call, sources[start : start + batch_size], task, processor, policy)
    return results[0] if is_single else results


def _predict_batch(
    model: "SSPromptModel",
    call: Call,
    sources: list,
    task: str,
    processor: PromptableImageProcessor,
    policy: InferencePolicy,
) -> list[SegmentationResult]:
    pictures = [open_image(source, call.image_bits) for source in sources]
    # the network sees padding: only images that need the same go together, and see what they would see alone
    inputs = [processor(picture, return_tensors="pt") for picture in pictures]
    groups: dict[tuple, list[int]] = {}
    for index, one in enumerate(inputs):
        groups.setdefault(one["pixel_values"].shape, []).append(index)
    results: list = [None] * len(sources)
    for members in groups.values():
        pixels, sizes = (
            torch.cat([torch.as_tensor(inputs[index][name]) for index in members])
            for name in ("pixel_values", "image_sizes")
        )
        prediction = model.get_base_model().predict_pixels(pixels.to(model.device), sizes)
        for row, index in enumerate(members):
            picture, source = pictures[index], sources[index]
            geometry = prediction.geometry(sizes[row].tolist(), (picture.height, picture.width))
            segments = segment_image(prediction, row, geometry, task, call.things, policy)
            path = source if isinstance(source, str) else None
            classes = (call.class_names, call.colors)
            results[index] = build_result(task, segments, picture, *classes, path, **call.label_ids)
    return results


def _predict_in_tiles(
    model: "SSPromptModel", call: Call, source: ImageLike, processor: PromptableImageProcessor, side: int
) -> SegmentationResult:
    """The class map of a large image, square by square. Neighbours overlap by a quarter, of which each gives the half
    that is farther from its own border."""
    picture = open_image(source, call.image_bits)
    class_map = torch.empty(picture.height, picture.width, dtype=torch.uint8)
    for rows in tile_spans(picture.height, side):
        for columns in tile_spans(picture.width, side):
            tile = picture.crop((columns.start, rows.start, columns.stop, rows.stop))
            inputs = {name: torch.as_tensor(value) for name, value in processor(tile, return_tensors="pt").items()}
            sizes = inputs["image_sizes"]
            prediction = model.get_base_model().predict_pixels(inputs["pixel_values"].to(model.device), sizes)
            geometry = prediction.geometry(sizes[0].tolist(), (tile.height, tile.width))
            found = segment_image(prediction, 0, geometry, "semantic", call.things, InferencePolicy())[0]
            inner = found[rows.keep_start - rows.start : rows.keep_stop - rows.start]
            inner = inner[:, columns.keep_start - columns.start : columns.keep_stop - columns.start]
            class_map[rows.keep_start : rows.keep_stop, columns.keep_start : columns.keep_stop] = inner
    path = source if isinstance(source, str) else None
    return build_result("semantic", (class_map, None), picture, call.class_names, call.colors, path, **call.label_ids)


class TileSpan(NamedTuple):
    """Where a tile lies along an axis, in pixels, and which part of it is kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def tile_spans(length: int, side: int) -> list[TileSpan]:
    """The tiles of `side` pixels along an axis, evenly spaced, which overlap by a quarter at least; what is kept of
    them covers the axis once."""
    side = min(side, length)
    count = 1 + math.ceil((length - side) / max(1, side - side // 4))
    starts = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    cuts = [0, *((start + before + side) // 2 for before, start in pairwise(starts)), length]
    return [TileSpan(start, start + side, *cuts[index : index + 2]) for index, start in enumerate(starts)]


@dataclass(frozen=True)
class EncodedImage:
    """
    An image and what the frozen part of a base model says of it: any number of clicks, boxes, scribbles and phrases
    can be asked of it without running the image encoder again. Made by `SSPromptModel.encode_image`.

    Args:
        image: upright RGB.
        features: of `AnswersPrompts.prompted_features`, on the model's device.
        size: (height, width) of the image within the pixel values.
        processor: that made the pixel values.
        base_model: that the features are of; no other one can read them.
        path: file of the image, if it came from one.
    """

    image: Image.Image
    features: CachedFeatures
    size: tuple[int, int]
    processor: PromptableImageProcessor
    base_model: torch.nn.Module
    path: str | None = None


@torch.no_grad()
def encode_image(model: "SSPromptModel", source: ImageLike, image_size: int | None = None) -> EncodedImage:
    """
    Run the image encoder once, for several calls of `predict` with clicks, boxes, scribbles or phrases; their answers
    are those for the image itself, bit for bit.

    Args:
        model: a `SSPromptModel`, which has this function as a method.
        source: one image, as for `SSPromptModel.predict`.
        image_size: shorter side in pixels to which it is resized; by default the processor's.

    Raises:
        SSPromptError: the base model takes no such prompts, or the image cannot be read; subclasses say which.
    """
    base = model.get_base_model()
    if not getattr(base, "visual_prompts", None):
        raise SSPromptError(f"{type(base).__name__} takes no clicks, boxes, scribbles or phrases")
    processor = model.sized_image_processor(image_size)
    picture = open_image(source)
    inputs = processor(picture, return_tensors="pt")
    features = base.prompted_features(torch.as_tensor(inputs["pixel_values"]).to(model.device))
    size = tuple(torch.as_tensor(inputs["image_sizes"])[0].tolist())
    return EncodedImage(picture, features, size, processor, base, source if isinstance(source, str) else None)


@torch.no_grad()
def predict_prompts(
    model: "SSPromptModel",
    images: ImageLike | EncodedImage | list[ImageLike],
    prompts: dict[str, Any],
    adapter: str | None = None,
    threshold: float | None = None,
    image_size: int | None = None,
    min_area: int | None = None,
    **of_classes: Any,
) -> PromptedResult | list[PromptedResult]:
    """
    Answers of the base model, with its own prompts, whatever adapter is loaded: adapters learn to tell the classes of
    their data set apart, and are not trained for other questions.

    Args:
        model: whose base model is asked.
        images: as for `SSPromptModel.predict`; clicks, boxes and scribbles need a single one, as their coordinates are
            those of one image.
        prompts: arguments of [`read_prompts`].
        adapter: as for `SSPromptModel.predict`; changes nothing, but must be there.
        threshold: least score of masks; by default the model's own for phrases, and none for what is pointed at.
        image_size: as for `SSPromptModel.predict`; by default the image processor's.
        min_area: pixels of the smallest mask of a phrase; by default a ten-thousandth of the image.
        of_classes: settings of prediction by classes, which must be None.

    Returns:
        one result for one image, otherwise a list in the order of the images.

    Raises:
        SSPromptError: the model does not take these prompts, or they do not fit the image; see [`read_prompts`].
        AdapterError: an unknown adapter, or no tokenizer for phrases.
    """
    if meant := [name for name, value in of_classes.items() if value is not None]:
        raise SSPromptError(f"{', '.join(prompts)} ask in place of classes: leave out {', '.join(meant)}")
    base = model.get_base_model()
    encoded = images if isinstance(images, EncodedImage) else None
    if encoded is not None and (encoded.base_model is not base or image_size is not None):
        raise SSPromptError("the image was encoded by another model or at another size: encode it again")
    sources, is_single = ([encoded], True) if encoded is not None else image_sources(images)
    if not is_single and set(prompts) != {TEXT}:
        raise SSPromptError(f"{', '.join(prompts)} belong to one image, but there is a list or folder: give one image")
    policy = model.sized_image_processor(image_size).inference_policy().with_limits(threshold, min_area)
    results = []
    with model.base_model.use_adapter(adapter, zero_shot=True):
        for source in sources:
            picture = open_image(source) if encoded is None else encoded.image
            asked = read_prompts((picture.height, picture.width), **prompts)
            check_prompts(base, asked)
            tokenizer = kept_tokenizer(model) if base.reads_text(asked) else None
            seen = encoded or encode_image(model, picture, image_size)
            answers = base.answer_prompts(seen.features, seen.size, asked, tokenizer)
            path = seen.path if encoded is not None else source if isinstance(source, str) else None
            results.append(prompted_result(answers, picture, policy, threshold, path, asked))
    return results[0] if is_single else results


def kept_tokenizer(model: "SSPromptModel") -> Any:
    """Of the base model; kept, as reading one takes longer than asking. Raises AdapterError if there is none."""
    name = model.get_base_model().tokenizer_name
    known = getattr(model, "_tokenizer_of", None)
    if known is None or known[0] != name:
        model._tokenizer_of = known = (name, base_tokenizer(model.get_base_model(), **model._access))
    return known[1]
