"""Images become CLIPSeg's inputs as by the processor of the published models, bit for bit."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clipseg import tiny_clipseg, tokenizer
from transformers import CLIPSegProcessor, ViTImageProcessorPil

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.clipseg import CLIPSegImageProcessorPil
from ssprompt_hf.segmentation.policy import InferencePolicy


def picture(height: int = 90, width: int = 130, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def processor(side: int = 64, **kwargs) -> CLIPSegImageProcessorPil:
    return CLIPSegImageProcessorPil(size={"height": side, "width": side}, **kwargs)


@pytest.mark.parametrize("side", [64, 352])
def test_pixels_are_those_of_transformers_to_the_bit(side):
    ours, pictures = processor(side), [picture(), picture(200, 100, 1)]
    settings = {"image_mean": ours.image_mean, "image_std": ours.image_std}
    theirs = ViTImageProcessorPil(size={"height": side, "width": side}, **settings)
    batch = ours(pictures, return_tensors="pt")
    assert torch.equal(batch["pixel_values"], theirs(pictures, return_tensors="pt")["pixel_values"])
    assert batch["pixel_values"].shape == (2, 3, side, side) and batch["pixel_values"].dtype == torch.float32
    assert batch["image_sizes"].tolist() == [[side, side]] * 2
    whole = CLIPSegProcessor(image_processor=theirs, tokenizer=tokenizer())
    inputs = whole(text=["sky"], images=pictures[:1], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], batch["pixel_values"][:1])


def test_pixels_are_those_of_the_usual_processor():
    pytest.importorskip("torchvision", reason="transformers' ViTImageProcessor needs torchvision")
    from transformers import ViTImageProcessor

    ours = CLIPSegImageProcessorPil()
    theirs = ViTImageProcessor(size=ours.size, image_mean=ours.image_mean, image_std=ours.image_std)
    a, b = (one(picture(), return_tensors="pt")["pixel_values"] for one in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=0.03)  # a few steps of 255: Pillow rounds between its two passes


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_pictures_of_all_modes(mode):
    values = processor()(picture().convert(mode), return_tensors="pt")["pixel_values"]
    expected = processor()(picture().convert(mode).convert("RGB"), return_tensors="pt")["pixel_values"]
    assert torch.equal(values, expected)


def test_arrays_and_tensors():
    pixels = np.asarray(picture())
    expected = processor()(picture(), return_tensors="pt")["pixel_values"]
    for image in (pixels, np.moveaxis(pixels, -1, 0), torch.from_numpy(pixels.copy())):
        assert torch.equal(processor()(image, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("size", [352, {"height": 352, "width": 352}])
def test_files_of_transformers_are_read_and_written(size, tmp_path):
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": size, "do_normalize": True,
        "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5], "resample": 2, "rescale_factor": 1 / 255,
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    ours = CLIPSegImageProcessorPil.from_pretrained(tmp_path)
    assert ours.resized_size((10, 20)) == (352, 352) and list(ours.image_mean) == [0.1, 0.2, 0.3]
    ours.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "ViTImageProcessor" and written["size"] == {"height": 352, "width": 352}
    again = CLIPSegImageProcessorPil.from_pretrained(tmp_path / "again")
    assert again.to_dict() == ours.to_dict()
    theirs = ViTImageProcessorPil.from_pretrained(tmp_path / "again")
    values = (one(picture(), return_tensors="pt")["pixel_values"] for one in (ours, again, theirs))
    first, *others = values
    assert all(torch.equal(other, first) for other in others)


def test_sizes():
    ours = processor()
    assert ours.padded_size((64, 64)) == (64, 64)
    assert processor(do_resize=False).resized_size((48, 80)) == (48, 80)
    other = ours.with_image_size(96)
    assert other.size == {"height": 96, "width": 96} and ours.size == {"height": 64, "width": 64}
    batch = other(picture(), return_tensors="pt")
    with torch.no_grad():
        assert tiny_clipseg()(pixel_values=batch["pixel_values"]).logits.shape == (4, 96, 96)
    assert CLIPSegImageProcessorPil().size == {"height": 352, "width": 352}
    for size, near in ((500, 496), (5, 16), (0, 16)):
        with pytest.raises(SSPromptError, match=f"image_size is {size}, .* multiples of 16: {near} is the nearest"):
            ours.with_image_size(size)


def test_policy_and_default():
    assert processor().inference_policy() == InferencePolicy()
    ours = tiny_clipseg().default_image_processor()
    assert ours.size == {"height": 64, "width": 64} and ours.patch_size == 16
