"""What PEFT and PyTorch offer around a model, which has to work on prompts as on any adapter."""

import copy

import peft.helpers
import pytest
import torch
from method_models import CONFIGS, adapted, base_model
from peft import AutoPeftModel, PeftModel, get_peft_model, get_peft_model_state_dict
from prompted_seem import logits, pixels, same
from prompted_seem import loss as loss_of
from safetensors.torch import load_file
from toy_family import FAMILY
from transformers.utils import logging

from ssprompt_hf import SSPromptModel
from ssprompt_hf.models.seem import SeemForUniversalSegmentation
from ssprompt_hf.tuners import SSPromptConfig
from ssprompt_hf.tuners.base import PromptLayer


@pytest.mark.parametrize("method", CONFIGS)
def test_low_memory_loading_rounds_nothing(method, tmp_path):
    adapted(method).save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base_model(torch.bfloat16), tmp_path, low_cpu_mem_usage=True)
    tensors, found = load_file(tmp_path / "adapter_model.safetensors"), get_peft_model_state_dict(loaded)
    assert tensors.keys() == found.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype == torch.float32 and torch.equal(found[name], tensor), name
    usual = PeftModel.from_pretrained(base_model(torch.bfloat16), tmp_path)
    assert same(logits(loaded, pixels().bfloat16()), logits(usual, pixels().bfloat16()))


DECODER, TEXT = "mask_decoder.layers", "text_model.text_encoder.encoder.layers"


def step(model) -> tuple[dict[str, torch.Tensor], dict[str, int]]:
    """Gradients of the usual loss, and how often the first linear layer of each block was computed."""
    calls = dict.fromkeys((DECODER, TEXT), 0)
    for name, module in model.named_modules():
        for part in calls:
            if part in name and name.endswith("fc1"):
                module.register_forward_hook(lambda *_, part=part: calls.update({part: calls[part] + 1}))
    model.train()
    loss_of(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, calls


class TestActivationCheckpointing:
    @pytest.mark.parametrize(
        ("method", "enable", "again"),
        [
            ("SSPrompt", "activation_checkpointing_enable", DECODER),
            ("SSPrompt", "gradient_checkpointing_enable", DECODER),
            ("CoOp", "gradient_checkpointing_enable", TEXT),  # of whose words the decoder knows nothing
        ],
    )
    def test_layers_that_gradients_pass_are_computed_again(self, method, enable, again):
        model = adapted(method)
        if not hasattr(model.get_base_model(), enable):
            pytest.skip("a name of later versions of transformers")
        expected, once = step(adapted(method))
        getattr(model, enable)()
        found, calls = step(model)
        assert once[again] and calls == once | {again: 2 * once[again]}
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        assert not any(layer.training for layer in model.eval().modules())

    def test_before_there_are_prompts(self):
        base = base_model()
        base.gradient_checkpointing_enable()
        assert step(adapted("SSPrompt", base))[1][DECODER] == 6

    def test_class_embeddings_pass_nothing(self, monkeypatch):
        told = []
        monkeypatch.setattr(logging.get_logger("ssprompt_hf.tuners.base.model"), "warning", told.append)
        model = get_peft_model(base_model(), SSPromptConfig(spatial_embedding=False, spatial_weight=False))
        model.gradient_checkpointing_enable()
        gradients, calls = step(model)
        assert gradients and calls == {DECODER: 3, TEXT: 0}
        assert len(told) == 1 and "saves nothing" in told[0]


def test_compiled_base_models(tmp_path):
    """The prompts are those of the model inside; what was compiled stays compiled."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def answers(model) -> torch.Tensor:
        with torch.no_grad():
            features = model.get_base_model().image_features(pixels(), "features")
            return model(pixels=features["pixels"])["maps"]

    torch.compiler.reset()
    base, _ = FAMILY.random_model("toy", ["road", "sky"])
    plain = get_peft_model(copy.deepcopy(base), SSPromptConfig(init_embeddings="noise", init_std=0.3))
    plain.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(torch.compile(copy.deepcopy(base), backend=backend), tmp_path)
    assert sum(isinstance(module, PromptLayer) for module in model.modules()) == 2
    torch.testing.assert_close(answers(model), answers(plain))
    assert graphs and not torch.allclose(answers(model), answers(get_peft_model(base, SSPromptConfig())))
    model.save_pretrained(tmp_path / "again")
    first, again = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)


def test_input_casting_can_be_switched_off():
    """A slot has no input, so that there is nothing to change."""
    model = adapted("SSPrompt")
    expected = logits(copy.deepcopy(model))
    with peft.helpers.disable_input_dtype_casting(model):
        assert same(logits(model), expected)
    assert same(logits(model), expected)


def test_adapters_of_a_bundled_model(tmp_path):
    """`AutoPeftModel` as the card says, and transformers' `from_pretrained` of the model's class."""
    model = SSPromptModel.from_pretrained(
        "seem-nano", is_trainable=True, config=SSPromptConfig(init_embeddings="noise", init_std=0.3)
    )
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert f'AutoPeftModel.from_pretrained("{tmp_path.name}", import_allowlist=["ssprompt_hf"])' in card
    assert "they would look for `seem-nano` on the Hub" in card
    expected = logits(model)
    assert not same(
        logits(model.get_base_model().eval()), logits(SeemForUniversalSegmentation.from_pretrained("seem-nano"))
    )
    assert same(logits(AutoPeftModel.from_pretrained(tmp_path, import_allowlist=["ssprompt_hf"])), expected)
    loaded = SeemForUniversalSegmentation.from_pretrained(tmp_path)
    assert loaded.active_adapters() == ["default"] and same(logits(loaded), expected)
