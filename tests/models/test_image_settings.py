"""What the settings of an image processor may be, in every family: a file or a call with others is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.exporters.merged_model import MergedModel
from ssprompt_hf.models.clipseg.image_processing_clipseg import CLIPSegImageProcessorPil
from ssprompt_hf.models.image_processing import PromptableImageProcessor
from ssprompt_hf.models.sam.image_processing_sam import SamImageProcessorPil
from ssprompt_hf.models.sam2.image_processing_sam2 import Sam2ImageProcessorPil
from ssprompt_hf.models.sam3.image_processing_sam3 import Sam3ImageProcessorPil
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor

SQUARE = {"height": 56, "width": 56}
SIZES = {
    SeemImageProcessor: {"size": {"shortest_edge": 32}},
    SamImageProcessorPil: {"size": {"longest_edge": 56}, "pad_size": SQUARE},
    Sam2ImageProcessorPil: {"size": SQUARE},
    Sam3ImageProcessorPil: {"size": SQUARE},
    CLIPSegImageProcessorPil: {"size": SQUARE},
}
IMAGE = np.arange(40 * 56 * 3, dtype=np.uint8).reshape(40, 56, 3)
NAN, INF = float("nan"), float("inf")
WRONG = {
    "image_mean": [[0.5], [], [0.5] * 4, [0.5, NAN, 0.5], INF, "word", {"a": 1}, [[0.5] * 3], -1, True, [1e9] * 3],
    "image_std": [[0.5], [], [0.5] * 4, [0.5, 0, 0.5], 0, -0.5, NAN, [INF] * 3, "word", ["a", "b", "c"], 1e9],
    "rescale_factor": [0, -1, NAN, "word", [1 / 255]],
    "resample": ["word", 6, True, []],
    "size": ["large", -1, 10**9, [], [1], {}, {"a": 1}, {"height": 56}, {"height": "a", "width": 56}, {"height": 0}],
    "do_normalize": ["no", 1, []],
    "do_resize": [{}],
}
processors = pytest.mark.parametrize("processor_class", SIZES)


@processors
@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused_by_name(processor_class, name):
    for value in WRONG[name]:
        settings = SIZES[processor_class] | {name: value}
        with pytest.raises(SSPromptError, match=f"^{name} is .*must "):
            processor_class.from_dict(settings)
        processor = processor_class(**SIZES[processor_class])
        setattr(processor, name, value)
        with pytest.raises(SSPromptError, match=f"^{name} is .*must "):
            processor(IMAGE)


@processors
def test_wrong_arguments_are_refused_by_name(processor_class):
    processor = processor_class(**SIZES[processor_class])
    for name, value in (("image_std", [58.395]), ("image_mean", []), ("rescale_factor", 0.0), ("size", {"a": 1})):
        with pytest.raises(SSPromptError, match=f"^{name} is .*must "):
            processor(IMAGE, **{name: value})


@processors
def test_settings_without_a_value(processor_class):
    for name in ("do_normalize", "do_resize", "image_std", "size"):
        with pytest.raises(SSPromptError, match=f"^{name} is None; it must be"):
            processor_class(**SIZES[processor_class] | {name: None})
    processor_class(do_normalize=False, image_mean=None, image_std=None)(IMAGE)


@processors
def test_one_number_is_for_all_channels(processor_class):
    one = processor_class(**SIZES[processor_class], image_mean=0.25, image_std=0.5)
    three = processor_class(**SIZES[processor_class], image_mean=[0.25] * 3, image_std=[0.5] * 3)
    expected = three(IMAGE, return_tensors="pt")["pixel_values"]
    assert torch.equal(one(IMAGE, return_tensors="pt")["pixel_values"], expected)
    assert torch.equal(three(IMAGE, image_std=0.5, return_tensors="pt")["pixel_values"], expected)
    pixels = torch.rand(1, 3, 56, 56)
    merged = (MergedModel(nn.Identity(), processor, (56, 56), False).inputs(pixels) for processor in (one, three))
    assert torch.equal(*merged)


def test_other_settings():
    for name, value in (
        *(("size_divisibility", value) for value in (0, None, "word", 10**9)),
        *(("object_mask_threshold", value) for value in (-1, NAN, "word")),
        *(("thing_class_ids", value) for value in (7, ["car"])),
        *(("ignore_index", value) for value in (1.5, [])),
    ):
        with pytest.raises(SSPromptError, match=f"^{name} is .*must "):
            SeemImageProcessor(**{name: value})
    with pytest.raises(SSPromptError, match=r"^pad_size is .*must have height and width"):
        SamImageProcessorPil(pad_size={"height": 56})


def test_a_processor_that_is_none_of_transformers():
    class Own(PromptableImageProcessor):
        def resized_size(self, size):
            return 8, 8

    assert Own().resized_size((10, 20)) == (8, 8)
