"""Adapters for different classes become one for all of them."""

import copy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from peft import get_peft_model
from prompted_seem import logits, same, set_classes, small_seem, train
from tiny_sam3 import images, tiny_sam3

from ssprompt_hf import LOCNConfig, SSPromptConfig, SSPromptModel
from ssprompt_hf.adapters.files import read_adapter
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.tuners import SSPromptLayer

SEMANTIC = {"spatial_embedding": False, "spatial_weight": False}
STREET, HARBOUR = ["road", "car", "sky"], ["water", "boat", "sky", "quay"]


def adapter_for(names, folder, things=(1,), **config):
    base = small_seem()
    set_classes(base, names, list(things))
    # one background, as a text encoder would make it
    base.class_embeddings.weight = torch.cat([base.class_embeddings.weight[:-1], torch.ones(1, 32) / 32**0.5])
    train(get_peft_model(base, SSPromptConfig(**config))).save_pretrained(folder)


def both(tmp_path, street=None, harbour=None) -> SSPromptModel:
    adapter_for(STREET, tmp_path / "street", **(SEMANTIC if street is None else street))
    adapter_for(HARBOUR, tmp_path / "harbour", **(SEMANTIC if harbour is None else harbour))
    model = SSPromptModel.from_pretrained(small_seem(), tmp_path / "street", "street")
    model.load_adapter(tmp_path / "harbour")
    return model


def similarities(model, name):
    model.set_adapter(name)
    classes, masks = logits(model)
    return {label: classes[..., index] for index, label in enumerate(model.config.class_names)}, masks


def test_classes_of_both_and_whose_prompt_a_shared_one_keeps(tmp_path):
    model = both(tmp_path)
    active = model.active_adapters
    with pytest.raises(AdapterError, match=r"the class 'sky' is in 'street' and in 'harbour': pass shared_classes="):
        model.join_adapters(["street", "harbour"], "all")
    assert list(model.peft_config) == ["street", "harbour"]
    for winner, shared in (("street", "first"), ("harbour", "last")):
        model.join_adapters(["street", "harbour"], shared, shared_classes=shared)
        assert model.active_adapters == active
        (street, masks), (harbour, _), (joined, joined_masks) = (
            similarities(model, name) for name in ("street", "harbour", shared)
        )
        model.set_adapter(active[0])
        assert list(joined) == ["road", "car", "sky", "water", "boat", "quay"] and torch.equal(masks, joined_masks)
        for label, scores in joined.items():
            own = street if label in street and (label != "sky" or winner == "street") else harbour
            torch.testing.assert_close(scores, own[label])
        config = model.peft_config[shared]
        assert config.thing_class_ids == [1, 4]
        (tmp_path / shared).mkdir()
        model.save_pretrained(tmp_path / shared, selected_adapters=[shared])
        stored = read_adapter(tmp_path / shared / shared).config
        assert [source["adapter"] for source in stored.made_from] == ["street", "harbour"]
        assert ("sky" in stored.made_from[0]["class_names"]) == (winner == "street")


def test_spatial_prompts_are_those_of_one_adapter(tmp_path):
    model = both(tmp_path, street={}, harbour={"deep_prompts": "last"})
    with pytest.raises(AdapterError, match=r"different spatial prompts.*spatial_prompts_of='street'"):
        model.join_adapters(["street", "harbour"], "all", shared_classes="first")
    with pytest.raises(AdapterError, match=r"spatial_prompts_of is 'night'; it must be one of 'street', 'harbour'"):
        model.join_adapters(["street", "harbour"], "all", spatial_prompts_of="night", shared_classes="first")
    model.join_adapters(["street", "harbour"], "all", spatial_prompts_of="harbour", shared_classes="first")
    (harbour, masks), (joined, joined_masks) = (similarities(model, name) for name in ("harbour", "all"))
    assert torch.equal(masks, joined_masks)
    for label in ("water", "boat", "quay"):
        torch.testing.assert_close(joined[label], harbour[label])
    assert [source["spatial_prompts"] for source in model.peft_config["all"].made_from] == [False, True]


def test_adapters_that_do_not_belong_together(tmp_path):
    model = both(tmp_path, harbour=SEMANTIC | {"weight_range": "free"})
    with pytest.raises(AdapterError, match="have other settings, so that their class prompts mean different things"):
        model.join_adapters(["street", "harbour"], "all", shared_classes="first")
    with pytest.raises(AdapterError, match="there is no adapter 'night'"):
        model.join_adapters(["street", "night"], "all")
    with pytest.raises(AdapterError, match="'street' is given more than once"):
        model.join_adapters(["street", "street"], "all")
    with pytest.raises(AdapterError, match="shared_classes is 'both'; it must be one of"):
        model.join_adapters(["street"], "all", shared_classes="both")
    words = SSPromptModel.from_pretrained("seem-nano", class_names=["tree"], config=LOCNConfig(), is_trainable=True)
    with pytest.raises(AdapterError, match="LOCN learns words"):
        words.join_adapters(["default"], "all")


