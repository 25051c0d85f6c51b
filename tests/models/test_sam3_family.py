"""SAM 3 is found, loaded and saved like any model of transformers, and says how to get access."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_sam3 import CLASS_NAMES, aligned, images, phrase, theirs, tiny_config, tiny_sam3, tokenizer
from transformers import Sam3Config, Sam3Model, Sam3VideoConfig

from ssprompt_hf.errors import AdapterError, CheckpointError, DownloadError
from ssprompt_hf.models import registry
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.models.sam3 import (
    Sam3ForPromptedSegmentation,
    Sam3ImageProcessorPil,
    Sam3LiteTextForPromptedSegmentation,
    memory,
)
from ssprompt_hf.models.sam3.family import FAMILY
from ssprompt_hf.models.sam3.prompting import CONFIG_DEFAULTS

KINDS = ("sam3", "sam3_lite_text")


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()
    )


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return aligned(model)(images(1)).class_maps


@pytest.fixture
def video_folder(tmp_path):
    """As `facebook/sam3` is published: a video model's configuration, and the detector's weights among others."""
    plain = theirs(tiny_sam3(class_names=None))
    config = Sam3VideoConfig(detector_config=tiny_config().to_dict()).to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["Sam3VideoModel"]}))
    weights = {f"detector_model.{name}": value.contiguous() for name, value in plain.state_dict().items()}
    save_file(weights | {"tracker_model.a": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    Sam3ImageProcessorPil(size={"height": 56, "width": 56}).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_the_registry_knows_the_family():
    assert registry.family("sam3") is FAMILY
    for model_type in FAMILY.model_types:
        assert registry.MODEL_TYPES[model_type] == "sam3"
    for name in ("sam3", "sam3-litetext-s0", "sam3-litetext-s1", "sam3-litetext-l"):
        assert registry.find_family(name) is FAMILY
    assert FAMILY.resolve("sam3") == "facebook/sam3"
    assert FAMILY.resolve("me/my-sam3") == "me/my-sam3" and FAMILY.resolve("seem-t") == "seem-t"


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam3").mkdir()
    assert FAMILY.resolve("sam3") == "sam3"


def test_published_checkpoints_load_as_in_transformers(video_folder):
    plain = Sam3Model.from_pretrained(video_folder)
    model, info = Sam3ForPromptedSegmentation.from_pretrained(video_folder, output_loading_info=True)
    assert not any(info.values())
    assert isinstance(model, Sam3Model) and same(model, plain)
    assert {name: getattr(model.config, name) for name in CONFIG_DEFAULTS} == CONFIG_DEFAULTS
    assert registry.find_family(video_folder) is FAMILY
    info = FAMILY.info(video_folder)
    assert (info.model_type, info.class_names, info.has_text_encoder) == ("sam3", None, True)
    with torch.no_grad():
        expected = aligned(plain)(images(1), **phrase("sky"))
        assert torch.equal(aligned(model)(images(1), **phrase("sky")).pred_masks, expected.pred_masks)


def test_a_model_can_be_built_from_the_configuration_of_a_video_model():
    model = Sam3ForPromptedSegmentation(Sam3VideoConfig(detector_config=tiny_config().to_dict()))
    assert isinstance(model.config, Sam3Config) and model.config.class_names is None


def test_loading_with_and_without_the_text_encoder(video_folder):
    model, processor = FAMILY.load(video_folder, ("text",))
    assert not model.training and processor.size == {"height": 56, "width": 56} and processor.patch_size == 14
    without, _ = FAMILY.load(str(video_folder), ("spatial",), dtype=torch.float64)
    assert without.text_encoder is None and without.dtype == torch.float64
    own = FAMILY.load_tokenizer(video_folder)
    model.set_class_names(CLASS_NAMES, own, [0])
    without.class_tokens.weight = model.class_tokens.weight.double()
    torch.testing.assert_close(answers(without.float()), answers(model))
    assert model_fingerprint(model) == model_fingerprint(FAMILY.load(video_folder)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_again_to_the_bit(kind, tmp_path):
    model = tiny_sam3(kind)
    model.config.semantic_reading = "semantic"
    model.save_pretrained(tmp_path)
    loaded, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and same(model, loaded)
    assert torch.equal(answers(loaded), answers(model))
    for name in (*CONFIG_DEFAULTS, "id2label"):
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    assert FAMILY.info(tmp_path).class_names == CLASS_NAMES
    slim, processor = FAMILY.load(tmp_path)
    assert type(slim) is type(model) and slim.text_encoder is None and torch.equal(answers(slim), answers(model))
    assert processor.size == {"height": 56, "width": 56}  # there is no file for it
    slim.save_pretrained(tmp_path / "slim")
    assert not FAMILY.info(tmp_path / "slim").has_text_encoder
    assert not any(name.startswith("text_") for name in load_file(tmp_path / "slim" / "model.safetensors"))
    assert torch.equal(answers(type(model).from_pretrained(tmp_path / "slim")), answers(model))
    with pytest.raises(AdapterError, match="has no text encoder"):
        FAMILY.load(tmp_path / "slim", ("text",))


def test_prompts_of_another_shape_are_saved_with_their_shape(tmp_path):
    model = tiny_sam3()
    model.class_tokens.weight = torch.randn(2, 7, 16)  # as an adapter that was merged leaves them
    model.name_classes(["a", "b"])
    model.save_pretrained(tmp_path)
    loaded = Sam3ForPromptedSegmentation.from_pretrained(tmp_path)
    assert torch.equal(loaded.class_tokens.weight, model.class_tokens.weight)
    model.class_tokens.weight = None
    model.prompts_written()
    assert model.config.class_tokens_shape is None


@pytest.mark.parametrize(
    "name, kind, millions",
    [
        ("sam3", Sam3ForPromptedSegmentation, 840.4),
        ("sam3-litetext-s0", Sam3LiteTextForPromptedSegmentation, 529.2),
        ("sam3-litetext-s1", Sam3LiteTextForPromptedSegmentation, 550.2),
        ("sam3-litetext-l", Sam3LiteTextForPromptedSegmentation, 610.4),
    ],
)
def test_random_models_of_full_size(name, kind, millions):
    with torch.device("meta"):
        model, processor = FAMILY.random_model(name, ["road", "car"], ("text",))
    assert type(model) is kind and model.num_classes() == 2 and model.config.class_names == ["road", "car"]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert processor.resized_size((480, 640)) == (1008, 1008)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    with torch.device("meta"):
        slim, _ = FAMILY.random_model(name, ["road"])
    assert slim.config.text_config.num_hidden_layers == model.config.text_config.num_hidden_layers
    parameters = memory.memory(kind, model.config).parameters
    assert parameters["total"] - sum(p.numel() for p in slim.parameters()) == sum(
        parameters[part] for part in ("text_encoder", "text_projection")
    )


def test_a_random_model_of_a_folder(video_folder):
    model, processor = FAMILY.random_model(str(video_folder), ["road", "car"])
    assert answers(model).shape == (2, 16, 16) and processor.size == {"height": 56, "width": 56}


@pytest.mark.parametrize("part", ["info", "load", "load_tokenizer"])
def test_gated_repositories_say_how_to_get_access(part, hub, tmp_path, monkeypatch, video_folder):
    files = {path.name: path for path in video_folder.iterdir()}
    hub.add("facebook/sam3", files, gated=True)
    hub.patch_client(monkeypatch, tmp_path / "home")
    with pytest.raises(DownloadError, match=r"https://huggingface.co/facebook/sam3.*`hf auth login`"):
        getattr(FAMILY, part)("facebook/sam3")
    with pytest.raises(DownloadError, match="'me/nothing' may not be read"):
        getattr(FAMILY, part)("me/nothing")


def test_other_errors(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json that names a model_type"):
        FAMILY.load(str(tmp_path))
    tiny_config().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors") as raised:
        FAMILY.load(str(tmp_path))
    assert not isinstance(raised.value, DownloadError)
    with pytest.raises(DownloadError, match="hf auth login"):
        FAMILY.info("facebook/sam3", token=True, cache_dir=tmp_path)
