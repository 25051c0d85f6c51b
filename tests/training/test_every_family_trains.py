"""Training, evaluation, prediction and explanation, with the base models of every family; see `tiny_families`."""

import json

import pytest
import torch
from few_classes import NAMES, few_classes_trainer, few_scenes, first_step, learned, save_few_scenes
from tiny_families import HALVES

from ssprompt_hf import (
    DataArguments,
    PromptArguments,
    SSPromptConfig,
    SSPromptModel,
    SSPromptTrainingArguments,
    train_adapter,
)
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.explain.run import explain_adapter


def trainer_of(tiny, output_dir, config=None, evaluation=None, **arguments):
    base = tiny.model(class_names=NAMES)
    processor = tiny.image_processor(base)
    return few_classes_trainer(output_dir, base, config, evaluation, image_processor=processor, **arguments)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return save_few_scenes(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_cached_feature_gives_the_same_loss_and_gradient(tiny, tmp_path, storage):
    for task in tiny.tasks:
        loss, gradients = first_step(trainer_of(tiny, tmp_path, task=task, feature_cache="none"))
        cache = {"feature_cache": storage, "feature_cache_dir": str(tmp_path / task)}
        trainer = trainer_of(tiny, tmp_path, task=task, **cache)
        first_step(trainer)
        again, cached = first_step(trainer)
        assert trainer.feature_cache.hits > 0
        assert torch.equal(again, loss) and loss.isfinite(), task
        assert all(torch.equal(cached[name], gradients[name]) for name in gradients), task
        moving = [name for name, gradient in gradients.items() if gradient.abs().max() > 1e-5]
        # w weighs nothing as long as e = z
        assert moving and all("ssprompt_embedding" in name for name in moving), task


def test_an_interrupted_run_goes_on_bit_for_bit(tiny, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 2}
    whole = trainer_of(tiny, tmp_path, max_steps=3, **saving)
    before = learned(whole)
    whole.train()
    second = trainer_of(tiny, tmp_path, max_steps=3)
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    end, parts = learned(whole), learned(second)
    assert all(torch.equal(parts[name], end[name]) for name in end)
    assert all(not torch.equal(before[name], end[name]) for name in end)


def test_training_lowers_the_loss_of_its_images(tiny, tmp_path):
    config = SSPromptConfig(**HALVES["semantic"])
    trainer = trainer_of(
        tiny, tmp_path, config, max_steps=12, logging_steps=1, learning_rate=tiny.learning_rate, shrinkage=0,
        negative_classes=9, random_flip=False,
    )  # fmt: skip
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1e-3


def test_evaluation_scores_both_states(tiny, tmp_path):
    trainer = trainer_of(tiny, tmp_path, evaluation=few_scenes(1, "val"), task=tiny.tasks[-1])
    scores = trainer.evaluate_by_class(with_zero_shot=True)
    # nothing has been learned yet
    assert scores["adapted"] == scores["zero_shot"] and 0 <= scores["adapted"]["mean_iou"] <= 1
    assert ("pq" in scores["adapted"]) == (tiny.tasks[-1] == "panoptic")


def test_tasks_that_need_single_objects(tiny, tmp_path):
    assert (tiny.tasks == ("semantic",)) == ("instances" in tiny.family.lacks)
    trainer = trainer_of(tiny, tmp_path, task="instance")
    if "instance" in tiny.tasks:
        assert first_step(trainer)[0].isfinite()
        return
    with pytest.raises(SSPromptError, match="no masks of single objects"):
        first_step(trainer)


def test_from_a_name_to_pictures_and_a_report(tiny, data_dir, tmp_path):
    """`train --base_model` and everything after it, on a folder in place of the Hub."""
    folder = tiny.save(tmp_path / "base")
    data = DataArguments(base_model=str(folder), data_dir=str(data_dir))
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    metrics = train_adapter(data, PromptArguments(shots=1, allow_fewer=True), args)
    assert metrics["steps"] == 1 and metrics["zero_shot_miou"] is not None
    adapter = tmp_path / "out" / "adapter"
    model = SSPromptModel.from_pretrained(folder, adapter=adapter)
    base = model.get_base_model()
    assert base.word_embeddings() is None, "no text encoder is needed once the class prompts are known"
    assert base.config.class_names == NAMES and base.config.thing_class_ids == [2]
    image = few_scenes()[0]["image"]
    for task in ("semantic", "instance", "panoptic"):
        if task in tiny.tasks:
            assert model.predict(image, task=task).class_map.shape == image.shape[:2]
        else:
            with pytest.raises(SSPromptError, match="no masks of single objects"):
                model.predict(image, task=task)
    explain_adapter(adapter, data, tmp_path / "why", use_cpu=True)
    text = (tmp_path / "why" / "explain.json").read_text()
    assert "NaN" not in text and (tmp_path / "why" / "report.md").read_text()
    explanation = json.loads(text)
    assert explanation["prompts"]["semantic"]["learned"] and explanation["prompts"]["spatial"]["learned"]
    assert ("missing" in explanation["words"]) == (tiny.tokenizer() is None)
