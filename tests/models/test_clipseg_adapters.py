"""What is particular to prompts learned on CLIPSeg: the default offsets are zeros."""

import pytest
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_clipseg import CLASS_NAMES, tiny_clipseg

from ssprompt_hf.tuners.ssprompt import SSPromptConfig


def ssprompt(base, **config) -> PeftModel:
    return get_peft_model(base, SSPromptConfig(class_names=CLASS_NAMES, **config)).eval()


@pytest.mark.parametrize("learns_offsets", [True, False])
def test_no_file_needs_to_say_that_default_offsets_are_zeros(learns_offsets, tmp_path):
    ssprompt(tiny_clipseg(), spatial_embedding=learns_offsets, spatial_weight=learns_offsets).save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    learned = {f"base_model.model.token_offsets.ssprompt_{part}" for part in ("embedding", "weight")}
    assert {name for name in names if "token_offsets" in name} == (learned if learns_offsets else set())


def test_learning_rates_of_prompts_that_begin_as_zeros():
    model = ssprompt(tiny_clipseg()).get_base_model()
    assert model.token_offsets.learning_rate_scale("default", "ssprompt_embedding") == 1.0
    size = model.class_embeddings.base_prompt.square().mean().sqrt()
    assert model.class_embeddings.learning_rate_scale("default", "ssprompt_embedding") == pytest.approx(float(size))
