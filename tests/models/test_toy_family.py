"""A family of our own invention, as `docs/add_a_base_model.md` shows it, from page to predictions."""

import re
from pathlib import Path

import pytest
import torch
import toy_family
from peft import get_peft_model
from toy_family import FAMILY, ToyConfig, ToyImageProcessor, ToyModel

from ssprompt_hf import (
    DataArguments,
    PromptArguments,
    SSPromptConfig,
    SSPromptModel,
    SSPromptTrainer,
    SSPromptTrainingArguments,
    VSPLConfig,
    train_adapter,
)
from ssprompt_hf.data import load_street_scenes
from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.loading import describe_base_model
from ssprompt_hf.models import registry

PAGE = Path(__file__).parents[2] / "docs" / "add_a_base_model.md"
NAMES = ["road", "sky", "car"]


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
    registry.register_family("toy", "toy_family", ("toy",))


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    ToyModel(ToyConfig()).save_pretrained(tmp_path / "toy")
    return tmp_path / "toy"


def test_the_page_shows_the_code_that_is_tested():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = Path(toy_family.__file__).read_text()
    shown = [block for block in blocks if block.startswith("class ")]
    assert len(shown) == 3
    for block in shown:
        assert block.strip() in source


def adapted(config=None):
    model, processor = FAMILY.random_model("toy", NAMES)
    return get_peft_model(model, config or SSPromptConfig()), model, processor


def outputs(model, pixels):
    with torch.no_grad():
        features = [model.image_features(pixels, "features")]
        return model(**model.decoder_inputs(features))["maps"]


def test_untrained_disabled_and_merged_adapters():
    pixels = torch.rand(1, 3, 64, 64)
    plain, _ = FAMILY.random_model("toy", NAMES)
    before = outputs(plain, pixels)
    wrapped, model, _ = adapted()
    assert torch.equal(outputs(model, pixels), before)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn_like(parameter)
    learned = outputs(model, pixels)
    assert not torch.allclose(learned, before)
    with wrapped.disable_adapter():
        assert torch.equal(outputs(model, pixels), before)
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(outputs(merged, pixels), learned)


def test_it_is_trained_by_name_and_read_again(folder, tmp_path):
    options = '{"num_images": 4, "size": [64, 128]}'
    data = DataArguments(base_model=str(folder), dataset="street-scenes/clear", dataset_options=options)
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=3, use_cpu=True, report_to="none", disable_tqdm=True
    )
    metrics = train_adapter(data, PromptArguments(shots=1, allow_fewer=True), args)
    assert metrics["steps"] == 3 and 0 <= metrics["ssprompt_miou"] <= 100
    model = SSPromptModel.from_pretrained(folder, adapter=tmp_path / "out" / "adapter")
    image = load_street_scenes("street-scenes/clear", "val", num_images=1)[0]["image"]
    result = model.predict(image)
    assert result.class_map.shape == image.shape[:2] and result.class_names[0] == "road"
    with pytest.raises(SSPromptError, match="no masks of single objects"):
        model.predict(image, task="instance")


def test_training_lowers_the_loss_of_its_images(tmp_path):
    images = load_street_scenes("street-scenes/clear", "train", num_images=2, size=(64, 128))
    model, processor = FAMILY.random_model("toy", images.classes.names)
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path), max_steps=20, learning_rate=0.3, logging_steps=1, save_strategy="no", use_cpu=True,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = SSPromptTrainer(get_peft_model(model, SSPromptConfig()), args, processor, images)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


def test_what_does_not_apply_is_said(folder):
    with pytest.raises(AdapterError, match="has no points as spatial prompts"):
        adapted(VSPLConfig())
    with pytest.raises(AdapterError, match="no spatial prompts of the kind 'point_grid'"):
        adapted(SSPromptConfig(spatial_source="point_grid"))
    with pytest.raises(AdapterError, match="is no PromptableModel"):
        get_peft_model(torch.nn.Linear(2, 2), SSPromptConfig())
    assert "0.0 M" in describe_base_model(folder)


def test_the_processor_says_where_images_lie():
    processor = ToyImageProcessor().with_image_size(32)
    assert processor.resized_size((100, 200)) == processor.padded_size((32, 32)) == (32, 32)
