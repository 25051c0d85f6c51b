"""Checkpoints: the best one, one of another run, one of a run that came to nothing."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from tiny_training import prompts, tiny_images, tiny_processor, tiny_seem, tiny_trainer
from transformers import TrainerCallback

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.checkpoints import last_complete_checkpoint
from ssprompt_hf.training.feature_cache import FeatureCache
from ssprompt_hf.tuners.ssprompt import SSPromptConfig

WATCHED = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True, "max_steps": 6}


def test_the_last_complete_checkpoint(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    for step, text in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"global_'), (14, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if text is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


class RateAtStep(TrainerCallback):
    """The learning rate of each step."""

    def __init__(self, rates):
        self.rates = rates

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append(optimizer.param_groups[0]["lr"])


class PromptsAtEvaluation(TrainerCallback):
    """What was learned at each evaluation."""

    def __init__(self):
        self.seen = {}

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.seen[state.global_step] = prompts(model)


@pytest.mark.parametrize("others", [[], ["default"]], ids=["alone", "beside default"])
@pytest.mark.parametrize("name", ["default", "fog"])
def test_the_best_checkpoint_is_that_of_the_active_adapter(tmp_path, name, others):
    model = get_peft_model(tiny_seem(), SSPromptConfig(), adapter_name=[*others, name][0])
    if name not in model.peft_config:
        model.add_adapter(name, SSPromptConfig())
        model.set_adapter(name)
    record = PromptsAtEvaluation()
    settings = {**WATCHED, "learning_rate": 1.0, "save_total_limit": None}
    trainer = tiny_trainer(tmp_path, model, evaluation=tiny_images(3, "validation"), callbacks=[record], **settings)
    scores = iter([0.2, 0.9, 0.1])  # the second is the best
    original = trainer.compute_metrics
    trainer.compute_metrics = lambda prediction, compute_result=True: (
        original(prediction, compute_result) | ({"mean_iou": next(scores)} if compute_result else {})
    )
    trainer.train()
    assert not torch.equal(*(next(iter(record.seen[step].values())) for step in (4, 6)))
    for parameter, tensor in prompts(model).items():
        assert torch.equal(tensor, record.seen[4][parameter]), parameter


@pytest.mark.parametrize(("task", "metric"), [("semantic", "mean_iou"), ("instance", "coco_ap"), ("panoptic", "pq")])
def test_the_best_is_told_by_the_score_of_the_task(tmp_path, task, metric):
    settings = {**WATCHED, "save_strategy": "steps", "use_cpu": True, "task": task}
    args = SSPromptTrainingArguments(output_dir=str(tmp_path), **settings)
    assert (args.metric_for_best_model, args.greater_is_better) == (metric, True)
    trainer = tiny_trainer(tmp_path, evaluation=tiny_images(2, "validation"), **{**WATCHED, "task": task})
    trainer.train()
    assert trainer.state.best_metric == trainer.evaluate()[f"eval_{metric}"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.3}, "learning_rate 0.03"),
        ({"data_seed": 5}, "data_seed None"),
        ({"per_device_train_batch_size": 3}, "batch_size 2"),
        ({"train": 4}, "other training images"),
        ({"image_size": 48}, "another image size or image processor"),
        ({"semantic_loss": "dice", "optim": "sgd"}, "semantic_loss 'mixed', optim 'adamw_torch'"),
    ],
)
def test_a_run_with_other_settings_does_not_go_on(tmp_path, changed, message):
    tiny_trainer(tmp_path, max_steps=2, save_steps=2).train()
    adapter = (tmp_path / "checkpoint-2" / "adapter_model.safetensors").read_bytes()
    if "train" in changed:
        changed = {"train": tiny_images(changed["train"])}
    if size := changed.pop("image_size", None):
        changed["image_processor"] = tiny_processor().with_image_size(size)
    with pytest.raises(SSPromptError, match=f"checkpoint-2 was written with {message}, and a run keeps these"):
        tiny_trainer(tmp_path, max_steps=4, **changed).train(resume_from_checkpoint=True)
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").read_bytes() == adapter


def test_a_run_that_began_with_prototypes_does_not_go_on_without(tmp_path):
    tiny_trainer(tmp_path, max_steps=2, save_steps=2, prototypes=True).train()
    with pytest.raises(SSPromptError, match="checkpoint-2 was written with prototypes True, and a run keeps these"):
        tiny_trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True)


def test_a_run_may_become_longer_and_divide_its_batches(tmp_path):
    tiny_trainer(tmp_path, max_steps=2, save_steps=2).train()
    longer = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "shrinkage": 0.1}
    trainer = tiny_trainer(tmp_path, max_steps=4, logging_steps=1, **longer)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    # nor does a checkpoint of a program that leaves no settings stop anybody
    for name in ("training_settings.json", "manifest.json"):
        (tmp_path / "checkpoint-2" / name).unlink()
    tiny_trainer(tmp_path, max_steps=4, learning_rate=0.3).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_training_that_diverges_says_so(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=3, learning_rate=1e20, save_strategy="no")
    trainer.feature_cache = FeatureCache("disk", tmp_path / "feature_cache")  # as several processes have it
    with pytest.raises(SSPromptError, match=r"diverged: after 3 steps at a learning_rate of 1e\+20"):
        trainer.train()
    assert not (tmp_path / "feature_cache").exists()


def test_the_rate_falls_where_scores_stop_rising(tmp_path):
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}
    settings |= {"lr_scheduler_kwargs": {"patience": 0}, "learning_rate": 1.0, "save_strategy": "no", "max_steps": 4}
    trainer = tiny_trainer(tmp_path, evaluation=tiny_images(1, "validation"), **settings)
    assert trainer.args.lr_scheduler_kwargs == {"mode": "max", "patience": 0}
    scores, original = iter([0.1, 0.2, 0.3, 0.2]), trainer.compute_metrics
    trainer.compute_metrics = lambda prediction, compute_result=True: (
        original(prediction, compute_result) | ({"mean_iou": next(scores)} if compute_result else {})
    )
    rates = []
    trainer.add_callback(RateAtStep(rates))
    trainer.train()
    assert rates[0] == rates[1] == rates[2] == rates[3] and trainer.optimizer.param_groups[0]["lr"] < rates[3]


def test_checkpoints_tell_how_they_were_learned(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=4, save_steps=4)
    trainer.train()
    settings = json.loads((tmp_path / "checkpoint-4" / "training_settings.json").read_text())
    assert settings["batch_size"] == 2 and settings["learning_rate"] == trainer.args.learning_rate
    assert load_file(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
