"""CLIPSeg is found, loaded and saved like any model of transformers."""

import pytest
import torch
from safetensors.torch import load_file
from tiny_clipseg import CLASS_NAMES, PHRASES, aligned, images, phrase, theirs, tiny_clipseg, tokenizer
from transformers import CLIPSegForImageSegmentation, ViTImageProcessorPil

from ssprompt_hf.errors import AdapterError, CheckpointError
from ssprompt_hf.models import registry
from ssprompt_hf.models.clipseg import CLIPSegForPromptedSegmentation
from ssprompt_hf.models.clipseg.family import FAMILY
from ssprompt_hf.models.clipseg.prompting import CONFIG_DEFAULTS
from ssprompt_hf.models.fingerprint import model_fingerprint


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
    registry.register_family("clipseg", "ssprompt_hf.models.clipseg.family", FAMILY.model_types)
    published = registry.BaseModel("clipseg", "clipseg", "CLIPSeg", "CIDAS/clipseg-rd64-refined")
    monkeypatch.setitem(registry.BASE_MODELS, "clipseg", published)


@pytest.fixture
def folder(tmp_path):
    """As `CIDAS/clipseg-rd64-refined` is published: nothing of ours in it but the size of our tiny images."""
    plain = theirs(tiny_clipseg())
    plain.save_pretrained(tmp_path)
    ViTImageProcessorPil(size=64).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    return tmp_path


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return a.state_dict().keys() == b.state_dict().keys() and all(
        torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items()
    )


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return aligned(model)(pixel_values=images(1)).logits


def test_the_registry_finds_the_family(folder, tmp_path, monkeypatch):
    assert registry.find_family("clipseg") is registry.find_family(folder) is FAMILY
    assert FAMILY.resolve("clipseg") == "CIDAS/clipseg-rd64-refined"
    assert FAMILY.resolve("me/my-clipseg") == "me/my-clipseg" and FAMILY.resolve("seem-t") == "seem-t"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clipseg").mkdir()
    assert FAMILY.resolve("clipseg") == "clipseg"


@pytest.mark.filterwarnings("error")
def test_published_checkpoints_load_as_in_transformers(folder, caplog):
    plain = CLIPSegForImageSegmentation.from_pretrained(folder)
    caplog.clear()
    model, info = CLIPSegForPromptedSegmentation.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()) and not caplog.records
    assert isinstance(model, CLIPSegForImageSegmentation)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    assert set(model.state_dict()) - set(plain.state_dict()) == {"token_offsets.weight"}
    assert torch.equal(model.token_offsets.weight, torch.zeros(17, 8))
    info = FAMILY.info(folder)
    assert (info.model_type, info.class_names, info.has_text_encoder) == ("clipseg", None, True)
    model.set_class_names(CLASS_NAMES, FAMILY.load_tokenizer(folder))
    plain = aligned(plain)
    with torch.no_grad():
        expected = torch.cat([plain(pixel_values=images(1), **phrase(text)).logits for text in PHRASES])
    torch.testing.assert_close(answers(model), expected)


def test_what_a_configuration_lacks(folder):
    model = CLIPSegForPromptedSegmentation(theirs(tiny_clipseg()).config)
    assert model.config.prompt_image_size == 64
    del model.config.prompt_image_size
    model = CLIPSegForPromptedSegmentation(model.config)
    assert {name: getattr(model.config, name) for name in CONFIG_DEFAULTS} == CONFIG_DEFAULTS
    assert model.token_offsets.weight.shape == (485, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loading_with_and_without_the_text_encoder(folder, dtype):
    model, processor = FAMILY.load(folder, ("text",), dtype=dtype)
    assert not model.training and processor.size == {"height": 64, "width": 64} and processor.patch_size == 16
    without, _ = FAMILY.load(str(folder), ("spatial",), dtype=dtype)
    assert without.clip.text_model is None and without.dtype == without.token_offsets.weight.dtype == dtype
    assert not without.token_offsets.weight.any()
    model.set_class_names(CLASS_NAMES, FAMILY.load_tokenizer(folder), [0])
    without.class_embeddings.weight = model.class_embeddings.weight
    assert torch.equal(answers(without), answers(model))
    assert model_fingerprint(model) == model_fingerprint(without) == model_fingerprint(FAMILY.load(folder)[0])


def test_saved_and_loaded_again_to_the_bit(tmp_path):
    model = tiny_clipseg()
    model.token_offsets.weight = torch.randn(17, 8)  # as an adapter that was merged leaves them
    model.save_pretrained(tmp_path)
    loaded, info = CLIPSegForPromptedSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and same(model, loaded)
    assert torch.equal(answers(loaded), answers(model))
    for name in (*CONFIG_DEFAULTS, "id2label"):
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    assert FAMILY.info(tmp_path).class_names == CLASS_NAMES
    slim, processor = FAMILY.load(tmp_path)
    assert slim.clip.text_model is None and torch.equal(answers(slim), answers(model))
    assert processor.size == {"height": 64, "width": 64}  # there is no file for it
    slim.save_pretrained(tmp_path / "slim")
    assert not FAMILY.info(tmp_path / "slim").has_text_encoder
    assert not any(".text_" in name for name in load_file(tmp_path / "slim" / "model.safetensors"))
    assert torch.equal(answers(CLIPSegForPromptedSegmentation.from_pretrained(tmp_path / "slim")), answers(model))
    with pytest.raises(AdapterError, match="has no text encoder"):
        FAMILY.load(tmp_path / "slim", ("text",))


def test_random_models():
    with torch.device("meta"):
        model, processor = FAMILY.random_model("clipseg", ["road", "car"], ("text",))
        slim, _ = FAMILY.random_model("clipseg", ["road"])
    assert model.num_classes() == 2 and model.config.class_names == ["road", "car"]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(150.7, abs=0.1)
    assert sum(p.numel() for p in slim.parameters()) / 1e6 == pytest.approx(87.3, abs=0.1)
    assert processor.resized_size((480, 640)) == (352, 352) and model.token_offsets.weight.shape == (485, 64)
    assert model.feature_bytes((352, 352)) == 3 * 485 * 64 * 4 + 16
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert slim.config.text_config.num_hidden_layers == 12 and slim.max_text_tokens == 77


def test_errors(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no config\.json that names a model_type"):
        FAMILY.load(str(tmp_path / "empty"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        FAMILY.load(str(folder))
