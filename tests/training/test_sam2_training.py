"""Training the prompts of SAM 2 and SAM: three classes of drawn scenes, features from the cache, pictures."""

import pytest
import torch
from peft import get_peft_model
from sam3_training import NAMES, few_scenes, learned
from tiny_clip import LENGTH, byte_tokenizer, tiny_clip
from tiny_sam import tell_classes_apart, tiny_sam
from tiny_sam2 import tiny_sam2

from ssprompt_hf import (
    CoOpConfig,
    SSPromptConfig,
    SSPromptModel,
    SSPromptTrainer,
    SSPromptTrainingArguments,
    VSPLConfig,
)
from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models import registry
from ssprompt_hf.models.sam.family import FAMILY as SAM
from ssprompt_hf.models.sam2.family import FAMILY as SAM2

METHODS = {
    "ssprompt": SSPromptConfig(),
    "semprompt": SSPromptConfig(spatial_embedding=False, spatial_weight=False),
    "spaprompt": SSPromptConfig(semantic_embedding=False, semantic_weight=False),
    "vspl": VSPLConfig(point_grid_size=3),
}
MAKERS = {"sam": tiny_sam, "sam2": tiny_sam2}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
    for family in (SAM, SAM2):
        registry.register_family(family.name, type(family).__module__, family.model_types)


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


def trainer_of(kind, output_dir, config=None, evaluation=None, base=None, **arguments) -> SSPromptTrainer:
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "negative_classes": 1, "use_cpu": True}
    defaults |= {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", "learning_rate": 0.1}
    args = SSPromptTrainingArguments(output_dir=str(output_dir), **(defaults | arguments))
    base = MAKERS[kind](list(NAMES)) if base is None else base
    adapted = get_peft_model(base, config or SSPromptConfig())
    return SSPromptTrainer(adapted, args, base.default_image_processor(), few_scenes(), evaluation)


def step(trainer):
    """Loss and gradients of the first batch."""
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in trainer.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_a_cached_feature_gives_the_same_loss_and_gradient(kind, tmp_path, storage):
    loss, gradients = step(trainer_of(kind, tmp_path, feature_cache="none"))
    trainer = trainer_of(kind, tmp_path, feature_cache=storage, feature_cache_dir=str(tmp_path / "features"))
    step(trainer)
    trainer.model.zero_grad()
    again, cached = step(trainer)
    assert trainer.feature_cache.hits > 0 and torch.equal(again, loss) and loss.isfinite()
    assert all(torch.equal(cached[name], gradients[name]) for name in gradients)
    moving = [name for name, gradient in gradients.items() if gradient.abs().max() > 1e-5]
    # w weighs nothing as long as e = z, and points help no class as long as all classes are the same
    assert "base_model.model.class_tokens.ssprompt_embedding.default" in moving
    assert all("ssprompt_embedding" in name for name in moving) and (kind == "sam2" or len(moving) == 1)


@pytest.mark.parametrize("method", ["ssprompt", "semprompt", "vspl"])
def test_training_lowers_the_loss_of_its_images(kind, tmp_path, method):
    base = MAKERS[kind](list(NAMES))
    if method == "vspl":
        tell_classes_apart(base)  # else no place of points is better than another
    rate, share = (0.02, 1) if method == "vspl" else (0.2, 0.98)
    trainer = trainer_of(
        kind, tmp_path, METHODS[method], base=base, max_steps=40, logging_steps=1, learning_rate=rate, shrinkage=0,
        negative_classes=3,
    )  # fmt: skip
    before = learned(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < share * losses[0]
    assert all(not torch.equal(value, before[name]) for name, value in learned(trainer).items())


@pytest.mark.parametrize("method", ["spaprompt", "vspl"])
def test_spatial_prompts_alone_learn_nothing(tmp_path, method):
    _, gradients = step(trainer_of("sam", tmp_path, METHODS[method]))
    assert gradients and all(gradient.abs().max() < 1e-6 for gradient in gradients.values())


def test_from_a_folder_to_pictures(kind, tmp_path):
    MAKERS[kind](None).save_pretrained(tmp_path / "base")
    model = SSPromptModel.from_pretrained(tmp_path / "base", class_names=list(NAMES), thing_class_ids=[2])
    args = SSPromptTrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True,
        save_strategy="no",
    )  # fmt: skip
    scenes = few_scenes()
    SSPromptTrainer(model, args, model.image_processor, scenes).train()
    model.save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size < 20_000
    loaded = SSPromptModel.from_pretrained(tmp_path / "base", adapter=tmp_path / "adapter")
    image = scenes[0]["image"]
    results = [one.predict(image).class_map for one in (model, loaded)]
    assert results[0].shape == image.shape[:2] and (results[0] == results[1]).mean() > 0.99
    assert loaded.get_base_model().config.class_names == list(NAMES)
    with pytest.raises(SSPromptError, match="no masks of single objects"):
        loaded.predict(image, task="panoptic")


def test_words_are_learned_from_the_cache(kind, tmp_path):
    base = MAKERS[kind](list(NAMES))
    base.lend_text_encoder(tiny_clip())
    config = CoOpConfig(num_context_tokens=4, class_specific_context=True)
    config.tokenize(list(NAMES), byte_tokenizer(LENGTH))
    trainer = trainer_of(
        kind, tmp_path, config, base=base, max_steps=20, logging_steps=1, learning_rate=0.15, shrinkage=0,
        negative_classes=3, random_flip=False,
    )  # fmt: skip
    before = learned(trainer)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.99 * losses[0] and trainer.feature_cache.hits > 0
    assert list(before) == ["base_model.model.class_tokens.coop_context.default"]
    assert all((value != before[name]).all() for name, value in learned(trainer).items())


def test_evaluation_scores_both_states(kind, tmp_path):
    trainer = trainer_of(kind, tmp_path, evaluation=few_scenes(1, "val"))
    scores = trainer.evaluate_by_class(with_zero_shot=True)
    # nothing has been learned yet
    assert scores["adapted"]["mean_iou"] == scores["zero_shot"]["mean_iou"]


def test_single_objects_cannot_be_trained(kind, tmp_path):
    trainer = trainer_of(kind, tmp_path, task="instance")
    with pytest.raises(SSPromptError, match="train with task='semantic'"):
        step(trainer)
