"""A mask of each class besides those of the object queries: what is exact, what is learned, and what is refused."""

from functools import partial

import pytest
import torch
from peft import PeftModel, get_peft_model
from prompted_seem import (
    CLASSES,
    OTHER_CLASSES,
    WIDTH,
    adapted,
    class_embeddings,
    pixels,
    set_classes,
    small_seem,
    train,
)
from safetensors.torch import load_file
from tiny_training import prompts, tiny_adapted, tiny_images, tiny_processor, tiny_seem, tiny_trainer
from toy_family import ToyConfig, ToyModel

from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.segmentation.tiles import MaskGeometry
from ssprompt_hf.training.class_masks import LOGITS, RIDGE, fit_class_masks, start_class_masks
from ssprompt_hf.training.losses import label_shares
from ssprompt_hf.training.trainer import SSPromptTrainer
from ssprompt_hf.tuners import SSPromptConfig

GEOMETRY = MaskGeometry((64, 64), (64, 48), (96, 72))
NOTHING_ELSE = dict.fromkeys(("spatial_embedding", "spatial_weight", "semantic_embedding", "semantic_weight"), False)


@torch.no_grad()
def predicted(model, dtype=torch.float32):
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.predictions(model(pixel_values=pixels().to(dtype)))[0]


def answers(model, dtype=torch.float32) -> list[torch.Tensor]:
    """Class scores of the losses, class scores and class map of inference."""
    found = predicted(model, dtype)
    return [found.class_scores(), found.score_maps(0, GEOMETRY), found.class_map(1, GEOMETRY)]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, first, second))


def layer(model):
    return model.get_base_model().class_masks


def with_masks(model=None, shares=(0.25, 0.0, 0.999), **config):
    """An adapter whose class masks say something."""
    model = adapted(model, class_masks=True, **config)
    generator = torch.Generator().manual_seed(1)
    layer(model).set_class_masks("default", torch.randn(len(CLASSES), WIDTH + 1, generator=generator) / 4)
    layer(model).ssprompt_share["default"].data.copy_(torch.tensor(shares).atanh())
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_untrained_disabled_and_no_adapter_are_the_same_bit_for_bit(dtype):
    base = small_seem().to(dtype)
    expected = answers(base, dtype)
    model = adapted(base, class_masks=True)
    assert predicted(model, dtype).class_masks_logits is not None
    assert equal(answers(model, dtype), expected)
    layer(model).set_class_masks("default", torch.ones(3, WIDTH + 1))  # where training begins
    assert equal(answers(model, dtype), expected)
    with model.disable_adapter():
        assert predicted(model, dtype).class_masks_logits is None
        assert equal(answers(model, dtype), expected)
    assert equal(answers(model.unload(), dtype), expected)


def test_a_class_has_its_share_of_its_own_mask():
    model = with_masks(**NOTHING_ELSE)
    assert model.peft_config["default"].method_name == "SpaPrompt"
    found, plain = predicted(model), predicted(small_seem())
    features = small_seem().get_image_features(pixels()).mask_features
    weights, bias, shares = layer(model).weight.detach().tensor_split([-2, -1], dim=1)
    masks = (torch.einsum("kc,bchw->bkhw", weights, features) + bias[:, None]).sigmoid()
    expected = (1 - shares[:, None]) * plain.class_scores() + shares[:, None] * masks
    torch.testing.assert_close(found.class_scores(), expected)
    assert not torch.allclose(expected, plain.class_scores(), atol=0.01)
    # tile by tile, as inference and explanations do it
    maps = found.score_maps(0, GEOMETRY)
    assert torch.equal(found.class_map(0, GEOMETRY), maps.argmax(0))
    torch.testing.assert_close(maps[1], plain.score_maps(0, GEOMETRY)[1])  # the class without a share
    masks, weights, prompt_of, count = found.prompt_parts(0)
    assert prompt_of.tolist() == list(range(6 + 3)) and count == 9
    torch.testing.assert_close(torch.einsum("mk,mhw->khw", weights, masks.sigmoid()), found.class_scores()[0])
    torch.testing.assert_close(found.image(1).class_scores()[0], found.class_scores()[1])
    # single objects are none of its business
    for one, other in zip(found.panoptic_masks(0, 0.1)[:4], plain.panoptic_masks(0, 0.1)[:4]):
        assert torch.equal(one, other)