def test_a_union_of_too_many_classes(tmp_path):
    for letter in "ab":
        adapter_for([f"{letter}{number}" for number in range(130)], tmp_path / letter, **SEMANTIC)
    model = SSPromptModel.from_pretrained(small_seem(), tmp_path / "a", "a")
    model.load_adapter(tmp_path / "b")
    with pytest.raises(AdapterError, match="260 names; class maps of 8 bits hold 255 at most"):
        model.join_adapters(["a", "b"], "all")
    assert list(model.peft_config) == ["a", "b"]


def test_classes_with_different_numbers_of_tokens(tmp_path):
    """SAM 3 pads, and its answers stay the same to the bit."""
    expected, config = {}, {**SEMANTIC, "weight_per_token": True, "init_embeddings": "noise", "init_std": 0.5}
    for name, classes in (("short", ["car", "sky"]), ("long", ["a very long name of a class"])):
        model = get_peft_model(tiny_sam3(class_names=classes), SSPromptConfig(**config)).eval()
        model.save_pretrained(tmp_path / name)
        with torch.no_grad():
            expected[name] = model(images(1)).class_maps
    model = SSPromptModel.from_pretrained(tiny_sam3(class_names=None), tmp_path / "short", "short")
    model.load_adapter(tmp_path / "long")
    model.join_adapters(["short", "long"], "all")
    model.set_adapter("all")
    with torch.no_grad():
        assert torch.equal(model(images(1)).class_maps, torch.cat(list(expected.values())))


def test_ids_in_label_files(tmp_path):
    """As in those of the adapters if they are all different, else positions; of no class where there is none."""
    model = both(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    cases = [
        (([7, 8, 9], 0), ([1, 2, 3, 4], 0), "first", ([7, 8, 9, 1, 2, 4], 0)),
        (([7, 8, 9], 0), ([1, 2, 3, 4], 0), "last", ([7, 8, 3, 1, 2, 4], 0)),
        (([7, 8, 9], 0), ([0, 2, 3, 4], 255), "first", ([7, 8, 9, 0, 2, 4], 255)),
        (([7, 8, 255], 0), ([1, 2, 0, 254], 0), "first", ([7, 8, 255, 1, 2, 254], 0)),
        (([7, 8, 255], 0), ([0, 2, 3, 254], 1), "first", ([7, 8, 255, 0, 2, 254], 253)),
        (([7, 8, 9], 0), ([7, 2, 3, 4], 0), "first", (None, 255)),
        (([7, 8, 9], 254), (None, 254), "first", (None, 254)),
    ]
    for number, (street, harbour, shared, expected) in enumerate(cases):
        name = f"all{number}"
        for adapter, records in (("street", street), ("harbour", harbour)):
            model.peft_config[adapter].class_ids, model.peft_config[adapter].ignore_index = records
        model.join_adapters(["street", "harbour"], name, shared_classes=shared)
        result = model.predict(image, "semantic", adapter=name)
        assert (result.class_ids, result.none_id) == (expected if expected[0] else (None, 255))
        model.save_pretrained(tmp_path / name, selected_adapters=[name])
        stored = read_adapter(tmp_path / name / name).config
        assert (stored.class_ids, stored.ignore_index) == expected


def test_a_failed_union_leaves_nothing_behind(tmp_path, monkeypatch):
    model = both(tmp_path)
    expected = logits(model)
    with pytest.raises(AdapterError, match="adapter_name is 'copy', which PyTorch's dictionaries"):
        model.join_adapters(["street", "harbour"], "copy", shared_classes="first")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(SSPromptLayer, "load_tensors", Mock(side_effect=RuntimeError("out of memory")))
        model.join_adapters(["street", "harbour"], "all", shared_classes="first")
    assert list(model.peft_config) == ["street", "harbour"]
    assert not any(layer.has_adapter("all") for layer in model.base_model.prompt_layers())
    assert same(logits(model), expected)
    model.join_adapters(["street", "harbour"], "all", shared_classes="first")


def test_the_active_adapter_stays_merged(tmp_path):
    model = both(tmp_path)
    expected = logits(model)
    for make in (
        lambda: model.join_adapters(["street", "harbour"], "all", shared_classes="first"),
        lambda: model.add_weighted_adapter(["harbour"], [0.5], "weaker"),
        lambda: model.add_adapter("new", SSPromptConfig(**SEMANTIC)),
    ):
        make()
        merged = [layer.merged_adapters for layer in model.base_model.prompt_layers()]
        assert merged == [["street"]] and same(logits(model), expected)


def test_an_adapter_that_still_lacks_its_prompts(tmp_path):
    model = both(tmp_path)
    model.add_adapter("empty", copy.copy(model.peft_config["harbour"]))  # whose tensors are to follow
    for adapters in (["street", "empty"], ["empty", "street"]):
        with pytest.raises(AdapterError, match="adapter 'empty' has no semantic prompts yet"):
            model.join_adapters(adapters, "all", shared_classes="first")
    assert list(model.peft_config) == ["street", "harbour", "empty"]
