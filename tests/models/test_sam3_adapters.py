"""Prompts that are learned on SAM 3: its slots hold what a tuner says, and nothing else changes."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_sam3 import CLASS_NAMES, aligned, images, tiny_sam3, tokenizer

from ssprompt_hf.models.sam3 import Sam3ForPromptedSegmentation
from ssprompt_hf.tuners.coop import CoOpConfig
from ssprompt_hf.tuners.ssprompt import SSPromptConfig


def answers(model) -> torch.Tensor:
    with torch.no_grad():
        return model(pixel_values=images(2)).class_maps


def trained(model, steps: int = 2) -> torch.nn.Module:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(
            pixel_values=images(2), class_indices=[torch.tensor([0, 2]), torch.tensor([3])]
        ).class_maps.sum().backward()
        optimizer.step()
    return model


def ssprompt(base) -> PeftModel:
    return get_peft_model(base, SSPromptConfig(class_names=CLASS_NAMES)).eval()


def test_untrained_disabled_and_no_adapter_are_the_same_to_the_bit():
    base = tiny_sam3()
    before = answers(base)
    model = ssprompt(base)
    assert torch.equal(answers(model), before)
    trained(model)
    after = answers(model)
    assert (after - before).abs().max() > 1e-5
    with model.disable_adapter():
        assert torch.equal(answers(model), before)
    assert torch.equal(answers(model), after)


def test_padding_of_class_tokens_stays_padding():
    base = tiny_sam3()
    padding = (base.class_tokens.weight == 0).all(-1)
    model = trained(ssprompt(base))
    with torch.no_grad():
        tokens = base.class_tokens.weight
    assert padding.any() and torch.equal((tokens == 0).all(-1), padding)
    assert not torch.equal(tokens, model.get_base_model().class_tokens.base_prompt)


def test_merged_saved_and_loaded(tmp_path):
    model = trained(ssprompt(tiny_sam3()))
    expected = answers(model)
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(answers(PeftModel.from_pretrained(tiny_sam3(), tmp_path / "adapter")), expected)
    merged = model.merge_and_unload()
    assert type(merged) is Sam3ForPromptedSegmentation
    torch.testing.assert_close(answers(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    loaded = Sam3ForPromptedSegmentation.from_pretrained(tmp_path / "merged")
    assert torch.equal(answers(aligned(loaded)), answers(merged))


@pytest.mark.parametrize("kind", ["sam3", "sam3_lite_text"])
def test_learned_words(kind):
    base = tiny_sam3(kind).requires_grad_(False)
    before = answers(base)
    config = CoOpConfig(num_context_tokens=3).tokenize(CLASS_NAMES, tokenizer(), base.class_template)
    model = get_peft_model(base, config).eval()
    first = answers(model)
    assert not torch.equal(first, before)
    trained(model)
    learned = answers(model)
    assert not torch.equal(learned, first)
    base.drop_text_encoder()
    assert torch.equal(answers(model), learned)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)


def test_adapters_by_the_functions_of_transformers(tmp_path):
    model = trained(ssprompt(tiny_sam3()))
    expected = answers(model)
    model.save_pretrained(tmp_path)
    base = tiny_sam3(class_names=["something", "else"])
    before = answers(base)
    base.load_adapter(tmp_path)
    assert torch.equal(answers(base), expected) and base.config.class_names == CLASS_NAMES
    base.disable_adapters()
    assert torch.equal(answers(base), before) and base.config.class_names == ["something", "else"]