def test_post_processing_knows_the_masks():
    model = with_masks(shares=(0.9, 0.99, 0.99))
    with torch.no_grad():
        output = model(pixel_values=pixels(), image_sizes=torch.tensor([[64, 48], [64, 48]]))
    maps = SeemImageProcessor().post_process_semantic_segmentation(output, [(96, 72), (96, 72)])
    assert torch.equal(maps[1], predicted(model).class_map(1, GEOMETRY))
    assert not torch.equal(maps[1], predicted(small_seem()).class_map(1, GEOMETRY))


def test_a_share_comes_back_from_below():
    model = with_masks(shares=(-0.9, 0.5, 0.9))
    torch.testing.assert_close(layer(model).weight[:, -1].detach(), torch.tensor([0, 0.5, 0.9]))
    prediction = model.get_base_model().predictions(model(pixel_values=pixels()))[0]
    prediction.class_scores().square().sum().backward()
    share = layer(model).ssprompt_share["default"]
    assert share.grad.all() and layer(model).ssprompt_mask["default"].grad[1:].any(1).all()


def test_saved_merged_and_loaded_again(tmp_path):
    model = with_masks()
    train(model)
    learned = answers(model)
    assert not equal(learned, answers(small_seem()))
    model.save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    shapes = {name.rsplit(".", 1)[-1]: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert (shapes["ssprompt_mask"], shapes["ssprompt_share"]) == ((3, WIDTH + 1), (3,))
    assert equal(answers(PeftModel.from_pretrained(small_seem(), tmp_path / "adapter").eval()), learned)
    model.merge_adapter()
    assert equal(answers(model), learned)
    model.unmerge_adapter()
    merged = model.merge_and_unload()
    assert merged.config.num_class_masks == 3 and equal(answers(merged), learned)
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(tmp_path / "merged").eval()
    assert equal(answers(again), learned)
    # from cached answers of the decoder, too
    cached = again.image_features(pixels()[:1], "predictions")
    with torch.no_grad():
        found, direct = (
            again.predictions(again(**inputs))[0].class_scores()
            for inputs in (again.decoder_inputs([cached]), {"pixel_values": pixels()[:1]})
        )
    assert torch.equal(found, direct)
    nbytes = sum(tensor.numel() * tensor.element_size() for tensor in cached.values())
    assert nbytes == again.feature_bytes((64, 64), "predictions")
    assert equal(answers(adapted(again)), learned)
    with pytest.raises(AdapterError, match="merged with an adapter that has class masks already"):
        adapted(again, class_masks=True)
    set_classes(again, OTHER_CLASSES)
    assert again.config.num_class_masks is None and predicted(again).class_masks_logits is None


def test_masks_of_other_classes(tmp_path):
    base = small_seem()
    set_classes(base, OTHER_CLASSES)
    get_peft_model(base, SSPromptConfig(spatial_embedding=False, spatial_weight=False)).save_pretrained(tmp_path)
    assert PeftModel.from_pretrained(small_seem(), tmp_path) is not None
    with pytest.raises(AdapterError, match="merged with an adapter that has masks of other classes"):
        PeftModel.from_pretrained(with_masks(**NOTHING_ELSE).merge_and_unload(), tmp_path)


def test_adapters_with_and_without_masks_live_together():
    model = with_masks()
    learned = answers(model)
    model.add_adapter("none", SSPromptConfig())
    model.set_adapter("none")
    assert equal(answers(model), answers(small_seem()))
    with model.base_model.use_adapter("default"):
        assert equal(answers(model), learned)
    model.set_adapter("default")
    with pytest.raises(AdapterError, match="other settings"):
        model.base_model.join_adapters(["default", "none"], "all", shared_classes="first")
    assert equal(answers(model), learned)
    # what belongs to classes is joined and weighted
    model.add_adapter("zero", SSPromptConfig(class_masks=True))
    model.base_model.add_weighted_adapter(["default", "zero"], [0.5, 0.5], "mean")
    model.base_model.join_adapters(["default", "mean"], "all", "default", "last")
    slot = layer(model)
    for numbers in (slot.ssprompt_mask, slot.ssprompt_share):
        assert torch.equal(numbers["mean"], numbers["default"] / 2)
    assert torch.equal(slot.adapter_prompt("all"), slot.adapter_prompt("mean"))


def test_explicit_classes_have_no_masks():
    model = with_masks()
    with torch.no_grad():
        output = model(pixel_values=pixels(), class_embeddings=class_embeddings(OTHER_CLASSES))
        assert output.class_masks_logits is None and output.class_masks_shares is None
        cached = predicted(model).class_masks_logits
        inputs = {"class_queries_embeds": output.class_queries_embeds, "class_masks_logits": cached}
        inputs["masks_queries_logits"] = output.masks_queries_logits
        own = model(**inputs)
        assert torch.equal(own.class_masks_logits, cached) and torch.equal(
            own.class_masks_shares, layer(model).weight[:, -1]
        )
        other = model(**inputs, class_embeddings=class_embeddings(OTHER_CLASSES))
        assert other.class_masks_logits is None
        with model.disable_adapter():
            assert model(**inputs).class_masks_logits is None


def test_base_models_know_nothing_of_class_masks():
    base = small_seem()
    assert not [name for name in base.state_dict() if "class_masks" in name]
    assert "num_class_masks" not in base.feature_settings()
    assert base.class_masks not in base.feature_modules("predictions")
    assert adapted(class_masks=True, **NOTHING_ELSE).get_base_model().feature_stages({"spatial"})[0] == "features"


def test_what_has_no_class_masks():
    with pytest.raises(AdapterError, match="the task is 'panoptic': a mask of a whole class knows no single objects"):
        SSPromptConfig(class_masks=True, task="panoptic")
    with pytest.raises(AdapterError, match="class masks need class names, and the base model has none"):
        adapted(small_seem(class_names=None), class_masks=True, **NOTHING_ELSE)
    grid = SSPromptConfig(**NOTHING_ELSE, class_masks=True, spatial_source="point_grid")
    assert grid.needs == () and grid.default_shrinkage == 0.4
    toy = ToyModel(ToyConfig())
    toy.set_class_names(["road", "car"], None)
    with pytest.raises(AdapterError, match="ToyModel has no slot for class_masks: leave them out"):
        get_peft_model(toy, SSPromptConfig(class_masks=True))
    with pytest.raises(AdapterError, match=r"needs finite class masks of shape \(3, 33\), got \(2, 33\)"):
        layer(with_masks()).set_class_masks("default", torch.zeros(2, WIDTH + 1))
    with pytest.raises(AdapterError, match="got values that are not finite"):
        layer(with_masks()).set_class_masks("default", torch.full((3, WIDTH + 1), torch.nan))


def test_the_fit_is_weighted_least_squares():
    generator = torch.Generator().manual_seed(0)
    labels = [torch.randint(0, 3, (1, 8, 12), generator=generator) for _ in range(2)]
    labels[0][0, :2] = 255
    images = [(torch.randn(1, 5, 4, 6, generator=generator), label_shares(label, 4, (4, 6))) for label in labels]
    images[1][0][:, 4] = images[0][0][:, 4] = 0  # a feature that says nothing
    counts = sum(shares.sum((0, 2, 3)) for _, shares in images)
    found = fit_class_masks(iter(images), counts.double())
    assert found.shape == (4, 6) and not found[3].any() and not found[:, 4].any()
    rows, wanted, weight = [], [], []
    for maps, shares in images:
        for cell in range(24):
            features, cells = maps[0].flatten(1)[:, cell], shares[0].flatten(1)[:, cell]
            for label in range(3):
                rows.append(torch.cat([features, torch.ones(1)]))
                wanted.append(1.0 - 2 * (torch.arange(3) != label))
                weight.append(cells[label] * counts[label].rsqrt())
    root = torch.stack(weight).double().sqrt()[:, None]
    rows, wanted = torch.stack(rows).double() * root, torch.stack(wanted).double() * root
    penalty = (RIDGE * rows.square().sum(0)).sqrt().diag()
    rows = torch.cat([rows, penalty])
    expected = torch.linalg.lstsq(rows, torch.cat([wanted, torch.zeros(6, 3).double()]), driver="gelsd").solution
    torch.testing.assert_close(found[:3], LOGITS * expected.T)


def test_training_begins_with_masks_that_have_no_share(tmp_path):
    arguments = {"shrinkage": 0, "random_flip": False}
    trainer = tiny_trainer(tmp_path / "a", tiny_adapted(class_masks=True), max_steps=2, save_steps=1, **arguments)
    start_class_masks(trainer)
    mask, share = layer(trainer.model).ssprompt_mask["default"], layer(trainer.model).ssprompt_share["default"]
    start = mask.detach().clone()
    assert start.any(1).sum() >= 5 and not share.any()
    trainer.train()
    assert share.any() and not torch.equal(mask, start)
    end = prompts(trainer.model)
    again = tiny_trainer(tmp_path / "a", tiny_adapted(class_masks=True), max_steps=2, **arguments)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-1"))
    assert all(torch.equal(prompt, end[name]) for name, prompt in prompts(again.model).items())
    # the way back ends where training began, which is zero-shot segmentation
    arguments = {"random_flip": False, "learning_rate": 1e3}
    shrunk = tiny_trainer(tmp_path / "b", tiny_adapted(class_masks=True), max_steps=1, **arguments)
    shrunk.train()
    first = {name.split(".")[-2]: tensor for name, tensor in shrunk._shrinkage.path.start.items()}
    assert torch.equal(first["ssprompt_mask"], start) and not first["ssprompt_share"].any()
    assert 0 < shrunk.kept_share < 1


def test_a_training_that_goes_on_keeps_its_masks(tmp_path):
    model = tiny_adapted(class_masks=True)
    tiny_trainer(tmp_path / "a", model, max_steps=5, learning_rate=0.3).train()
    learned = layer(model).weight.detach().clone()
    assert learned[:, -1].any() and layer(model).ssprompt_share["default"].min() >= 0
    tiny_trainer(tmp_path / "b", model, max_steps=1, learning_rate=1e-9).train()
    torch.testing.assert_close(layer(model).weight.detach(), learned, atol=1e-5, rtol=0)


def test_masks_of_a_model_that_is_made_when_training_begins(tmp_path):
    args = tiny_trainer(tmp_path, max_steps=1, learning_rate=1e-9).args
    make = partial(tiny_adapted, class_masks=True)
    made = SSPromptTrainer(None, args, tiny_processor(), tiny_images(), model_init=make)
    made.train()
    assert layer(made.model).ssprompt_mask["default"].any(1).sum() >= 5


@pytest.mark.parametrize("storage", ["memory", "none"])
def test_the_start_runs_the_frozen_part_once_an_image(tmp_path, storage):
    trainer = tiny_trainer(tmp_path, tiny_adapted(class_masks=True), max_steps=1, feature_cache=storage)
    runs = []
    trainer.base_model.model.backbone.register_forward_hook(lambda *_: runs.append(1))
    start_class_masks(trainer)
    assert len(runs) == len(trainer.train_examples)


def test_adapters_of_transformers_and_of_other_tasks(tmp_path):
    model = tiny_seem()
    model.add_adapter(SSPromptConfig(class_masks=True), "own")
    tiny_trainer(tmp_path / "a", model, max_steps=1).train()
    assert model.class_masks.ssprompt_mask["own"].any()
    with pytest.raises(SSPromptError, match="the adapter has class masks, which know no single objects, and the task"):
        tiny_trainer(tmp_path / "b", tiny_adapted(class_masks=True), task="panoptic", max_steps=1).train()


def test_labels_of_other_classes(tmp_path):
    model = get_peft_model(tiny_seem(3), SSPromptConfig(class_masks=True))
    trainer = tiny_trainer(tmp_path, tiny_adapted(class_masks=True), max_steps=1)
    trainer.model = model
    with pytest.raises(SSPromptError, match=r"labels hold class index \d+, but the model has 3 classes"):
        start_class_masks(trainer)


def test_masks_alone_learn_new_names(tmp_path):
    """Class names mean nothing to a random model, and the features of a random model tell a sky from a road."""
    images = tiny_images()
    scores = []
    for learned in ({"class_masks": True}, {"deep_prompts": "last"}):
        model = tiny_adapted(**NOTHING_ELSE, **learned)
        trainer = tiny_trainer(tmp_path / next(iter(learned)), model, images, images, max_steps=20, shrinkage=0)
        trainer.train()
        scores.append(trainer.evaluate_by_class()["adapted"]["mean_iou"])
    assert scores[0] > scores[1] + 0.1
