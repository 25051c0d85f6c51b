"""What goes wrong with configurations, base models and files, and what the errors say."""

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from prompted_seem import WIDTH, adapted, logits, same, small_seem, trained
from safetensors.torch import load_file, save_file
from torch import nn
from toy_family import ToyConfig, ToyModel

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.tuners import CoOpConfig, SSPromptConfig, VSPLConfig


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"spatial_source": "lines"}, "'object_queries', 'point_grid'"),
        ({"weight_range": "open"}, "'unit', 'free'"),
        ({"deep_prompts": "first"}, "'none', 'last', 'all'"),
        ({"deep_prompts": "all", "spatial_source": "point_grid"}, "deep prompts belong to object queries"),
        ({"prompts_per_class": 0}, "prompts_per_class is 0"),
        (
            {"prompts_per_class": 2, "semantic_embedding": False, "semantic_weight": False},
            "prompts of a class differ by their embeddings alone",
        ),
        ({"init_embeddings": "zeros"}, "'default', 'noise', 'normal'"),
        ({"task": "depth"}, "'semantic', 'instance', 'panoptic'"),
        ({"semantic_embedding": False}, "weighs the default prompts against themselves"),
        (
            dict.fromkeys(("spatial_embedding", "spatial_weight", "semantic_embedding", "semantic_weight"), False),
            "nothing",
        ),
        ({"init_weight": 1.5}, "between 0 and 1"),
        ({"point_grid_size": 0}, "point_grid_size is 0"),
        ({"init_std": -1.0}, "must not be negative"),
        ({"class_names": []}, "class_names is empty"),
        ({"class_names": ["a", "a"]}, "'a' more than once"),
        ({"class_names": list(map(str, range(256)))}, "256 names; class maps of 8 bits hold 255 at most"),
        ({"class_names": ["a", " "]}, "' ', which is no name"),
        ({"class_names": ["a"], "thing_class_ids": [1]}, "thing_class_ids holds 1"),
        ({"class_names": ["a"], "colors": [[0, 0, 0], [1, 1, 1]]}, "2 colors"),
        ({"colors": [[0, 0, 300]]}, r"\[0, 0, 300\]"),
        ({"shots": 0}, "shots is 0"),
        ({"ignore_index": -1}, "ignore_index is -1; it must be at least 0 and at most 65535"),
        ({"class_names": ["a"], "class_ids": [70000]}, "class_ids is 70000; .* at most 65535"),
        ({"point_grid_size": 1000}, "point_grid_size is 1000; it must be at least 1 and at most 128"),
        ({"image_size": 10**9}, "image_size is 1000000000; it must be at least 1 and at most 16384"),
    ],
)
def test_configurations_that_make_no_sense(config, message):
    with pytest.raises(AdapterError, match=message):
        SSPromptConfig(**config)


@pytest.mark.parametrize(
    ("config_cls", "config", "message"),
    [
        (CoOpConfig, {"num_context_tokens": 10**9}, "num_context_tokens is 1000000000; .* at most 1024"),
        (VSPLConfig, {"point_grid_size": 10**5}, "point_grid_size is 100000; .* at most 128"),
    ],
)
def test_numbers_that_ask_for_more_memory_than_there_is(config_cls, config, message):
    with pytest.raises(AdapterError, match=message):
        config_cls(**config)


def test_class_scores_that_have_no_bias():
    toy = ToyModel(ToyConfig())
    toy.set_class_names(["road", "car"], None)
    with pytest.raises(AdapterError, match="scores of ToyModel are not linear in its class prompts"):
        get_peft_model(toy, SSPromptConfig(semantic_bias=True))


def test_classes_that_have_one_prompt():
    toy = ToyModel(ToyConfig())
    toy.set_class_names(["road", "car"], None)
    with pytest.raises(AdapterError, match=r"ToyModel compares nothing .* leave out prompts_per_class"):
        get_peft_model(toy, SSPromptConfig(prompts_per_class=2))


def test_decoders_that_take_no_deep_prompts():
    toy = ToyModel(ToyConfig())
    toy.set_class_names(["road", "car"], None)
    with pytest.raises(AdapterError, match="ToyModel has no slot for deep_prompts: leave them out"):
        get_peft_model(toy, SSPromptConfig(deep_prompts="last"))


def test_models_that_an_adapter_cannot_be_made_for():
    with pytest.raises(AdapterError, match="Sequential is no PromptableModel"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), SSPromptConfig())
    with pytest.raises(AdapterError, match="set_class_names"):
        adapted(small_seem(class_names=None))
    with pytest.raises(
        AdapterError, match=r"\['cat'\].*holds the embeddings of 3 other ones: call model.set_class_names"
    ):
        adapted(class_names=["cat"])
    model = adapted()
    with pytest.raises(AdapterError, match="cannot be active together"):
        model.base_model.set_adapter(["default", "other"])
    spatial_only = adapted(small_seem(class_names=None), semantic_embedding=False, semantic_weight=False)
    assert list(get_peft_model_state_dict(spatial_only)) == [
        "base_model.model.model.object_queries.ssprompt_embedding",
        "base_model.model.model.object_queries.ssprompt_weight",
    ]


def test_an_adapter_of_another_base_model(tmp_path):
    trained().save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="another set of weights"):
        PeftModel.from_pretrained(small_seem(seed=1), tmp_path)
    with pytest.raises(AdapterError, match="another architecture"):
        PeftModel.from_pretrained(small_seem(num_queries=7), tmp_path)
    config = PeftConfig.from_pretrained(tmp_path)
    config.base_model_fingerprint = "any"
    PeftModel.from_pretrained(small_seem(seed=1), tmp_path, config=config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("base_model.model.class_embeddings.ssprompt_default"), "lacks .*ssprompt_default"),
        (lambda t: t.update(extra=torch.zeros(1)), "holds extra, which"),
        (
            lambda t: t.update({"base_model.model.class_embeddings.ssprompt_default": torch.zeros(3, WIDTH)}),
            r"has shape \(3, 32\).* need \(4, 32\)",
        ),
        (
            lambda t: t["base_model.model.model.object_queries.ssprompt_embedding"].fill_(torch.inf),
            "not finite",
        ),
    ],
)
def test_files_that_do_not_fit(change, message, tmp_path):
    trained().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=message):
        PeftModel.from_pretrained(small_seem(), tmp_path)


@pytest.mark.parametrize("name", ["copy", "items", "keys", "training", "", "a.b"])
def test_names_that_no_adapter_can_have(name, tmp_path):
    with pytest.raises(AdapterError, match=f"adapter_name is {name!r}.*choose another name"):
        get_peft_model(small_seem(), SSPromptConfig(), adapter_name=name)
    model = trained()
    before = logits(model)
    with pytest.raises(AdapterError, match="choose another name"):
        model.add_adapter(name, SSPromptConfig())
    assert list(model.peft_config) == ["default"] and same(logits(model), before)


def test_a_loaded_configuration_alone_gives_no_class_embeddings(tmp_path):
    trained().save_pretrained(tmp_path)
    base = small_seem(class_names=None)
    base.load_state_dict(
        {k: v for k, v in small_seem().state_dict().items() if not k.startswith("class_")}, strict=False
    )
    model = get_peft_model(base, SSPromptConfig.from_pretrained(tmp_path))
    with pytest.raises(AdapterError, match="adapter 'default' has no semantic prompts yet: load them"):
        logits(model)
