import math

import pytest
import torch
from tiny_training import InterruptAt, prompts, tiny_adapted, tiny_images, tiny_trainer
from transformers import TrainerCallback

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.training import score_guard
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.shrinkage import MAX_LOST_GAIN, TrainingPath, nearest_share


def test_the_path_ends_exactly_where_training_began_and_ended():
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 5)
    model.bias.requires_grad_(False)
    start, bias = model.weight.detach().clone(), model.bias.clone()
    path = TrainingPath(model)
    end = torch.randn(5, 7) * 1e6
    model.weight.data.copy_(end)
    path.set_share(0.25)
    torch.testing.assert_close(model.weight.data, 0.75 * start + 0.25 * end)
    path.set_share(0.0)
    assert torch.equal(model.weight, start)
    path.set_share(1.0)
    assert torch.equal(model.weight, end) and torch.equal(model.bias, bias)


@pytest.mark.parametrize(
    ("losses", "tolerance", "share"),
    [
        ([2.0, 1.0], 0.25, 0.75),  # may rise to 1.25
        ([4.0, 3.0, 2.0, 1.0, 1.0], 0.5, 0.625),
        ([4.0, 1.2, 2.0, 1.0], 0.1, 1 - 0.1 / 3),  # only where no point on the way back is worse
        ([1.1, 1.08, 1.05, 1.0], 0.5, (2 - 0.01 / 0.03) / 3),  # by at most 0.06 of the 0.1 gained
        ([1.0, 1.0], 0.1, 1.0),  # nothing changed
        ([1.0, 1.5, 2.0], 0.1, 0.0),  # made worse
        ([1.0, 5.0, 2.0], 0.1, 0.0),
        ([1 + 2**-52, 1.0], 0.9, 0.0),  # 0.6 of the last digit is rounded up
        ([2.0, 1.0], 0.0, 1.0),
        ([math.nan, 1.0], 0.1, 1.0),
        ([2.0, math.inf], 0.1, 1.0),
    ],
)
def test_nearest_share(losses, tolerance, share):
    assert nearest_share(losses, tolerance) == pytest.approx(share)


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_prompts_stop_on_the_way_where_the_loss_may_be(tmp_path, task):
    settings = {"max_steps": 8, "learning_rate": 0.1, "task": task, "random_flip": False, "disable_tqdm": True}
    whole = tiny_trainer(tmp_path, shrinkage=0, **settings)
    start = prompts(whole.model)
    whole.train()
    assert whole.kept_share == 1
    shrunk = tiny_trainer(tmp_path, shrinkage=0.05, **settings)
    shrunk.train()
    share = shrunk.kept_share
    assert 0 < share < 1
    assert shrunk.state.log_history[-1]["kept_share"] == pytest.approx(share, abs=1e-4)
    training = shrunk.model.peft_config["default"].training
    assert training == whole.model.peft_config["default"].training | {"kept_share": pytest.approx(share, abs=1e-4)}
    assert training["steps"] == 8 and training["loss"] == {"semantic": "mixed"}.get(task, "matching")
    ends = prompts(whole.model)
    for name, prompt in prompts(shrunk.model).items():
        torch.testing.assert_close(prompt, torch.lerp(start[name], ends[name], share))

    def loss(trainer):
        examples = trainer.train_examples
        batch = trainer.data_collator([examples[0, index] for index in range(len(examples))])
        return float(trainer.compute_loss(trainer.model.eval(), trainer._prepare_inputs(batch)).detach())

    first, last, here = loss(tiny_trainer(tmp_path, **settings)), loss(whole), loss(shrunk)
    limit = last + min(0.05 / math.sqrt(5) * last, MAX_LOST_GAIN * (first - last))
    assert last < here < first
    # the loss is not quite linear between the points that are measured
    assert here == pytest.approx(limit, abs=0.1 * (first - last))


class AtEnd(TrainerCallback):
    """Notes what other callbacks see when training ends."""

    def on_train_end(self, args, state, control, model=None, **kwargs):
        self.seen = prompts(model)


