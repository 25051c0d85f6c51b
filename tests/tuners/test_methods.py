"""All methods through the same door: gradients, what is frozen, files, merging, several at once."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from method_models import CONFIGS, NAMES, adapted, base_model, config_of
from peft import PeftModel, get_peft_model
from prompted_seem import logits, loss, pixels, same, train
from safetensors.torch import load_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.tuners import PromptLayer, SSPromptConfig

every_method = pytest.mark.parametrize("method", CONFIGS)
LEAN = {"use_text_model": False}


def trained(method: str):
    return train(adapted(method), lr=1.0)


@every_method
def test_gradients_agree_with_finite_differences(method):
    """Of a loss on the outputs of the whole model, along random directions."""
    model = adapted(method, base_model(torch.float64))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    with torch.no_grad():
        features = model.get_base_model().get_image_features(images)
    names, values = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad))
    generator = torch.Generator()

    def outputs(*parameters):
        out = torch.func.functional_call(model, dict(zip(names, parameters)), (), {"image_features": features})
        return tuple(
            (x * torch.randn(x.shape, generator=generator.manual_seed(7), dtype=x.dtype)).sum()
            for x in (out.class_queries_logits, out.masks_queries_logits)
        )

    assert torch.autograd.gradcheck(outputs, values, fast_mode=True, atol=1e-6, rtol=1e-4)
    assert all(gradient.abs().max() > 1e-3 for gradient in torch.autograd.grad(sum(outputs(*values)), values))


@every_method
def test_only_the_adapter_learns(method):
    model = adapted(method)
    before = copy.deepcopy(model.state_dict())
    train(model, steps=3)
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learned
    for name, value in model.state_dict().items():
        made_of_learned = name.endswith("_embedding.default")  # class embeddings of learned words
        if not made_of_learned or name in learned:
            assert torch.equal(value, before[name]) != (name in learned), name
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learned


@every_method
def test_saved_and_loaded_is_the_same_bit_for_bit(method, tmp_path):
    model = trained(method)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    for arguments in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(base_model(), tmp_path, **arguments)
        assert same(logits(loaded), expected)
        assert not any(p.requires_grad for p in loaded.parameters())
    # without text encoder, and on a base model that has no classes
    base = base_model(**LEAN)
    base.load_state_dict({k: v for k, v in base_model().state_dict().items() if "class_emb" not in k}, strict=False)
    assert base.get_text_model() is None and base.class_embeddings() is None
    loaded = PeftModel.from_pretrained(base, tmp_path)
    assert same(logits(loaded), expected) and loaded.config.class_names == NAMES
    assert loaded.config.thing_class_ids == [1, 2]
    # training goes on where it stopped
    further = PeftModel.from_pretrained(base_model(), tmp_path, is_trainable=True)
    assert same(logits(train(further)), logits(train(model)))


@every_method
def test_merging_and_unmerging(method):
    zero_shot = logits(base_model())
    model = trained(method)
    learned = logits(model)
    assert not same(learned, zero_shot)
    model.merge_adapter()
    assert same(logits(model), learned)
    assert model_fingerprint(model.get_base_model()) == model_fingerprint(base_model())
    with model.disable_adapter():
        assert same(logits(model), zero_shot)
    model.unmerge_adapter()
    assert same(logits(model), learned)
    with model.base_model.zero_shot():
        assert same(logits(model), zero_shot)
    merged = model.merge_and_unload(safe_merge=True)
    assert not any(isinstance(module, PromptLayer) for module in merged.modules())
    assert same(logits(merged), learned)


@pytest.mark.parametrize("method", ["SSPrompt on a point grid", "VSPL", "CoOp"])
def test_a_merged_model_is_saved_and_loaded_like_any_other(method, tmp_path):
    merged = trained(method).merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert same(logits(type(merged).from_pretrained(tmp_path).eval()), logits(merged))


@every_method
def test_half_precision_bases_keep_float32_adapters(method):
    model = train(adapted(method, base_model(torch.bfloat16)), steps=1)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert logits(model)[0].dtype == torch.bfloat16


@every_method
def test_a_copied_model_is_on_its_own(method):
    model = trained(method)
    expected = logits(model)
    other = copy.deepcopy(model)
    train(other)
    assert same(logits(model), expected) and not same(logits(other), expected)


def test_adapters_of_all_methods_live_in_one_model(tmp_path):
    expected = {}
    for method in CONFIGS:
        model = trained(method)
        model.save_pretrained(tmp_path / method)
        expected[method] = logits(model)
    methods = list(CONFIGS)
    model = SSPromptModel.from_pretrained(base_model(), tmp_path / methods[0], methods[0])
    for method in methods[1:]:
        model.load_adapter(tmp_path / method, method)
        assert same(logits(model), expected[methods[0]])
    for method in [*methods, *reversed(methods)]:
        model.set_adapter(method)
        assert same(logits(model), expected[method]), method
        with model.disable_adapter():
            assert same(logits(model), logits(base_model()))
    # the file of an adapter does not tell what else was in the model
    model.save_pretrained(tmp_path / "all")
    for method in methods:
        first, again = (load_file(tmp_path / f / method / "adapter_model.safetensors") for f in ("", "all"))
        assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT tells which adapter is active now
        for method in methods[:-1]:
            model.delete_adapter(method)
    assert model.active_adapters == methods[-1:] and same(logits(model), expected[methods[-1]])
    assert same(logits(model.merge()), expected[methods[-1]])


def test_training_one_adapter_leaves_those_of_other_methods_alone():
    model = SSPromptModel(base_model(), config_of("SSPrompt"), "first")
    for method in ("CoOp", "VSPL", "LOCN"):
        model.add_adapter(method, config_of(method))
        assert model.active_adapters == ["first"]
        assert all(".first" in n for n, p in model.named_parameters() if p.requires_grad)
    expected = {}
    for method in ("CoOp", "VSPL", "first", "LOCN"):
        model.set_adapter(method)
        expected[method] = logits(train(model))
    for method, output in expected.items():
        model.set_adapter(method)
        assert same(logits(model), output), method


def test_transformers_switches_between_methods(tmp_path):
    base = base_model()
    expected = {}
    for method in ("CoOp", "SSPrompt", "VSPL"):
        model = trained(method)
        model.save_pretrained(tmp_path / method)
        expected[method] = logits(model)
        base.load_adapter(str(tmp_path / method), method)
    for method, output in expected.items():
        base.set_adapter(method)
        assert same(logits(base), output)


@pytest.mark.parametrize("method", ["CoOp", "VSPL"])
def test_the_models_bring_the_methods_along(method, tmp_path):
    """A user of transformers and PEFT alone never imports the tuners."""
    adapted(method).save_pretrained(tmp_path)
    code = f"import ssprompt_hf.models.seem, peft; print(peft.PeftConfig.from_pretrained({str(tmp_path)!r}).peft_type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert method.upper() in done.stdout


@pytest.mark.parametrize("method", ["SSPrompt", "CoOp", "LOCN"])
def test_semantic_methods_need_nothing_but_the_class_scores(method):
    """From kept answers of the decoder: the same gradient as through the whole model."""
    config = (
        SSPromptConfig(spatial_embedding=False, spatial_weight=False) if method == "SSPrompt" else config_of(method)
    )
    model = get_peft_model(base_model(), config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    whole = torch.autograd.grad(loss(model), parameters)
    with torch.no_grad():
        kept = model(pixel_values=pixels(1))
    again = model(class_queries_embeds=kept.class_queries_embeds, masks_queries_logits=kept.masks_queries_logits)
    value = again.class_queries_logits.square().mean() + again.masks_queries_logits.sigmoid().mean()
    assert all(torch.equal(one, two) for one, two in zip(whole, torch.autograd.grad(value, parameters)))
