"""The contract of a slot: `slot.weight` and `slot()` are the prompts in force, whoever reads them, and whenever."""

import pytest
import torch
import toy_family
from method_models import CONFIGS, adapted, base_model, config_of
from peft import get_peft_model
from prompted_seem import train

from ssprompt_hf import SSPromptModel
from ssprompt_hf.tuners import PromptLayer, SSPromptConfig

every_method = pytest.mark.parametrize("method", CONFIGS)


def slots(model) -> dict[str, torch.nn.Module]:
    """What stands in the places of the slots, by their paths."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {slot.path: base.get_submodule(slot.path) for slot in base.prompt_slots.values()}


@torch.no_grad()
def in_force(model) -> dict[str, torch.Tensor | None]:
    """The prompts in all slots, read in both ways."""
    found = {}
    for path, slot in slots(model).items():
        prompts, called = slot.weight, slot()
        assert (prompts is None) == (called is None)
        assert prompts is None or torch.equal(prompts, called), path
        found[path] = None if prompts is None else prompts.clone()
    return found


def equal(found: dict, expected: dict) -> bool:
    """Bit for bit, in every slot."""
    return found.keys() == expected.keys() and all(
        (found[path] is None and expected[path] is None)
        or (found[path] is not None and expected[path] is not None and torch.equal(found[path], expected[path]))
        for path in found
    )


@torch.no_grad()
def learned(model, adapter: str = "default") -> dict[str, torch.Tensor]:
    """What the adapter says of the slots that it has something to say of, innermost layers included."""
    found = {}
    for path, slot in slots(model).items():
        while isinstance(slot, PromptLayer):
            if slot.has_adapter(adapter):
                found[path] = slot.adapter_prompt(adapter).clone()
            slot = slot.base_layer
    return found


@torch.no_grad()
def defaults(model, adapter: str = "default") -> dict[str, torch.Tensor]:
    """The default semantic prompts of the adapter."""
    found = {}
    for path, slot in slots(model).items():
        while isinstance(slot, PromptLayer):
            if slot.has_adapter(adapter) and slot.holds_classes:
                found[path] = slot.default_prompt(adapter).clone()
            slot = slot.base_layer
    return found


@every_method
def test_both_ways_of_reading_a_slot_agree_in_every_state(method):
    base = base_model()
    own = in_force(base)
    model = train(adapted(method, base), lr=1.0)
    prompts = learned(model)
    expected = own | prompts
    assert prompts and not equal(expected, own)
    assert equal(in_force(model), expected)
    with model.disable_adapter():
        assert equal(in_force(model), own)
    with model.base_model.zero_shot():
        assert equal(in_force(model), own | defaults(model))
    model.merge_adapter()
    assert equal(in_force(model), expected)
    for path, slot in slots(model).items():
        if path in prompts:
            assert torch.equal(slot.base_layer.weight, prompts[path]) and torch.equal(slot.base_layer(), prompts[path])
    with model.base_model.zero_shot():
        assert equal(in_force(model), own | defaults(model))
    assert equal(in_force(model), expected)
    with model.disable_adapter():
        assert equal(in_force(model), own)
    model.unmerge_adapter()
    assert equal(in_force(model), expected)
    assert equal(in_force(model.merge_and_unload()), expected)


@every_method
def test_unloading_gives_the_slots_their_own_prompts_back(method):
    base = base_model()
    own = in_force(base)
    model = train(adapted(method, base), lr=1.0)
    model.merge_adapter()
    assert equal(in_force(model.unload()), own)


@every_method
def test_both_ways_of_reading_a_slot_are_differentiable(method):
    model = adapted(method)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = []
    for read in (lambda slot: slot.weight, lambda slot: slot()):
        wrapped = [slot for slot in slots(model).values() if isinstance(slot, PromptLayer)]
        values = [read(slot) for slot in wrapped]
        loss = sum(value.square().sum() for value in values if value.requires_grad)
        gradients.append(torch.autograd.grad(loss, parameters))
    assert all(torch.equal(one, other) for one, other in zip(*gradients))
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("second", ["CoOp", "LOCN", "VSPL", "SSPrompt on a point grid"])
def test_nested_layers_of_two_methods(second):
    base = base_model()
    own = in_force(base)
    model = SSPromptModel(base, config_of("SSPrompt"), "first")
    train(model, lr=1.0)
    if second == "SSPrompt on a point grid":
        model.add_adapter("second", config_of(second))
        model.base_model.set_point_tokens(torch.randn(3, 9, 32), "second")
    else:
        model.add_adapter("second", config_of(second))
    model.set_adapter("second")
    train(model, lr=1.0)
    prompts = {name: learned(model, name) for name in ("first", "second")}
    expected = {name: own | prompts[name] for name in prompts}
    assert not equal(expected["first"], expected["second"])
    for name in ("first", "second", "first"):
        model.set_adapter(name)
        assert equal(in_force(model), expected[name])
        with model.disable_adapter():
            assert equal(in_force(model), own)
        with model.zero_shot():
            assert equal(in_force(model), own | defaults(model, name))
        model.merge_adapter()
        assert equal(in_force(model), expected[name])
        with model.zero_shot():
            assert equal(in_force(model), own | defaults(model, name))
        with model.disable_adapter():
            assert equal(in_force(model), own)
        model.unmerge_adapter()
        assert equal(in_force(model), expected[name])
    model.set_adapter("second")
    assert equal(in_force(model.merge()), expected["second"])


def test_writing_into_a_wrapped_slot_reaches_the_base():
    model = train(adapted("SSPrompt"), lr=1.0)
    expected = in_force(model)
    model.merge_adapter()
    rows = torch.randn(3, 32)
    slot = slots(model)["class_embeddings"]
    slot.weight = rows
    assert torch.equal(slot.base_layer.weight, rows) and not slot.merged
    with model.disable_adapter():
        assert torch.equal(in_force(model)["class_embeddings"], rows)
    assert equal(in_force(model), expected)


def test_a_slot_that_is_read_by_its_weight_alone_sees_learned_prompts():
    """As an `nn.Embedding` is read, whose call wants indices: one that is never called with none."""
    base, _ = toy_family.FAMILY.random_model("toy", ["road", "sky"])
    directions = base.directions
    assert isinstance(directions, torch.nn.Embedding)
    own = directions.weight.detach().clone()
    pixels = torch.rand(1, 3, 64, 64)

    @torch.no_grad()
    def maps():
        return base(**base.decoder_inputs([base.image_features(pixels, "features")]))["maps"]

    before = maps()
    model = get_peft_model(base, SSPromptConfig())
    layer = base.directions
    assert layer is not directions and torch.equal(layer.weight, own) and torch.equal(maps(), before)
    with torch.no_grad():
        for embedding in (layer.ssprompt_embedding["default"], base.classes.ssprompt_embedding["default"]):
            embedding.add_(torch.randn_like(embedding))
        expected = own + (1 - layer.prompt_weights("default")[:, None]) * (layer.ssprompt_embedding["default"] - own)
        assert torch.equal(layer.weight, expected) and not torch.equal(expected, own)
    learned_maps = maps()
    assert not torch.allclose(learned_maps, before)
    with model.disable_adapter():
        assert torch.equal(base.directions.weight, own) and torch.equal(maps(), before)
    model.merge_adapter()
    assert torch.equal(directions.weight, expected) and torch.equal(maps(), learned_maps)
    assert isinstance(directions.weight, torch.nn.Parameter)
    model.unmerge_adapter()
    assert torch.equal(directions.weight, own)
    with torch.no_grad():
        assert torch.equal(base.directions.weight, expected)
    assert model.merge_and_unload().directions is directions and torch.equal(directions.weight, expected)
