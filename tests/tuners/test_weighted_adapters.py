"""Weighted sums of adapters."""

import math

import pytest
import torch
from prompted_seem import adapted, logits, same, small_seem
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
    assert all(torch.equal(mean[name], first[name]) for name in mean if name.endswith("_default"))
    model.set_adapter("mean")
    model.save_pretrained(tmp_path, selected_adapters=["mean"])
    stored = load_file(tmp_path / "mean" / "adapter_model.safetensors")
    assert len(stored) == len(mean)
    again = SSPromptModel.from_pretrained("seem-nano", adapter=tmp_path / "mean")
    assert again.peft_config["default"].class_names == NAMES


def test_a_size_of_images_that_not_all_have_is_none_of_the_sum():
    model = two_adapters()
    for sizes, expected in (((64, 64), 64), ((64, 96), None), ((None, 96), None)):
        for name, size in zip(("default", "second"), sizes):
            model.peft_config[name].image_size = size
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], str(sizes))
        assert model.peft_config[str(sizes)].image_size == expected


def test_one_adapter_alone_is_itself():
    model = two_adapters()
    model.add_weighted_adapter(["second"], [1.0], "alone", combination_type="linear")
    copied, second = numbers(model, "alone"), numbers(model, "second")
    assert all(torch.equal(copied[name], second[name]) for name in second)


@pytest.mark.parametrize("weights", [[1 / 3] * 3, [0.1, 0.2, 0.7]])
def test_equal_adapters_are_their_mean_to_the_bit(weights):
    model = adapted(init_embeddings="default")
    for name in ("second", "third"):
        model.add_adapter(name, SSPromptConfig(init_embeddings="default"))
    model.eval()
    model.add_weighted_adapter(["default", "second", "third"], weights, "mean")
    model.set_adapter("mean")
    assert same(logits(model), logits(small_seem()))


def test_default_prompts_are_not_summed():
    model = two_adapters()
    model.add_weighted_adapter(["default", "second"], [1, 1], "sum")
    first, second, found = (numbers(model, name) for name in ("default", "second", "sum"))
    for name in found:
        expected = first[name] if name.endswith("_default") else first[name] + second[name]
        assert torch.equal(found[name], expected)


def test_point_grids():
    """Their default prompts depend on the images of the training."""
    points = {"spatial_source": "point_grid", "point_grid_size": 2}
    model = adapted(**points)
    model.add_adapter("second", SSPromptConfig(**points))
    tokens = torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    model.set_point_tokens(tokens, "default")
    with pytest.raises(AdapterError, match="adapter 'second' has no spatial prompts yet: set them with set_point"):
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean")
    model.set_point_tokens(2 * tokens, "second")
    with pytest.raises(AdapterError, match=r"start from different default prompts \(spatial ones\)"):
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean")
    model.set_point_tokens(tokens, "second")
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "mean")
    assert list(model.peft_config) == ["default", "second", "mean"]


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
        ((["default", "second"], [0.5, 0.5], "copy"), "adapter_name is 'copy', which PyTorch's dictionaries"),
        ((["default", "second"], [0.5, math.nan], "mean"), "weights holds nan: give finite numbers"),
        ((["default", "second"], [math.inf, 0.5], "mean"), "weights holds inf: give finite numbers"),
        ((["default", "second"], [1e39, 0.5], "mean"), "with which the sums are not finite: give smaller ones"),
        ((["default", "second"], [0.5, 0.5], "mean", "svd"), "combination_type is 'svd'; it must be one of 'linear'"),
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
