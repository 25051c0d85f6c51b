"""Semantic prompts that start near what the pixels of their class look like."""

import pytest
import torch
from tiny_training import prompts, save_tiny_base, tiny_adapted, tiny_images, tiny_seem, tiny_trainer
from toy_family import ToyModel

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.training import prototypes
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.prototypes import SHARES
from ssprompt_hf.training.runs import prepare_training
from ssprompt_hf.training.settings import DataArguments, PromptArguments

EMBEDDING = "base_model.model.class_embeddings.ssprompt_embedding.default"


def test_a_pixel_is_the_mean_of_the_queries_that_cover_it():
    model = tiny_seem(3)
    with torch.no_grad():
        output = model(pixel_values=torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
    labels = torch.randint(-1, 3, (2, 8, 16), generator=torch.Generator().manual_seed(1))
    counts = torch.stack([(labels == index).float() for index in range(3)], dim=1)
    found = model.class_embedding_sums(output, lambda size: counts if size == (8, 16) else None)
    queries = torch.nn.functional.normalize(output.class_queries_embeds, dim=-1)
    chance = 1 - output.class_queries_logits.softmax(-1)[..., -1]
    expected = torch.zeros(3, queries.shape[-1])
    for image, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        share = output.masks_queries_logits[image, :, row, column].sigmoid() * chance[image]
        if (label := labels[image, row, column]) >= 0:
            expected[label] += (share[:, None] * queries[image]).sum(0) / share.sum()
    torch.testing.assert_close(found, expected)


def test_training_begins_where_the_loss_is_least(tmp_path):
    settings = {"max_steps": 4, "learning_rate": 1e-6, "random_flip": False, "shrinkage": 0}
    plain = tiny_trainer(tmp_path / "plain", **settings)
    start = prompts(plain.model)
    trainer = tiny_trainer(tmp_path / "near", prototypes=True, save_steps=2, **settings)
    assert all(torch.equal(prompt, start[name]) for name, prompt in prompts(trainer.model).items())
    trainer.train()
    share = trainer.state.log_history[0]["prototype_share"]
    assert share in SHARES and share > 0
    assert trainer.model.peft_config["default"].training["prototypes"] is True
    moved = prompts(trainer.model)
    assert not torch.allclose(moved.pop(EMBEDDING), start[EMBEDDING], atol=1e-3)
    assert all(torch.allclose(prompt, start[name], atol=1e-3) for name, prompt in moved.items())

    def loss(model):
        examples = plain.train_examples
        batch = plain.data_collator([examples[0, index] for index in range(len(examples))])
        return float(plain.compute_loss(model.eval(), plain._prepare_inputs(batch)).detach())

    assert loss(trainer.model) < loss(plain.model)
    end = prompts(trainer.model)
    again = tiny_trainer(tmp_path / "near", prototypes=True, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "near" / "checkpoint-2"))
    assert all(torch.equal(prompt, end[name]) for name, prompt in prompts(again.model).items())


def test_the_way_back_leads_to_the_default_prompts(tmp_path):
    trainer = tiny_trainer(tmp_path, prototypes=True, max_steps=1, learning_rate=1e3, shrinkage=0.4)
    start = prompts(trainer.model)
    trainer.train()
    assert trainer.kept_share == 0
    assert all(torch.equal(prompt, start[name]) for name, prompt in prompts(trainer.model).items())


def test_a_class_without_pixels_begins_with_its_default():
    model = tiny_adapted()
    layer = model.get_base_model().class_embeddings
    directions = torch.randn(11, 32, generator=torch.Generator().manual_seed(0))
    directions[3] = 0
    default = layer.default_prompt("default")[:-1]
    layer.start_towards("default", directions, 0.5)
    learned = layer.ssprompt_embedding["default"].detach()
    assert torch.equal(learned[3], default[3])
    goal = directions[0] / directions[0].norm() * default[0].norm()
    torch.testing.assert_close(learned[0], goal)  # as w is a half
    torch.testing.assert_close(layer.adapter_prompt("default")[0], (default[0] + goal) / 2)
    several = tiny_adapted(prompts_per_class=2).get_base_model().class_embeddings  # which all begin there
    several.start_towards("default", directions, 0.5)
    assert torch.equal(several.ssprompt_embedding["default"], learned[:, None].expand(-1, 2, -1))
    layer.start_towards("default", directions, 0.0)
    assert torch.equal(layer.ssprompt_embedding["default"], default)


def test_what_has_no_prototypes(tmp_path, monkeypatch):
    spatial = tiny_adapted(semantic_embedding=False, semantic_weight=False)
    with pytest.raises(SSPromptError, match="the adapter learns none"):
        tiny_trainer(tmp_path, spatial, prototypes=True).train()
    monkeypatch.setattr(prototypes, "EmbedsPixels", ToyModel)  # which SEEM is not
    with pytest.raises(SSPromptError, match="SeemForUniversalSegmentation embeds no pixels"):
        tiny_trainer(tmp_path, prototypes=True).train()
    assert not prototypes.can_start_from_prototypes(tiny_adapted())


def test_recipes(tmp_path):
    base, images = save_tiny_base(tmp_path / "base"), tiny_images()

    def added(wanted=None, task="semantic", **prompts):
        """Whether training begins at prototypes, and whether there are class masks."""
        args = SSPromptTrainingArguments(output_dir=str(tmp_path), use_cpu=True, prototypes=wanted, task=task)
        settings = DataArguments(base_model=base), PromptArguments(**prompts), args
        trainer = prepare_training(*settings, images, None)
        masks = getattr(trainer.model.peft_config["default"], "class_masks", False)
        return bool(trainer.args.prototypes), masks

    assert added() == (True, True) and added(recipe="paper") == (False, False)
    assert added(task="panoptic") == (True, False)
    assert added(method="spaprompt") == (False, False) and added(method="semprompt") == (True, False)
    assert added(method="locn") == (False, False)
    assert added(True, recipe="paper") == (True, False) and added(False) == (False, True)
    assert added(prompt_options='{"init_embeddings": "noise", "class_masks": false}') == (False, False)
    with pytest.raises(SSPromptError, match="recipe is 'best'; it must be one of paper, extended"):
        PromptArguments(recipe="best")
