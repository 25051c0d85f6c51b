"""Training CLIPSeg's prompts: every class for itself, features from the cache, runs that go on where they stopped."""

import json

import pytest
import torch
from peft import get_peft_model
from PIL import Image
from sam3_training import CLASSES, NAMES, few_scenes, learned
from tiny_clipseg import tiny_clipseg, tokenizer

from ssprompt_hf import (
    CoOpConfig,
    DataArguments,
    LOCNConfig,
    PromptArguments,
    SSPromptConfig,
    SSPromptModel,
    SSPromptTrainer,
    SSPromptTrainingArguments,
    train_adapter,
)
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.explain.run import explain_adapter
from ssprompt_hf.models import registry


@pytest.fixture(autouse=True, scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
        patch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
        registry.register_family("clipseg", "ssprompt_hf.models.clipseg.family", ("clipseg",))
        yield


def clipseg_trainer(output_dir, config=None, evaluation=None, **arguments) -> SSPromptTrainer:
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "negative_classes": 1, "use_cpu": True}
    defaults |= {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "learning_rate": 0.1}
    args = SSPromptTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    base = tiny_clipseg(class_names=list(NAMES))
    adapted = get_peft_model(base, config or SSPromptConfig())
    return SSPromptTrainer(adapted, args, base.default_image_processor(), few_scenes(), evaluation)


def step(trainer):
    """Loss and gradients of the first batch."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("resolution", ["mask", "label"])
def test_a_cached_feature_gives_the_same_loss_and_gradient(tmp_path, resolution):
    loss, gradients = step(clipseg_trainer(tmp_path, loss_resolution=resolution, feature_cache="none"))
    trainer = clipseg_trainer(tmp_path, loss_resolution=resolution)
    step(trainer)
    trainer.model.zero_grad()
    again, cached = step(trainer)
    assert trainer.feature_cache.hits > 0
    assert torch.equal(again, loss) and loss.isfinite()
    assert all(torch.equal(cached[name], gradients[name]) for name in gradients)
    moving = [name for name, gradient in gradients.items() if gradient.abs().max() > 0]
    # e of both kinds; w weighs nothing as long as e = z
    assert len(moving) == 2 and all("ssprompt_embedding" in name for name in moving)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    whole = clipseg_trainer(tmp_path / "whole", max_steps=3)
    whole.train()
    clipseg_trainer(tmp_path / "parts", max_steps=3, save_strategy="steps", save_steps=2).train()
    second = clipseg_trainer(tmp_path / "parts", max_steps=3)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    end, parts = learned(whole), learned(second)
    assert all(torch.equal(parts[name], end[name]) for name in end)
    start = learned(clipseg_trainer(tmp_path / "start"))
    assert all(not torch.equal(start[name], end[name]) for name in end)


def test_training_lowers_the_loss_of_its_images(tmp_path):
    settings = {"max_steps": 20, "learning_rate": 0.03, "negative_classes": 9, "random_flip": False}
    trainer = clipseg_trainer(tmp_path, logging_steps=1, shrinkage=0, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.015
    offsets = learned(trainer)["base_model.model.token_offsets.ssprompt_embedding.default"]
    assert offsets.abs().mean() > 0.05, "the offsets begin as zeros, and yet they learn"


@pytest.mark.parametrize("method", [CoOpConfig, LOCNConfig])
def test_words_are_learned_through_the_text_encoder(tmp_path, method):
    options = {"num_context_tokens": 2} if method is CoOpConfig else {}
    trainer = clipseg_trainer(tmp_path, config=method(**options).tokenize(list(NAMES), tokenizer()))
    before = learned(trainer)
    trainer.train()
    (name,) = before
    assert not torch.equal(learned(trainer)[name], before[name])


def test_evaluation_scores_both_states(tmp_path):
    trainer = clipseg_trainer(tmp_path, evaluation=few_scenes(1, "val"))
    scores = trainer.evaluate_by_class(with_zero_shot=True)
    # nothing has been learned yet
    assert scores["adapted"]["mean_iou"] == scores["zero_shot"]["mean_iou"]


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_single_objects_are_none_of_its_tasks(tmp_path, task):
    with pytest.raises(SSPromptError, match="no masks of single objects"):
        clipseg_trainer(tmp_path, task=task).train()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a base model without classes, as it would be on the Hub."""
    folder = tmp_path_factory.mktemp("clipseg")
    model = tiny_clipseg(class_names=None)
    for part in (model, model.default_image_processor(), tokenizer()):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("data")
    scenes = few_scenes()
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (data_dir / kind / split).mkdir(parents=True)
        for index in range(2):
            example = scenes[index]
            Image.fromarray(example["image"]).save(data_dir / "images" / split / f"{split}{index}.png")
            Image.fromarray(example["label"]).save(data_dir / "annotations" / split / f"{split}{index}.png")
    CLASSES.save(data_dir / "classes.json")
    return data_dir


@pytest.mark.parametrize("method", ["ssprompt", "semprompt"])
def test_from_a_name_to_pictures_and_a_report(folder, data_dir, tmp_path, method):
    """`train --base_model clipseg` and everything after it, on a folder in place of the Hub."""
    data = DataArguments(base_model=str(folder), data_dir=str(data_dir))
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True
    )
    metrics = train_adapter(data, PromptArguments(method=method, shots=1, allow_fewer=True), args)
    assert metrics["steps"] == 2 and metrics["zero_shot_miou"] is not None
    adapter = tmp_path / "out" / "adapter"
    model = SSPromptModel.from_pretrained(folder, adapter=adapter)
    base = model.get_base_model()
    assert base.word_embeddings() is None, "no text encoder is needed once the class embeddings are known"
    assert base.config.class_names == list(NAMES) and base.config.thing_class_ids == [2]
    image = few_scenes()[0]["image"]
    result = model.predict(image)
    assert result.class_map.shape == image.shape[:2]
    for task in ("instance", "panoptic"):
        with pytest.raises(SSPromptError, match="no masks of single objects"):
            model.predict(image, task=task)
    explain_adapter(adapter, data, tmp_path / "why", use_cpu=True)
    explanation = json.loads((tmp_path / "why" / "explain.json").read_text())
    assert explanation["prompts"]["semantic"]["learned"] and len(explanation["words"]) > 0
    assert explanation["prompts"]["spatial"]["learned"] == (method == "ssprompt")
    assert "NaN" not in (tmp_path / "why" / "explain.json").read_text()
    assert (tmp_path / "why" / "report.md").read_text()
