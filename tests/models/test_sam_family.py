"""SAM and SAM 2 as families: found, loaded, saved, built at full size."""

import copy
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from tiny_sam import NAMES, SIDE, images, tiny_config, tiny_sam, tiny_sam_hq
from tiny_sam2 import tiny_sam2, tiny_tracker
from transformers import Sam3TrackerModel, Sam3VideoConfig, SamModel

from ssprompt_hf.errors import CheckpointError, SSPromptError
from ssprompt_hf.models import registry
from ssprompt_hf.models.registry import BaseModel
from ssprompt_hf.models.sam.family import FAMILY as SAM
from ssprompt_hf.models.sam2.family import FAMILY as SAM2
from ssprompt_hf.segmentation.policy import InferencePolicy

FAMILIES = {
    "sam": (SAM, tiny_sam),
    "sam_hq": (SAM, tiny_sam_hq),
    "sam2": (SAM2, tiny_sam2),
    "sam3_tracker": (SAM2, tiny_tracker),
}


@torch.no_grad()
def answers(model) -> torch.Tensor:
    return model(images(2)).class_maps


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_and_loaded_again_to_the_bit(name, tmp_path):
    family, make = FAMILIES[name]
    model = make(point_grid_size=3)
    model.save_pretrained(tmp_path)
    loaded, processor = family.load(tmp_path, ("spatial",))
    loaded = copy.deepcopy(loaded)  # weights lie elsewhere in memory when they come from a file, and round differently
    assert type(loaded) is type(model) and not loaded.training and torch.equal(answers(loaded), answers(model))
    assert loaded.config.point_grid_size == 3 and loaded.config.thing_class_ids == [2]
    assert processor.resized_size((SIDE, SIDE)) == (SIDE, SIDE)  # there is no file for it
    info = family.info(tmp_path)
    assert info.model_type == name and info.class_names == NAMES and not info.has_text_encoder
    other, _ = family.load(tmp_path, point_grid_size=5, num_class_tokens=2, dtype=torch.float64)
    assert other.points.weight.shape == (25, 32) and other.dtype == torch.float64
    other.set_class_names(["a"])
    assert other.class_tokens.weight.shape == (1, 2, 32)


def test_a_plain_checkpoint_of_transformers(tmp_path):
    torch.manual_seed(0)
    SamModel(tiny_config()).save_pretrained(tmp_path)
    settings = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}}
    transformers.SamImageProcessorPil(**settings).save_pretrained(tmp_path)
    model, processor = SAM.load(str(tmp_path))
    model.set_class_names(["a", "b"])
    assert answers(model).shape == (4, 16, 16) and processor.size["longest_edge"] == SIDE


@pytest.mark.parametrize(
    "name, millions",
    [
        ("sam-vit-b", 93.7),
        ("sam-vit-l", 312.3),
        ("sam-vit-h", 641.1),
        ("sam-hq-vit-b", 94.8),
        # the published 38.9, 46.0, 80.8 and 224.4, of which 7.46 are the memory of videos
        ("sam2.1-tiny", 31.4),
        ("sam2.1-small", 38.5),
        ("sam2.1-base-plus", 73.3),
        ("sam2.1-large", 216.9),
        # of SAM 3's 840 M those of the vision encoder, and 12 M for points and memory of videos
        ("sam3-tracker", 458.3),
    ],
)
def test_random_models_of_full_size(name, millions):
    family = registry.find_family(name)
    with torch.device("meta"):
        model, processor = family.random_model(name, ["road", "car"])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    assert model.num_classes() == 2 and model.config.class_names == ["road", "car"]
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    side = 1008 if name == "sam3-tracker" else 1024
    assert processor.padded_size(processor.resized_size((480, 640))) == (side, side)
    mib = {"sam-hq-vit-b": 16, "sam3-tracker": 20.25}.get(name, 4 if family is SAM else 16)
    assert model.feature_bytes((side, side)) == mib * 2**20 + 16
    assert model.points.weight.shape == (16, 256)


