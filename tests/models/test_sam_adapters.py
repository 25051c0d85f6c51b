"""Prompts of SAM and SAM 2 under adapters of every method."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny_sam import NAMES, SIDE, images, tiny_sam
from tiny_sam2 import tiny_sam2

from ssprompt_hf import SSPromptConfig, VSPLConfig
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.tuners.ssprompt import point_grid_tokens

MAKERS = {"sam": tiny_sam, "sam2": tiny_sam2}
CONFIGS = {
    "semprompt": SSPromptConfig(spatial_embedding=False, spatial_weight=False, weight_per_token=True),
    "vspl": VSPLConfig(point_grid_size=4),
}
LEARNED = {
    "semprompt": {"class_tokens"},
    "vspl": {"point_coordinates"},
}


@pytest.fixture(params=MAKERS)
def model(request):
    return MAKERS[request.param]()


@torch.no_grad()
def answers(model) -> torch.Tensor:
    return model(images(2), image_sizes=torch.tensor([[SIDE, SIDE], [SIDE // 2, SIDE]])).class_maps


@torch.no_grad()
def learn(model, adapter: str | None = None) -> None:
    """Move everything that is learned."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("method", CONFIGS)
def test_untrained_disabled_merged_and_saved(model, method, tmp_path):
    before, mark = answers(model), model_fingerprint(model)
    wrapped = get_peft_model(model, CONFIGS[method])
    if method == "vspl":  # its points pass a logit, and are shares of the image, which does not fill SAM's square
        filled = slice(3 if model.pads_images else 6)
        torch.testing.assert_close(answers(wrapped)[filled], before[filled], rtol=1e-4, atol=1e-5)
    else:
        assert torch.equal(answers(wrapped), before)
    paths = {name.split(".")[2] for name, p in wrapped.named_parameters() if p.requires_grad}
    assert paths == LEARNED[method]
    learn(wrapped)
    learned = answers(wrapped)
    assert not torch.allclose(learned, before)
    with wrapped.disable_adapter():
        assert torch.equal(answers(wrapped), before)
    wrapped.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").stat().st_size < 20_000
    other = MAKERS[model.config.model_type](class_names=None)
    again = PeftModel.from_pretrained(other, tmp_path)
    assert torch.equal(answers(again), learned) and other.config.class_names == NAMES
    wrapped.merge_adapter()
    assert model_fingerprint(model) == mark
    torch.testing.assert_close(answers(wrapped), learned)
    wrapped.unmerge_adapter()
    assert torch.equal(answers(wrapped), learned) and model_fingerprint(model) == mark
    merged = wrapped.merge_and_unload()
    torch.testing.assert_close(answers(merged), learned)
    merged.save_pretrained(tmp_path / "merged")
    # weights lie elsewhere in memory when they come from a file, and products are rounded differently there
    loaded = copy.deepcopy(type(merged).from_pretrained(tmp_path / "merged"))
    assert torch.equal(answers(loaded), answers(merged)) and loaded.config.class_names == NAMES
    moved = {"points", "point_tokens", "point_coordinates"} & set(loaded.config.prompt_shapes)
    assert moved == LEARNED[method] - {"class_tokens"}
    assert (model_fingerprint(merged) == mark) == ("points" not in moved)


def test_a_default_grid_of_another_size_is_refused(model, tmp_path):
    get_peft_model(model, SSPromptConfig()).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"has shape \(16, 32\).*need \(4, 32\)"):
        PeftModel.from_pretrained(MAKERS[model.config.model_type](point_grid_size=2), tmp_path)


def test_a_grid_of_another_size_belongs_to_the_adapter(model, tmp_path):
    config = SSPromptConfig(spatial_source="point_grid", point_grid_size=3)
    wrapped = get_peft_model(model, config)
    batches = [{"pixel_values": images(1), "image_sizes": torch.tensor([[SIDE // 2, SIDE]])}]
    wrapped.base_model.set_point_tokens(point_grid_tokens(model, batches, 3))
    sizes = torch.tensor([[SIDE // 2, SIDE]])
    expected = model.point_prompts(images(1), sizes, 3)[0]
    assert torch.equal(model.point_tokens.weight, expected)
    learn(wrapped)
    wrapped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(MAKERS[model.config.model_type](class_names=None), tmp_path)
    assert torch.equal(answers(again), answers(wrapped))
