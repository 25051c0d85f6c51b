"""Weighted sums of adapters, as PEFT has them for LoRA."""

import pytest
import torch
from safetensors.torch import load_file

from ssprompt_hf import CoOpConfig, SSPromptConfig, SSPromptModel
from ssprompt_hf.errors import AdapterError

NAMES = ["tree", "lamp", "bench"]


def two_adapters(**config):
    """Of seem-nano for classes of its own, with other numbers each."""
    model = SSPromptModel.from_pretrained("seem-nano", class_names=NAMES, is_trainable=True)
    model.add_adapter("second", SSPromptConfig(**config))
    generator = torch.Generator().manual_seed(0)
    for layer in model.base_model.prompt_layers():
        for attribute in layer.adapter_layer_names:
            for parameter in getattr(layer, attribute).values():
                parameter.data += torch.randn(parameter.shape, generator=generator)
    return model


def numbers(model, name):
    return {
        f"{path}.{attribute}": getattr(layer, attribute)[name].detach().clone()
        for path, layer in model.named_modules()
        if hasattr(layer, "base_prompt")
        for attribute in layer.adapter_layer_names + layer.other_param_names
        if name in getattr(layer, attribute)
    }


def test_the_numbers_are_weighted_sums(tmp_path):
    model = two_adapters()
    active = model.active_adapter
    model.add_weighted_adapter(["default", "second"], [0.25, 0.75], "mean")
    assert model.active_adapter == active
    first, second, mean = (numbers(model, name) for name in ("default", "second", "mean"))
    assert mean.keys() == first.keys()
    for name in mean:
        torch.testing.assert_close(mean[name], 0.25 * first[name] + 0.75 * second[name])
    model.set_adapter("mean")
    model.save_pretrained(tmp_path, selected_adapters=["mean"])
    stored = load_file(tmp_path / "mean" / "adapter_model.safetensors")
    assert len(stored) == len(mean)
    again = SSPromptModel.from_pretrained("seem-nano", adapter=tmp_path / "mean")
    assert again.peft_config["default"].class_names == NAMES


def test_one_adapter_alone_is_itself():
    model = two_adapters()
    model.add_weighted_adapter(["second"], [1.0], "alone")
    copied, second = numbers(model, "alone"), numbers(model, "second")
    assert all(torch.equal(copied[name], second[name]) for name in second)


def test_adapters_for_classes_that_the_base_model_does_not_have(tmp_path):
    two_adapters().save_pretrained(tmp_path)
    model = SSPromptModel.from_pretrained("seem-nano", adapter=tmp_path)
    model.load_adapter(tmp_path / "second", "second")
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean")
    first, second, mean = (numbers(model, name) for name in ("default", "second", "mean"))
    assert len(mean) == 5
    for name in mean:
        torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["default", "third"], [0.5, 0.5], "mean"), "there is no adapter 'third'; there are 'default', 'second'"),
        ((["default", "second"], [1.0], "mean"), "2 adapters were given with 1 weights"),
        ((["default", "second"], [0.5, 0.5], "second"), "there is an adapter 'second' already"),
    ],
)
def test_mistakes(arguments, message):
    model = two_adapters()
    with pytest.raises(AdapterError, match=message):
        model.add_weighted_adapter(*arguments)
    assert list(model.peft_config) == ["default", "second"]


def test_adapters_that_do_not_belong_together():
    model = two_adapters(weight_range="free")
    with pytest.raises(AdapterError, match="have other classes or settings"):
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean")
    words = SSPromptModel.from_pretrained(
        "seem-nano", class_names=NAMES, config=CoOpConfig(num_context_tokens=2), is_trainable=True
    )
    with pytest.raises(AdapterError, match="CoOp learns words"):
        words.add_weighted_adapter(["default"], [1.0], "mean")