def test_the_tracker_of_a_published_sam3(tmp_path):
    """`facebook/sam3` holds a video model: the tracker's weights and the vision encoder's, under other names."""
    model = tiny_tracker(None)
    config = Sam3VideoConfig(tracker_config=model.config.to_dict()).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Sam3VideoModel"]}))
    places = {
        "vision_encoder.backbone": "detector_model.vision_encoder.backbone",
        "vision_encoder.neck": "tracker_neck",
    }
    weights = {}
    for name, value in model.state_dict().items():
        place = next((place for place in places if name.startswith(place)), None)
        name = f"tracker_model.{name}" if place is None else name.replace(place, places[place])
        weights[name] = value.clone()
    save_file(
        weights | {"detector_model.a": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    theirs = Sam3TrackerModel.from_pretrained(tmp_path).state_dict()
    loaded, processor = SAM2.load(str(tmp_path), point_grid_size=2)
    assert loaded.config.model_type == "sam3_tracker" and loaded.points.weight.shape == (4, 32)
    found = loaded.state_dict()
    assert all(
        torch.equal(found[name], value) and torch.equal(model.state_dict()[name], value)
        for name, value in theirs.items()
    )
    loaded.save_pretrained(tmp_path / "again")
    again = SAM2.load(str(tmp_path / "again"))[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in found.items())
    assert len(theirs) == len(weights) and type(processor).__name__ == "Sam3ImageProcessorPil"
    assert registry.find_family(str(tmp_path)).name == "sam3" and SAM2.resolve("sam3-tracker") == "facebook/sam3"


def test_names(monkeypatch, tmp_path):
    known = BaseModel("sam-vit-b", "sam", "", "facebook/sam-vit-base")
    monkeypatch.setattr(registry, "BASE_MODELS", {"sam-vit-b": known})
    assert SAM.resolve("sam-vit-b") == "facebook/sam-vit-base"
    assert SAM2.resolve("sam-vit-b") == "sam-vit-b" and SAM.resolve("me/mine") == "me/mine"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam-vit-b").mkdir()
    assert SAM.resolve("sam-vit-b") == "sam-vit-b"


def test_the_registry_finds_them_by_their_type(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
    for name, (family, make) in FAMILIES.items():
        registry.register_family(family.name, f"ssprompt_hf.models.{family.name}.family", family.model_types)
        make().save_pretrained(tmp_path / name)
        assert registry.find_family(tmp_path / name) is family


def test_errors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no config\.json that names a model_type"):
        SAM.load(str(tmp_path))
    with pytest.raises(CheckpointError, match="no model of transformers"):
        SAM2.info(str(tmp_path))
    tiny_sam().save_pretrained(tmp_path)
    with pytest.raises(SSPromptError, match="point_grid_size is 0"):
        SAM.load(str(tmp_path), point_grid_size=0)


def picture(height: int = 30, width: int = 50) -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(30, 50), (64, 48), (100, 33)])
def test_sams_images_are_those_of_transformers(size, tmp_path):
    ours = tiny_sam().default_image_processor()
    settings = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}}
    theirs = transformers.SamImageProcessorPil(**settings)
    features, expected = (one(picture(*size), return_tensors="pt") for one in (ours, theirs))
    assert torch.equal(features.pixel_values, expected.pixel_values)
    assert features.image_sizes.tolist() == expected.reshaped_input_sizes.tolist() == [list(ours.resized_size(size))]
    assert features.image_sizes.dtype == torch.int64
    height, width = ours.resized_size(size)
    assert not features.pixel_values[..., height:, :].any() and not features.pixel_values[..., width:].any()
    assert ours.padded_size((height, width)) == (SIDE, SIDE)
    ours.save_pretrained(tmp_path)
    again = transformers.SamImageProcessorPil.from_pretrained(tmp_path)
    assert torch.equal(again(picture(*size), return_tensors="pt").pixel_values, expected.pixel_values)
    assert ours.to_dict()["image_processor_type"] == "SamImageProcessor"


def test_processors_keep_their_size():
    for make in (tiny_sam, tiny_sam2):
        processor = make().default_image_processor()
        copy = processor.with_image_size(SIDE)
        assert copy is not processor and copy.to_dict() == processor.to_dict()
        with pytest.raises(SSPromptError, match="image_size is 32"):
            processor.with_image_size(32)
        assert processor.inference_policy() == InferencePolicy()
