"""What is particular to prompts learned on SAM 3: padded tokens, and its small text encoders."""

import torch
from peft import PeftModel, get_peft_model
from tiny_sam3 import CLASS_NAMES, images, tiny_sam3, tokenizer

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


def test_padding_of_class_tokens_stays_padding():
    base = tiny_sam3()
    padding = (base.class_tokens.weight == 0).all(-1)
    model = trained(ssprompt(base))
    with torch.no_grad():
        tokens = base.class_tokens.weight
    assert padding.any() and torch.equal((tokens == 0).all(-1), padding)
    assert not torch.equal(tokens, model.get_base_model().class_tokens.base_prompt)


def test_learned_words_of_a_small_text_encoder():
    base = tiny_sam3("sam3_lite_text").requires_grad_(False)
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
