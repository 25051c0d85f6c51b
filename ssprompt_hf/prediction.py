"""What `SSPromptModel.predict` does: with classes, and with clicks, boxes, scribbles and phrases."""

from typing import TYPE_CHECKING, Any

import torch

from .data.image_inputs import ImageLike, image_sources, open_image
from .errors import SSPromptError
from .models.interactive import check_prompts
from .models.interface import PromptableImageProcessor
from .segmentation.policy import InferencePolicy
from .segmentation.prompted import PromptedResult, prompted_result
from .segmentation.results import SegmentationResult, build_result, segment_image
from .segmentation.visual_prompts import TEXT, read_prompts
from .tuners.base.calls import Call
from .tuners.base.config import MAX_IMAGE_SIZE, check_choice, check_range
from .tuners.text import load_tokenizer
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
) -> SegmentationResult | list[SegmentationResult]:
    """`SSPromptModel.predict` by classes, whose arguments and errors these are; `call` says which."""
    config = call.config
    task = task or (config.task if config is not None else "semantic")
    check_choice("task", task, TASKS)
    check_range("image_size", image_size, 1, MAX_IMAGE_SIZE)
    if batch_size < 1:
        raise SSPromptError(f"batch_size is {batch_size}; it must be at least 1")
    processor = model.sized_image_processor(image_size or (config.image_size if config is not None else None))
    policy = processor.inference_policy().with_limits(threshold, min_area)
    sources, is_single = image_sources(images)
    results = []
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
    pictures = [open_image(source) for source in sources]
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
            results[index] = build_result(task, segments, picture, call.class_names, call.colors, path)
    return results


@torch.no_grad()
def predict_prompts(
    model: "SSPromptModel",
    images: ImageLike | list[ImageLike],
    prompts: dict[str, Any],
    threshold: float | None = None,
    image_size: int | None = None,
    min_area: int | None = None,
) -> PromptedResult | list[PromptedResult]:
    """
    Answers of the base model, with its own prompts, whatever adapter is loaded: adapters learn to tell the classes of
    their data set apart, and what they do to other questions is nobody's intention.

    Args:
        model: whose base model is asked.
        images: as for `SSPromptModel.predict`; clicks, boxes and scribbles need a single one, as their coordinates are
            those of one image.
        prompts: arguments of [`read_prompts`].
        threshold: least score of masks; by default the model's own for phrases, and none for what is pointed at.
        image_size: as for `SSPromptModel.predict`; by default the image processor's.
        min_area: pixels of the smallest mask of a phrase; by default a ten-thousandth of the image.

    Returns:
        one result for one image, otherwise a list in the order of the images.

    Raises:
        SSPromptError: the model does not take these prompts, or they do not fit the image; see [`read_prompts`].
    """
    base = model.get_base_model()
    sources, is_single = image_sources(images)
    if not is_single and set(prompts) != {TEXT}:
        raise SSPromptError(f"{', '.join(prompts)} belong to one image, but there is a list or folder: give one image")
    processor = model.sized_image_processor(image_size)
    policy = processor.inference_policy().with_limits(threshold, min_area)
    results = []
    for source in sources:
        picture = open_image(source)
        asked = read_prompts((picture.height, picture.width), **prompts)
        check_prompts(base, asked)
        tokenizer = _tokenizer(model) if base.reads_text(asked) else None
        inputs = processor(picture, return_tensors="pt")
        with model.base_model.zero_shot():
            features = base.prompted_features(torch.as_tensor(inputs["pixel_values"]).to(model.device))
            size = tuple(torch.as_tensor(inputs["image_sizes"])[0].tolist())
            answers = base.answer_prompts(features, size, asked, tokenizer)
        path = source if isinstance(source, str) else None
        results.append(prompted_result(answers, picture, policy, threshold, path))
    return results[0] if is_single else results


def _tokenizer(model: "SSPromptModel") -> Any:
    """Of the base model; kept, as reading one takes longer than asking."""
    name = model.get_base_model().name_or_path
    known = getattr(model, "_tokenizer_of", None)
    if known is None or known[0] != name:
        model._tokenizer_of = known = (name, load_tokenizer(name))
    return known[1]
