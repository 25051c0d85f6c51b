"""Images become SAM 3's inputs as by transformers' processor, without the torchvision that it needs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sam3 import images, tiny_sam3

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.sam3 import Sam3ImageProcessorPil
from ssprompt_hf.segmentation.policy import InferencePolicy


def picture(height: int = 90, width: int = 130, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def processor(side: int = 56, **kwargs) -> Sam3ImageProcessorPil:
    return Sam3ImageProcessorPil(size={"height": side, "width": side}, **kwargs)


@pytest.mark.parametrize("side", [56, 224])  # smaller and larger than the picture
def test_pixel_values(side):
    batch = processor(side)([picture(), picture(200, 100, 1)], return_tensors="pt")
    assert batch["pixel_values"].shape == (2, 3, side, side) and batch["pixel_values"].dtype == torch.float32
    assert batch["image_sizes"].tolist() == [[side, side]] * 2
    assert batch["original_sizes"].tolist() == [[90, 130], [200, 100]]
    for image, values in zip((picture(), picture(200, 100, 1)), batch["pixel_values"]):
        resized = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float32)
        expected = torch.from_numpy(resized).permute(2, 0, 1) / 127.5 - 1
        steps = ((values - expected) * 127.5).abs()
        assert steps.max() < 1.01 and steps.mean() < 0.25  # Pillow rounds between its two passes


def test_normalisation_to_the_bit():
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    mean, std = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]
    values = processor(image_mean=mean, image_std=std)(pixels, return_tensors="pt")["pixel_values"][0]
    # the formula of transformers, which folds rescaling into normalisation
    shift, scale = (torch.tensor(numbers)[:, None, None] * (1.0 / (1 / 255)) for numbers in (mean, std))
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float().sub(shift).div_(scale)
    assert torch.equal(values, expected)
    for settings, factor in (({"do_rescale": False}, 1.0), ({}, 1 / 255)):
        values = processor(do_normalize=False, **settings)(pixels, return_tensors="pt")["pixel_values"][0]
        assert torch.equal(values, torch.from_numpy(pixels).permute(2, 0, 1).float() * factor)


def test_pixels_are_those_of_transformers():
    pytest.importorskip("torchvision", reason="transformers' Sam3ImageProcessor needs torchvision")
    from transformers import Sam3ImageProcessor

    theirs = Sam3ImageProcessor()
    expected = theirs([picture(), picture(1200, 900, 1)], return_tensors="pt")
    values = Sam3ImageProcessorPil()([picture(), picture(1200, 900, 1)], return_tensors="pt")
    assert torch.equal(values["original_sizes"], torch.as_tensor(expected["original_sizes"]))
    assert torch.equal(values["pixel_values"], expected["pixel_values"])


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
def test_resizing_is_that_of_torchvision(capability, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    values = processor()(picture(), return_tensors="pt")["pixel_values"][0]
    pixels = torch.from_numpy(np.asarray(picture()).copy()).permute(2, 0, 1)[None]
    mode = {"size": (56, 56), "mode": "bilinear", "align_corners": False, "antialias": True}
    if capability == "AVX2":
        resized = torch.nn.functional.interpolate(pixels, **mode)
    else:
        resized = torch.nn.functional.interpolate(pixels.float(), **mode).round().to(torch.uint8)
    assert torch.equal(values, (resized[0].float() - 127.5) / 127.5)


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


@pytest.mark.parametrize("nested", [False, True])
def test_files_of_transformers_are_read_and_written(nested, tmp_path):
    settings = {
        "image_processor_type": "Sam3ImageProcessorFast", "do_resize": True, "size": {"height": 84, "width": 84},
        "mask_size": {"height": 24, "width": 24}, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255, "resample": 2, "do_pad": None,
    }  # fmt: skip
    if nested:
        content = {"processor_class": "Sam3Processor", "image_processor": settings, "target_size": 84}
        (tmp_path / "processor_config.json").write_text(json.dumps(content))
    else:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    ours = Sam3ImageProcessorPil.from_pretrained(tmp_path)
    assert ours.resized_size((10, 20)) == (84, 84) and list(ours.image_mean) == [0.1, 0.2, 0.3]
    ours.save_pretrained(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "preprocessor_config.json").read_text())
    assert written["image_processor_type"] == "Sam3ImageProcessor" and written["size"] == {"height": 84, "width": 84}
    again = Sam3ImageProcessorPil.from_pretrained(tmp_path / "again")
    assert again.to_dict() == ours.to_dict()


def test_sizes():
    ours = processor()
    assert ours.padded_size((56, 56)) == (56, 56)
    assert processor(do_resize=False).resized_size((42, 70)) == (42, 70)
    other = ours.with_image_size(84)
    assert other.size == {"height": 84, "width": 84} and ours.size == {"height": 56, "width": 56}
    batch = other(picture(), return_tensors="pt")
    with torch.no_grad():
        assert tiny_sam3()(batch["pixel_values"]).class_maps.shape == (4, 24, 24)
    assert Sam3ImageProcessorPil().size == {"height": 1008, "width": 1008}
    for size, near in ((512, 518), (5, 14), (0, 14)):
        with pytest.raises(SSPromptError, match=f"image_size is {size}, .* multiples of 14: {near} is the nearest"):
            ours.with_image_size(size)


def test_wrong_settings():
    with pytest.raises(SSPromptError, match=r"resample is 0; it must be .*2.* or .*3"):
        processor(resample=0)(picture())
    with pytest.raises(SSPromptError, match="it must have height and width"):
        Sam3ImageProcessorPil(size={"shortest_edge": 56})(picture())
    bicubic = processor(resample=3)(picture(), return_tensors="pt")["pixel_values"]
    assert bicubic.min() >= -1 and bicubic.max() <= 1


def test_policy():
    policy = processor().inference_policy()
    assert policy == InferencePolicy(
        mask_threshold=0.5, segment_threshold=0.5, overlap_threshold=0.8, instance_threshold=0.3, top_k=100
    )


def test_a_model_without_files_has_a_processor():
    ours = tiny_sam3(side=84).default_image_processor()
    assert ours.size == {"height": 84, "width": 84} and ours.patch_size == 14
    assert images(1, 84).shape == ours(picture(), return_tensors="pt")["pixel_values"].shape
