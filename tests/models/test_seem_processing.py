"""The image processor, the drawing of spatial prompts, and the processor of images and phrases."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.models.seem.processing_seem import SeemProcessor
from ssprompt_hf.models.seem.prompt_rasterizer import rasterize_prompts

MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_pixels_are_resized_normalised_then_padded():
    image = picture(60, 81)
    inputs = SeemImageProcessor(size={"shortest_edge": 90, "longest_edge": 200})(image, return_tensors="pt")
    assert inputs["image_sizes"].tolist() == [[90, 121]] and inputs["original_sizes"].tolist() == [[60, 81]]
    assert inputs["pixel_values"].shape == (1, 3, 96, 128) and inputs["pixel_values"].dtype == torch.float32
    resized = (np.asarray(image.resize((121, 90), Image.Resampling.BICUBIC)) - MEAN) / STD
    np.testing.assert_allclose(inputs["pixel_values"][0, :, :90, :121], resized.transpose(2, 0, 1), atol=1e-5)
    assert not inputs["pixel_values"][..., 90:, :].any() and not inputs["pixel_values"][..., 121:].any()


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((60, 81), 200, (90, 121)),
        ((81, 60), 200, (121, 90)),
        ((50, 200), 200, (50, 200)),
        ((300, 300), None, (90, 90)),
    ],
)
def test_resized_size(size, longest, expected):
    processor = SeemImageProcessor(size={"shortest_edge": 90} | ({"longest_edge": longest} if longest else {}))
    assert processor(picture(*size), return_tensors="pt")["image_sizes"].tolist() == [list(expected)]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((60, 81), (90, 121)),
        ((100, 130), (100, 130)),
        ((130, 100), (130, 100)),
        ((240, 360), (120, 180)),
        ((120, 260), (120, 260)),
        ((120, 300), (106, 266)),
    ],
    ids=["enlarged", "kept", "kept upright", "reduced", "long", "too long"],
)
def test_images_keep_their_size_up_to_a_limit(size, expected, tmp_path):
    processor = SeemImageProcessor(size={"shortest_edge": 90, "longest_edge": 200}, max_shortest_edge=120)
    processor.save_pretrained(tmp_path)
    loaded = SeemImageProcessor.from_pretrained(tmp_path)
    assert loaded(picture(*size), return_tensors="pt")["image_sizes"].tolist() == [list(expected)]
    assert loaded.resized_size(size) == expected
    # a size that is asked for is that of all images
    asked = {"shortest_edge": 60, "longest_edge": 200}
    told = loaded(picture(*size), size=asked, return_tensors="pt")["image_sizes"].tolist()
    assert told == [list(SeemImageProcessor(size=asked).resized_size(size))]
    assert loaded.with_image_size(60).resized_size(size) == tuple(told[0])
    assert SeemImageProcessor.from_pretrained(tmp_path, size=asked).resized_size(size) == tuple(told[0])
    assert SeemImageProcessor.from_pretrained(tmp_path, do_normalize=False).resized_size(size) == expected
    with pytest.raises(SSPromptError, match="max_shortest_edge is 0; it must be a whole number from 1"):
        loaded(picture(*size), max_shortest_edge=0)
    with pytest.raises(SSPromptError, match="enlargement is 0; it must be a number above 0"):
        loaded(picture(*size), enlargement=0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((50, 70), (90, 126)),
        ((70, 90), (105, 135)),
        ((90, 70), (135, 105)),
        ((99, 130), (120, 157)),
        ((240, 360), (120, 180)),
    ],
    ids=["to the least", "by half", "by half upright", "to the largest", "reduced"],
)
def test_images_are_enlarged_up_to_a_limit(size, expected, tmp_path):
    sizes = {"size": {"shortest_edge": 90, "longest_edge": 200}, "max_shortest_edge": 120}
    SeemImageProcessor(**sizes, enlargement=1.5).save_pretrained(tmp_path)
    loaded = SeemImageProcessor.from_pretrained(tmp_path)
    assert loaded(picture(*size), return_tensors="pt")["image_sizes"].tolist() == [list(expected)]
    assert loaded.resized_size(size) == expected
    kept = loaded(picture(*size), enlargement=1.0, return_tensors="pt")["image_sizes"].tolist()
    assert kept == [list(SeemImageProcessor(**sizes).resized_size(size))]
    asked = loaded.with_image_size(60)
    assert asked.resized_size(size) == SeemImageProcessor(size=asked.size).resized_size(size)


def test_batch_of_different_sizes_and_kinds():
    processor = SeemImageProcessor(do_resize=False)
    images = [picture(40, 50), picture(64, 33).convert("L"), np.asarray(picture(30, 30)), torch.zeros(3, 20, 20)]
    inputs = processor(images, return_tensors="pt")
    assert inputs["pixel_values"].shape == (4, 3, 64, 64)
    assert inputs["image_sizes"].tolist() == [[40, 50], [64, 33], [30, 30], [20, 20]]
    for image, values in zip(images[:3], inputs["pixel_values"]):
        alone = processor(image, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(values[:, : alone.shape[1], : alone.shape[2]], alone)
    floats = processor(np.asarray(images[0]) / np.float32(255), do_rescale=True, return_tensors="pt")
    torch.testing.assert_close(floats["pixel_values"][0, :, :40, :50], inputs["pixel_values"][0, :, :40, :50])
    with pytest.raises(ValueError, match="do_pad=True"):
        processor(images, do_pad=False)


def test_reference_images_are_prepared_as_officially(reference_dir):
    folder = reference_dir / "seem-v1-focal"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    images = load_file(folder / "inputs.safetensors")
    images = [images["image_a"], images["image_b"]]
    inputs = SeemImageProcessor(do_resize=False)(images, return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 96, 128)
    for image, values in zip(images, inputs["pixel_values"].double()):
        expected = (image.double() - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        torch.testing.assert_close(values[:, : image.shape[1], : image.shape[2]], expected, rtol=0, atol=1e-6)


def test_segmentation_maps():
    processor = SeemImageProcessor(size={"shortest_edge": 32})
    classes = np.repeat(np.arange(16, dtype=np.uint8)[None], 16, axis=0)
    classes[0] = 255
    inputs = processor([picture(16, 16), picture(16, 40)], [classes, np.full((16, 40), 3)], return_tensors="pt")
    labels = inputs["labels"]
    assert labels.shape == (2, 32, 96) and labels.dtype == torch.int64
    assert torch.equal(labels[0, 2:, :32], torch.arange(32).div(2, rounding_mode="floor").expand(30, -1))
    assert (labels[0, :2] == 255).all() and (labels[0, :, 32:] == 255).all()
    assert (labels[1, :, :80] == 3).all() and (labels[1, :, 80:] == 255).all()

    instances = np.zeros((16, 16), dtype=np.int32)
    instances[:8], instances[8:, 8:] = 70000, 255
    inputs = processor(picture(16, 16), instances, instance_id_to_semantic_id={0: 4, 70000: 1}, return_tensors="pt")
    assert inputs["class_labels"][0].tolist() == [4, 1]
    assert inputs["mask_labels"][0].shape == (2, 32, 32) and inputs["mask_labels"][0].dtype == torch.float32
    assert inputs["mask_labels"][0][1, :16].all() and inputs["mask_labels"][0].sum() == 32 * 16 + 16 * 16
    assert inputs["labels"][0, 0, 0] == 1 and inputs["labels"][0, 31, 0] == 4 and inputs["labels"][0, 31, 31] == 255
    with pytest.raises(ValueError, match=r"instances \[70000\]"):
        processor(picture(16, 16), instances, instance_id_to_semantic_id={0: 4})
    with pytest.raises(ValueError, match="map 0 has shape"):
        processor(picture(16, 20), classes)
    with pytest.raises(ValueError, match="without `segmentation_maps`"):
        processor(picture(16, 20), instance_id_to_semantic_id={0: 4})


def draw(size=(20, 30), image_size=None, padded_size=(32, 32), **prompts):
    positive, negative = rasterize_prompts([size], [image_size or size], padded_size, **prompts)
    return positive[0], negative[0]


def pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    return [tuple(map(int, pixel)) for pixel in np.argwhere(mask)]


def square(row: int, column: int) -> list[tuple[int, int]]:
    return [(r, c) for r in range(row - 1, row + 2) for c in range(column - 1, column + 2)]


def test_points():
    positive, negative = draw(input_points=[[[[5, 9], [20, 3]]]], input_labels=[[[1, 0]]])
    assert positive.shape == negative.shape == (1, 32, 32) and positive.dtype == bool
    assert pixels(positive[0]) == square(9, 5) and pixels(negative[0]) == square(3, 20)
    corner, _ = draw(input_points=[[[[29, 19]]]])  # does not reach into the padding
    assert pixels(corner[0]) == [(18, 28), (18, 29), (19, 28), (19, 29)]
    scaled, _ = draw(image_size=(10, 15), input_points=[[[[5, 9]]]])
    assert pixels(scaled[0]) == square(4, 2)


def test_boxes_scribbles_and_masks():
    box, _ = draw(image_size=(10, 15), input_boxes=[[[4, 2, 9, 7]]])
    assert pixels(box[0]) == [(r, c) for r in range(1, 4) for c in range(2, 5)]
    _, box = draw(input_boxes=[[[3, 3, 3, 3]]], input_boxes_labels=[[0]])
    assert pixels(box[0]) == [(3, 3)]

    line, _ = draw(input_scribbles=[[[[[2, 2], [10, 2], [10, 8]]]]])
    expected = {pixel for c in range(2, 11) for pixel in square(2, c)}
    expected |= {pixel for r in range(2, 9) for pixel in square(r, 10)}
    assert set(pixels(line[0])) == expected
    steep, _ = draw(image_size=(200, 300), padded_size=(200, 300), input_scribbles=[[[[[3, 1], [7, 18]]]]])
    assert steep[0].any(axis=1)[15:185].all()  # no gap after enlarging
    both = draw(input_scribbles=[[[[[2, 2]], [[9, 9]]]]], input_scribbles_labels=[[[0, 1]]])
    assert pixels(both[0][0]) == square(9, 9) and pixels(both[1][0]) == square(2, 2)

    mask = np.zeros((20, 30), dtype=bool)
    mask[4:9, 6:21] = True
    positive, _ = draw(input_masks=[[mask]])
    assert np.array_equal(positive[0, :20, :30], mask) and positive.sum() == mask.sum()
    small, _ = draw(image_size=(10, 15), input_masks=[[torch.from_numpy(mask)]])
    assert pixels(small[0]) == [(r, c) for r in range(2, 5) for c in range(3, 11)]


def test_objects_and_kinds_are_combined():
    positive, negative = rasterize_prompts(
        [(20, 30), (20, 30)],
        [(20, 30), (20, 30)],
        (32, 32),
        input_points=[[[[5, 5]], [[9, 9]], []], None],
        input_boxes=[[None, [20, 10, 22, 11]], [[0, 0, 1, 1]]],
    )
    assert positive.shape == (2, 3, 32, 32) and not negative.any()
    assert positive.sum(axis=(2, 3)).tolist() == [[9, 9 + 6, 0], [4, 0, 0]]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({"input_points": [[5, 9]]}, "nested by image"),
        ({"input_points": [[[[5, 9]]], [[[5, 9]]]]}, "`input_points` has 2 entries for 1 images"),
        ({"input_points": [[[[35, 9]]]]}, r"\[35.0, 9.0\], outside the image of 30x20"),
        ({"input_points": [[[[5, 9]]]], "input_labels": [[[2]]]}, "1 \\(positive\\) or 0"),
        ({"input_points": [[[[5, 9]]]], "input_labels": [[[1, 1]]]}, "must be 1 times"),
        ({"input_labels": [[[1]]]}, "without `input_points`"),
        ({"input_boxes": [[[9, 9, 2, 2]]]}, "x1 <= x2"),
        ({"input_boxes": [[[9, 9, 12]]]}, "4 numbers"),
        ({"input_masks": [[np.ones((5, 5))]]}, "at the size of the original image"),
    ],
)
def test_prompt_errors(prompts, message):
    with pytest.raises(ValueError, match=message):
        draw(**prompts)


def test_image_processor_draws_prompts():
    inputs = SeemImageProcessor(size={"shortest_edge": 40})(
        [picture(20, 30), picture(20, 20)],
        input_points=[[[[5, 9]]], [[[1, 1]], [[8, 8]]]],
        return_tensors="pt",
    )
    assert inputs["positive_prompt_masks"].shape == inputs["negative_prompt_masks"].shape == (2, 2, 64, 64)
    assert inputs["positive_prompt_masks"].dtype == torch.bool
    assert inputs["positive_prompt_masks"].any(dim=(2, 3)).tolist() == [[True, False], [True, True]]


def test_save_and_load(tmp_path):
    processor = SeemImageProcessor(size={"shortest_edge": 64}, thing_class_ids=[1, 2], overlap_threshold=0.5)
    processor.save_pretrained(tmp_path)
    loaded = SeemImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    assert loaded.thing_class_ids == [1, 2] and loaded.overlap_threshold == 0.5
    pixels = [each(picture(40, 50), return_tensors="pt")["pixel_values"] for each in (processor, loaded)]
    assert torch.equal(*pixels)


def word_tokenizer():
    """A CLIP-like tokenizer of a few words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(["[pad]", "the", "sky", "red", "car", "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[pad]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 5), ("<end>", 6)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[pad]", eos_token="<end>", bos_token="<start>", model_max_length=9
    )


def test_processor():
    processor = SeemProcessor(SeemImageProcessor(size={"shortest_edge": 32}), word_tokenizer())
    inputs = processor(
        images=[picture(20, 30), picture(20, 20)],
        text=["the sky", "the red car"],
        input_boxes=[[[0, 0, 5, 5]], None],
        return_tensors="pt",
    )
    assert set(inputs) == {
        *("pixel_values", "image_sizes", "original_sizes", "positive_prompt_masks", "negative_prompt_masks"),
        *("input_ids", "attention_mask"),
    }
    assert inputs["input_ids"].tolist() == [[5, 1, 2, 6, 0], [5, 1, 3, 4, 6]]
    assert processor(text="the sky", return_tensors="pt")["input_ids"].tolist() == [[5, 1, 2, 6]]
    padded = processor(text="the sky", padding="max_length", return_tensors="pt")
    assert padded["input_ids"].shape == (1, 9)
    with pytest.raises(ValueError, match="`images`, `text` or both"):
        processor()
    with pytest.raises(ValueError, match="non-empty phrases"):
        processor(text=["the sky", ""])
    with pytest.raises(ValueError, match="need the images"):
        processor(text="the sky", input_points=[[[[1, 1]]]])
