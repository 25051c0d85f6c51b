"""Training SAM 3's prompts: every class for itself, features from the cache, runs that go on where they stopped."""

import json
from pathlib import Path

import pytest
import sam3_training
import torch
from PIL import Image
from sam3_training import CLASSES, NAMES, few_scenes, learned, sam3_trainer
from tiny_sam3 import tiny_sam3, tokenizer
from tiny_training import run_python

from ssprompt_hf import (
    CoOpConfig,
    DataArguments,
    LOCNConfig,
    PromptArguments,
    SSPromptConfig,
    SSPromptModel,
    SSPromptTrainingArguments,
    VSPLConfig,
    train_adapter,
)
from ssprompt_hf.errors import AdapterError


def step(trainer):
    """Loss and gradients of the first batch."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}
    return loss.detach(), gradients


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_a_cached_feature_gives_the_same_loss_and_gradient(tmp_path, task):
    loss, gradients = step(sam3_trainer(tmp_path, task=task, feature_cache="none"))
    trainer = sam3_trainer(tmp_path, task=task)
    step(trainer)
    trainer.model.zero_grad()
    again, cached = step(trainer)
    assert trainer.feature_cache.hits > 0
    assert torch.equal(again, loss) and loss.isfinite()
    assert all(torch.equal(cached[name], gradients[name]) for name in gradients)
    moving = [name for name, gradient in gradients.items() if gradient.abs().max() > 0]
    # e of both kinds; w weighs nothing as long as e = z
    assert len(moving) == 2 and all("ssprompt_embedding" in name for name in moving)


def test_half_precision_features_take_half_the_memory(tmp_path):
    trainers = [sam3_trainer(tmp_path, feature_cache_dtype=dtype) for dtype in ("float32", "float16")]
    losses = [step(trainer)[0] for trainer in trainers]
    full, half = (trainer.feature_cache.memory_bytes for trainer in trainers)
    assert half < 0.51 * full
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-3)


def test_an_image_is_asked_about_its_own_classes_and_some_others(tmp_path):
    trainer = sam3_trainer(tmp_path, negative_classes=0)
    example = trainer.train_examples[0, 0]
    present = [value for value in example["label"].unique().tolist() if value < len(NAMES)]
    assert example["class_indices"].tolist() == present
    trainer = sam3_trainer(tmp_path, negative_classes=9)
    assert trainer.train_examples[0, 0]["class_indices"].tolist() == list(range(len(NAMES)))


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    whole = sam3_trainer(tmp_path / "whole", max_steps=3)
    whole.train()
    first = sam3_trainer(tmp_path / "parts", max_steps=3, save_strategy="steps", save_steps=2)
    first.train()
    second = sam3_trainer(tmp_path / "parts", max_steps=3)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    end, parts = learned(whole), learned(second)
    assert all(torch.equal(parts[name], end[name]) for name in end)
    start = learned(sam3_trainer(tmp_path / "start"))
    assert all(not torch.equal(start[name], end[name]) for name in end)


def test_two_processes_give_the_result_of_one(tmp_path):
    arguments = {"per_device_train_batch_size": 2, "shrinkage": 0}
    one = sam3_trainer(tmp_path / "one", **arguments)
    one.train()
    arguments |= {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 1}
    script = Path(sam3_training.__file__)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    run_python(*launch, json.dumps(arguments), PYTHONPATH=str(script.parent))
    two = torch.load(tmp_path / "two" / "learned.pt", weights_only=True)
    for name, value in learned(one).items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [CoOpConfig, LOCNConfig])
def test_words_are_learned_through_the_text_encoder(tmp_path, method):
    options = {"num_context_tokens": 2} if method is CoOpConfig else {}
    config = method(**options).tokenize(list(NAMES), tokenizer())
    trainer = sam3_trainer(tmp_path, config=config)
    before = learned(trainer)
    trainer.train()
    (name,) = before
    assert not torch.equal(learned(trainer)[name], before[name])


def test_points_do_not_apply(tmp_path):
    with pytest.raises(AdapterError, match="VSPL, which learns their coordinates, does not apply"):
        sam3_trainer(tmp_path, config=VSPLConfig())


def test_evaluation_scores_both_states(tmp_path):
    trainer = sam3_trainer(tmp_path, evaluation=few_scenes(1, "val"), task="panoptic")
    scores = trainer.evaluate_by_class(with_zero_shot=True)
    # nothing has been learned yet
    assert scores["adapted"]["mean_iou"] == scores["zero_shot"]["mean_iou"]
    assert "pq" in scores["adapted"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a base model without classes, as it would be on the Hub."""
    folder = tmp_path_factory.mktemp("sam3")
    model = tiny_sam3(class_names=None)
    for part in (model, model.default_image_processor(), tokenizer()):
        part.save_pretrained(folder)
    return folder


def test_from_a_name_to_pictures(folder, tmp_path):
    """`train --base_model sam3` and everything after it, on a folder in place of the Hub."""
    data_dir = tmp_path / "data"
    scenes = few_scenes()
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (data_dir / kind / split).mkdir(parents=True)
        for index in range(2):
            example = scenes[index]
            Image.fromarray(example["image"]).save(data_dir / "images" / split / f"{split}{index}.png")
            Image.fromarray(example["label"]).save(data_dir / "annotations" / split / f"{split}{index}.png")
    CLASSES.save(data_dir / "classes.json")
    data = DataArguments(base_model=str(folder), data_dir=str(data_dir))
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, report_to="none", disable_tqdm=True
    )
    metrics = train_adapter(data, PromptArguments(shots=1, allow_fewer=True), args)
    assert metrics["steps"] == 1 and metrics["zero_shot_miou"] is not None
    model = SSPromptModel.from_pretrained(folder, adapter=tmp_path / "out" / "adapter")
    base = model.get_base_model()
    assert base.word_embeddings() is None, "no text encoder is needed once the class tokens are known"
    assert base.config.class_names == list(NAMES) and base.config.thing_class_ids == [2]
    image = scenes[0]["image"]
    for task in ("semantic", "instance", "panoptic"):
        assert model.predict(image, task=task).class_map.shape == image.shape[:2]


def test_an_adapter_for_19_classes_is_small(tmp_path):
    """200 queries and 19 classes of six tokens, 256 numbers each, as in the published model."""
    torch.manual_seed(0)
    base = tiny_sam3(class_names=None, width=256)
    base.detr_decoder.query_embed = torch.nn.Embedding(200, 256)
    base.class_tokens.weight = torch.randn(19, 5, 256)
    base.name_classes([f"class {index}" for index in range(19)])
    model = SSPromptModel(base, SSPromptConfig())
    model.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 500_000
