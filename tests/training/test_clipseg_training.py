"""What is particular to training CLIPSeg's prompts: logits as large as images, offsets that begin as zeros."""

import torch
from few_classes import NAMES, few_classes_trainer, first_step, learned
from tiny_clipseg import tiny_clipseg


def clipseg_trainer(output_dir, **arguments):
    return few_classes_trainer(output_dir, tiny_clipseg(class_names=NAMES), **arguments)


def test_losses_at_the_resolution_of_labels_are_the_same_from_the_cache(tmp_path):
    loss, gradients = first_step(clipseg_trainer(tmp_path, loss_resolution="label", feature_cache="none"))
    trainer = clipseg_trainer(tmp_path, loss_resolution="label")
    first_step(trainer)
    again, cached = first_step(trainer)
    assert trainer.feature_cache.hits > 0 and torch.equal(again, loss)
    assert all(torch.equal(cached[name], gradients[name]) for name in gradients)


def test_offsets_begin_as_zeros_and_yet_they_learn(tmp_path):
    settings = {"max_steps": 20, "learning_rate": 0.03, "negative_classes": 9, "random_flip": False}
    trainer = clipseg_trainer(tmp_path, logging_steps=1, shrinkage=0, **settings)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.015
    offsets = learned(trainer)["base_model.model.token_offsets.ssprompt_embedding.default"]
    assert offsets.abs().mean() > 0.05
