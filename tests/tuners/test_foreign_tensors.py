"""A file of an adapter that holds tensors of the base model, or others that it has no use for, changes nothing."""

import json
import warnings

import pytest
import torch
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from prompted_seem import CLASSES, adapted, logits, same, small_seem, trained
from safetensors.torch import load_file, save_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import AdapterError

WEIGHTS = "adapter_model.safetensors"
# Tensors that the model has, by the names under which some loader would find them.
NAMES = [
    "base_model.model.model.mask_decoder.query_positions",
    "model.mask_decoder.query_positions",
    "base_model.model.model.object_queries.weight",
    "model.object_queries.weight",
    "base_model.model.model.object_queries.base_layer.weight",
    "model.object_queries.base_layer.weight",
    "base_model.model.class_embeddings.weight",
    "class_embeddings.base_layer.weight",
    "base_model.model.model.logit_scale",
    "base_model.model.class_embeddings.ssprompt_extra",
    "base_model.model.model.point_tokens.ssprompt_default",
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    trained().save_pretrained(folder)
    return folder


@pytest.fixture(params=NAMES)
def bad(request, good, tmp_path):
    """The folder of an adapter whose file holds one tensor more."""
    tensors = load_file(good / WEIGHTS)
    state = small_seem().state_dict()
    like = state.get(request.param.removeprefix("base_model.model.").replace(".base_layer", ""))
    tensors[request.param] = torch.full_like(torch.zeros(3, 9, 32) if like is None else like, 7.0)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    write_config(good, tmp_path)
    return tmp_path


def write_config(good, folder):
    """The configuration of a good adapter, with nothing in it that ties it to its tensors: who forges an adapter does
    not forget its digest."""
    config = json.loads((good / "adapter_config.json").read_text())
    assert config.pop("tensors_sha256")
    (folder / "adapter_config.json").write_text(json.dumps(config))


def base_tensors(base) -> dict[str, torch.Tensor]:
    """Of the model itself, by the names that they have without an adapter."""
    return {
        name.replace(".base_layer.", "."): tensor.clone()
        for name, tensor in base.state_dict().items()
        if "ssprompt_" not in name
    }


def refuse(load, base, message="which its configuration has no use for"):
    """`load` fails, and the base model's tensors and classes are what they were."""
    before = base_tensors(base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises(AdapterError, match=message):
            load()
    after = base_tensors(base)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert base.config.class_names == CLASSES


def test_by_transformers(bad, good):
    base = small_seem()
    expected = logits(base)
    refuse(lambda: base.load_adapter(bad, "other"), base)
    refuse(lambda: base.load_adapter(str(bad)), base)
    tensors, config = load_file(bad / WEIGHTS), PeftConfig.from_pretrained(bad)
    refuse(lambda: base.load_adapter(peft_config=config, adapter_state_dict=tensors), base)
    assert same(logits(base), expected) and not getattr(base, "peft_config", {})
    base.load_adapter(good, "first")
    learned = logits(base)
    refuse(lambda: base.load_adapter(bad, "other"), base)
    assert same(logits(base), learned) and list(base.peft_config) == ["first"] and base.active_adapters() == ["first"]


def test_by_peft(bad, good):
    base = small_seem()
    expected = logits(base)
    refuse(lambda: PeftModel.from_pretrained(base, bad), base)
    assert same(logits(base), expected)
    base = small_seem()
    model = PeftModel.from_pretrained(base, good)
    learned = logits(model)
    refuse(lambda: model.load_adapter(bad, "other"), base)
    assert same(logits(model), learned) and model.active_adapters == ["default"]
    refuse(lambda: set_peft_model_state_dict(model, load_file(bad / WEIGHTS)), base)
    assert same(logits(model), learned)


@pytest.mark.parametrize("is_trainable", [False, True])
def test_by_our_own_class(bad, good, is_trainable):
    base = small_seem()
    expected = logits(base)
    refuse(lambda: SSPromptModel.from_pretrained(base, bad, is_trainable=is_trainable), base)
    assert same(logits(base), expected)
    base = small_seem()
    model = SSPromptModel.from_pretrained(base, good, is_trainable=is_trainable)
    learned = logits(model)
    refuse(lambda: model.load_adapter(bad, "other"), base)
    refuse(lambda: model.load_adapter(bad, "default"), base)  # in place of the one that is there
    assert same(logits(model), learned) and list(model.peft_config) == ["default"]


def test_weights_that_do_not_fit_change_nothing_of_what_is_there(good):
    """Also where the first tensors of a file are good ones."""
    model = adapted()
    expected = logits(model)
    tensors = load_file(good / WEIGHTS)
    tensors["base_model.model.model.object_queries.ssprompt_weight"] = torch.zeros(7)
    with pytest.raises(AdapterError, match=r"has shape \(7,\)"):
        set_peft_model_state_dict(model, tensors)
    assert same(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn], ids=str)
def test_prompts_of_a_type_that_is_none(good, tmp_path, dtype):
    tensors = load_file(good / WEIGHTS)
    name = "base_model.model.model.object_queries.ssprompt_weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    write_config(good, tmp_path)
    base, message = small_seem(), f"ssprompt_weight has the type {dtype}"
    expected = logits(base)
    config = PeftConfig.from_pretrained(tmp_path)
    refuse(lambda: base.load_adapter(tmp_path), base, message)
    refuse(lambda: base.load_adapter(peft_config=config, adapter_state_dict=tensors), base, message)
    refuse(lambda: SSPromptModel.from_pretrained(base, tmp_path), base, message)
    assert same(logits(base), expected)
    base = small_seem()
    model = PeftModel.from_pretrained(base, good)
    learned = logits(model)
    refuse(lambda: model.load_adapter(tmp_path, "other"), base, message)
    refuse(lambda: set_peft_model_state_dict(model, tensors), base, message)
    assert same(logits(model), learned)
