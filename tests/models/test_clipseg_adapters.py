"""Prompts that are learned on CLIPSeg: its slots hold what a tuner says, and nothing else changes."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_clipseg import CLASS_NAMES, aligned, images, tiny_clipseg, tokenizer

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models.clipseg import CLIPSegForPromptedSegmentation
from ssprompt_hf.tuners.coop import CoOpConfig
from ssprompt_hf.tuners.locn import LOCNConfig
from ssprompt_hf.tuners.ssprompt import SSPromptConfig
from ssprompt_hf.tuners.vspl import VSPLConfig

SEMANTIC, SPATIAL = ({f"{kind}_{part}": False for part in ("embedding", "weight")} for kind in ("spatial", "semantic"))
HALVES = {"both": {}, "spatial": SPATIAL, "semantic": SEMANTIC}


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=images(2)).logits


def trained(model, steps: int = 2) -> torch.nn.Module:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(pixel_values=images(2), class_indices=[torch.tensor([0, 2]), torch.tensor([3])])
        output.logits.sigmoid().sum().backward()
        optimizer.step()
    return model


def ssprompt(base, **config) -> PeftModel:
    return get_peft_model(base, SSPromptConfig(class_names=CLASS_NAMES, **config)).eval()


@pytest.mark.parametrize("half", HALVES)
def test_untrained_disabled_and_no_adapter_are_the_same_to_the_bit(half):
    base = tiny_clipseg()
    before = answers(base)
    model = ssprompt(base, **HALVES[half])
    assert torch.equal(answers(model), before)
    trained(model)
    after = answers(model)
    assert (after - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    assert torch.equal(answers(model), after)


@pytest.mark.parametrize("half", HALVES)
def test_merged_saved_and_loaded(half, tmp_path):
    model = trained(ssprompt(tiny_clipseg(), **HALVES[half]))
    expected = answers(model)
    model.save_pretrained(tmp_path / "adapter")
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    # the default offsets are zeros, and no file needs to say so
    spatial = {f"base_model.model.token_offsets.ssprompt_{part}" for part in ("embedding", "weight")}
    assert {name for name in names if "token_offsets" in name} == (spatial if half != "semantic" else set())
    assert torch.equal(answers(PeftModel.from_pretrained(tiny_clipseg(), tmp_path / "adapter")), expected)
    merged = model.merge_and_unload()
    assert type(merged) is CLIPSegForPromptedSegmentation
    torch.testing.assert_close(answers(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    loaded = CLIPSegForPromptedSegmentation.from_pretrained(tmp_path / "merged")
    assert torch.equal(answers(aligned(loaded)), answers(merged))


def test_learning_rates_of_prompts_that_begin_as_zeros():
    model = ssprompt(tiny_clipseg()).get_base_model()
    assert model.token_offsets.learning_rate_scale("default", "ssprompt_embedding") == 1.0
    size = model.class_embeddings.base_prompt.square().mean().sqrt()
    assert model.class_embeddings.learning_rate_scale("default", "ssprompt_embedding") == pytest.approx(float(size))


@pytest.mark.parametrize("method", [CoOpConfig, LOCNConfig])
def test_learned_words(method):
    base = tiny_clipseg().requires_grad_(False)
    before = answers(base)
    options = {"num_context_tokens": 3} if method is CoOpConfig else {}
    config = method(**options).tokenize(CLASS_NAMES, tokenizer(), base.class_template)
    model = trained(get_peft_model(base, config).eval())
    learned = answers(model)
    assert not torch.equal(learned, before)
    base.drop_text_encoder()
    assert torch.equal(answers(model), learned)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)


def test_adapters_by_the_functions_of_transformers(tmp_path):
    model = trained(ssprompt(tiny_clipseg()))
    expected = answers(model)
    model.save_pretrained(tmp_path)
    base = tiny_clipseg(class_names=["something", "else"])
    before = answers(base)
    base.load_adapter(tmp_path)
    assert torch.equal(answers(base), expected) and base.config.class_names == CLASS_NAMES
    base.disable_adapters()
    assert torch.equal(answers(base), before) and base.config.class_names == ["something", "else"]


def test_points_do_not_apply():
    with pytest.raises(AdapterError, match="VSPL, which learns their coordinates, does not apply"):
        get_peft_model(tiny_clipseg(), VSPLConfig())
    with pytest.raises(AdapterError, match="no spatial prompts of the kind 'point_grid'; it has 'object_queries'"):
        get_peft_model(tiny_clipseg(), SSPromptConfig(spatial_source="point_grid"))
