"""A Space that segments photographs by class names or with adapters, as its README says.

ADAPTERS=out/demo/adapter python examples/space/app.py
"""

import functools
import os

import numpy as np

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.segmentation.results import SegmentationResult
from ssprompt_hf.tuners.base.config import TASKS

BY_NAME = "none: by the class names below"
CLASS_NAMES = "road, pavement, building, sky, vegetation, car, person"


def adapters() -> list[str]:
    """Those that can be chosen."""
    return [name.strip() for name in os.environ.get("ADAPTERS", "").split(",") if name.strip()]


@functools.lru_cache(maxsize=4)
def load(adapter: str | None, class_names: tuple[str, ...] = ()) -> SSPromptModel:
    """The model with an adapter, or the base model that looks for `class_names`."""
    if adapter is not None:
        return SSPromptModel.from_pretrained(adapter=adapter)
    base = os.environ.get("BASE_MODEL")
    if base is None and adapters():
        base = load(adapters()[0]).peft_config["default"].base_model_name_or_path
    return SSPromptModel.from_pretrained(base or "seem-nano", class_names=list(class_names))


def annotations(result: SegmentationResult) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
    """What `gradio.AnnotatedImage` shows: the image, and mask and name of each segment."""
    masks = [(result.segments_map == segment.id, segment.name) for segment in result.segments]
    return np.asarray(result.image), masks


def colors(result: SegmentationResult) -> dict[str, str]:
    """Class names to colours, as `gradio.AnnotatedImage` takes them."""
    return {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in zip(result.class_names, result.colors)}


def segment(image: np.ndarray, adapter: str, class_names: str, task: str) -> list[SegmentationResult]:
    """
    The image without and with the adapter; without an adapter, by class names alone.

    Args:
        image: uint8 `(H, W, 3)`.
        adapter: one of `adapters()`, or `BY_NAME`.
        class_names: separated by commas; used with `BY_NAME`.
        task: one of `TASKS`.

    Raises:
        SSPromptError: no image, no class names, or an adapter that cannot be loaded.
    """
    if image is None:
        raise SSPromptError("there is no image yet: upload one")
    if adapter != BY_NAME:
        model = load(adapter)
        with model.zero_shot():
            zero_shot = model.predict(image, task)
        return [zero_shot, model.predict(image, task)]
    names = [name.strip() for name in class_names.split(",") if name.strip()]
    if not names:
        raise SSPromptError("there is nothing to look for: type class names, separated by commas")
    return [load(None, tuple(names)).predict(image, task)]


def build():
    """The page."""
    import gradio as gr

    def show(image, adapter, class_names, task):
        try:
            results = segment(image, adapter, class_names, task)
        except SSPromptError as error:
            raise gr.Error(str(error)) from None
        shown = [gr.AnnotatedImage(annotations(result), color_map=colors(result)) for result in results]
        return shown if len(shown) == 2 else [*shown, gr.AnnotatedImage(None)]

    with gr.Blocks(title="Segment with your own classes") as page:
        gr.Markdown("# Segment with your own classes\nWithout and with an adapter learned from a few images.")
        with gr.Row():
            image = gr.Image(type="numpy", label="photograph")
            with gr.Column():
                choices = [*adapters(), BY_NAME]
                adapter = gr.Dropdown(choices, value=choices[0], label="adapter")
                class_names = gr.Textbox(CLASS_NAMES, label="class names, separated by commas")
                task = gr.Radio(list(TASKS), value=TASKS[0], label="task")
                button = gr.Button("segment", variant="primary")
        with gr.Row():
            outputs = [gr.AnnotatedImage(label="base model"), gr.AnnotatedImage(label="with the adapter")]
        # one at a time: a model shows what it was without its adapter by taking it out
        button.click(show, [image, adapter, class_names, task], outputs, concurrency_limit=1, api_name="segment")
    return page


if __name__ == "__main__":
    build().launch()