@pytest.mark.parametrize("again", ["the same trainer", "another trainer, with other noise"])
def test_resumed_equals_uninterrupted(tmp_path, again):
    settings = {"max_steps": 8, "learning_rate": 0.1, "save_steps": 2, "shrinkage": 0.2}

    def trainer(name, seed=0, **kwargs):
        model = tiny_adapted(init_embeddings="noise", deep_prompts="last")
        torch.manual_seed(seed)
        for layer in (model.base_model.model.model.object_queries, model.base_model.model.class_embeddings):
            layer.ssprompt_embedding["default"].data.add_(0.01 * torch.randn_like(layer.ssprompt_embedding["default"]))
        return tiny_trainer(tmp_path / name, model, **settings, **kwargs)

    end = AtEnd()
    whole = trainer("whole", callbacks=[end])
    whole.train()
    expected = prompts(whole.model)
    assert 0 < whole.kept_share < 1
    assert all(torch.equal(end.seen[name], expected[name]) for name in expected)
    assert next(prompt for name, prompt in expected.items() if "ssprompt_offset" in name).any()
    stop = InterruptAt(4)
    killed = trainer("killed", callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    if again == "the same trainer":
        killed.remove_callback(stop)
    else:
        killed = trainer("killed", seed=1)
    killed.train(resume_from_checkpoint=True)
    assert killed.kept_share == whole.kept_share
    assert all(torch.equal(tensor, expected[name]) for name, tensor in prompts(killed.model).items())


def test_an_interrupt_while_looking_for_the_point_loses_nothing(tmp_path):
    settings = {"max_steps": 4, "learning_rate": 0.1}
    whole = tiny_trainer(tmp_path, shrinkage=0, **settings)
    whole.train()
    trainer, calls = tiny_trainer(tmp_path, shrinkage=0.4, **settings), []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4 + 5:
            raise KeyboardInterrupt
        return losses(*args)

    losses, trainer.batch_losses = trainer.batch_losses, interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    ends = prompts(whole.model)
    assert all(torch.equal(tensor, ends[name]) for name, tensor in prompts(trainer.model).items())


def test_a_training_that_made_things_worse_is_undone(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=6, learning_rate=30.0, shrinkage=0.4)
    start = prompts(trainer.model)
    trainer.train()
    assert trainer.kept_share == 0
    assert all(torch.equal(tensor, start[name]) for name, tensor in prompts(trainer.model).items())


def test_the_best_of_several_evaluations_stays_as_it_is(tmp_path):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    settings |= {"metric_for_best_model": "mean_iou", "learning_rate": 0.1}
    trainer = tiny_trainer(tmp_path, evaluation=tiny_images(3, "validation"), shrinkage=0.4, **settings)
    trainer.train()
    assert trainer.kept_share == 1
    assert trainer.evaluate()["eval_mean_iou"] == trainer.state.best_metric


@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_a_wrong_shrinkage_is_named(tmp_path, value):
    with pytest.raises(SSPromptError, match=f"shrinkage is {value}"):
        SSPromptTrainingArguments(output_dir=str(tmp_path), shrinkage=value)


def test_training_images_are_scored_as_others_are(tmp_path):
    trainer = tiny_trainer(tmp_path, train=tiny_images(2), max_steps=1, task="panoptic", shrinkage=0.4)
    trainer.train()
    images = trainer.train_dataset
    score = score_guard.score_at(trainer, trainer._shrinkage.path, 1.0, list(range(len(images))))
    assert score == pytest.approx(trainer.evaluate_by_class(images)["adapted"]["pq"])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ({0.0: 0.5, 0.8: 0.5}, 0.8),
        ({0.0: 0.5, 0.8: 0.46}, 0.8),
        ({0.0: 0.5, 0.8: 0.44, 0.4: 0.6}, 0.4),
        ({0.0: 0.5, 0.8: 0.4, 0.4: 0.4, 0.2: 0.4}, 0.0),
        ({0.0: 0.0, 0.8: 0.0}, 0.8),
    ],
)
def test_a_much_worse_score_takes_the_prompts_further_back(scores, kept, monkeypatch):
    """The loss of instances may fall while their score does, too."""
    path = TrainingPath(torch.nn.Linear(2, 2))
    monkeypatch.setattr(score_guard, "score_at", lambda trainer, path, share, images: scores[share])
    assert score_guard.share_that_scores(None, path, 0.8, [0, 1]) == kept
