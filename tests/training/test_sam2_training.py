"""What is particular to training the prompts of SAM 2 and SAM: zero-shot tells no classes apart."""

import pytest
import torch
from few_classes import NAMES, few_classes_trainer, first_step, learned
from tiny_clip import LENGTH, tiny_clip
from tiny_sam import tell_classes_apart, tiny_sam
from tiny_sam2 import tiny_sam2

from ssprompt_hf import CoOpConfig, SSPromptConfig, VSPLConfig
from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer

METHODS = {
    "ssprompt": SSPromptConfig(),
    "spaprompt": SSPromptConfig(semantic_embedding=False, semantic_weight=False),
    "vspl": VSPLConfig(point_grid_size=3),
}
MAKERS = {"sam": tiny_sam, "sam2": tiny_sam2}


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.mark.parametrize("method", ["ssprompt", "vspl"])
def test_training_lowers_the_loss_of_its_images(kind, tmp_path, method):
    base = MAKERS[kind](NAMES)
    if method == "vspl":
        tell_classes_apart(base)  # else no place of points is better than another
    rate, share = (0.02, 1) if method == "vspl" else (0.2, 0.98)
    trainer = few_classes_trainer(
        tmp_path, base, METHODS[method], max_steps=40, logging_steps=1, learning_rate=rate, shrinkage=0,
        negative_classes=3,
    )  # fmt: skip
    before = learned(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < share * losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in learned(trainer).items())


@pytest.mark.parametrize("method", ["spaprompt", "vspl"])
def test_spatial_prompts_alone_learn_nothing(tmp_path, method):
    _, gradients = first_step(few_classes_trainer(tmp_path, tiny_sam(NAMES), METHODS[method]))
    assert gradients and all(gradient.abs().max() < 1e-6 for gradient in gradients.values())


def test_words_are_learned_from_the_cache(kind, tmp_path):
    base = MAKERS[kind](NAMES)
    base.lend_text_encoder(tiny_clip())
    config = CoOpConfig(num_context_tokens=4, class_specific_context=True)
    config.tokenize(NAMES, byte_tokenizer(LENGTH))
    trainer = few_classes_trainer(
        tmp_path, base, config, max_steps=20, logging_steps=1, learning_rate=0.15, shrinkage=0,
        negative_classes=3, random_flip=False,
    )  # fmt: skip
    before = learned(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.99 * losses[0] and trainer.feature_cache.hits > 0
    assert list(before) == ["base_model.model.class_tokens.coop_context.default"]
    assert all((value != before[name]).all() for name, value in learned(trainer).items())
