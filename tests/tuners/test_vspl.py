"""VSPL, and the visual sampler behind it; the point grid of SSPrompt beside it."""

import pytest
import torch
from method_models import adapted, base_model
from peft import PeftModel, get_peft_model
from prompted_seem import logits, pixels, same, train

from ssprompt_hf.errors import AdapterError
from ssprompt_hf.models.seem.prompting import grid_mask
from ssprompt_hf.tuners import VSPLConfig, point_grid_tokens


def coordinates(model) -> torch.Tensor:
    return model.get_base_model().model.point_coordinates().detach()


def test_untrained_points_are_a_regular_grid():
    points = coordinates(adapted("VSPL")).view(3, 3, 2)
    torch.testing.assert_close(points[0, :, 0], torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    torch.testing.assert_close(points[:, 0, 1], torch.tensor([1 / 6, 1 / 2, 5 / 6]))
    assert VSPLConfig().point_grid_size == 10


def test_tokens_are_those_of_strokes_at_the_same_places():
    base = base_model()
    features = base.get_image_features(pixels())
    strokes = base.get_spatial_prompts(features, grid_mask(64, 64, 4, (64, 64)).expand(2, 1, -1, -1))
    model = get_peft_model(base, VSPLConfig(point_grid_size=4))  # whose points are centres of pixels
    tokens = base.model.get_point_tokens(features, coordinates(model))
    for one, other in zip(tokens, strokes.tokens):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    mean = point_grid_tokens(base, [{"pixel_values": pixels()}], 4)
    torch.testing.assert_close(torch.stack([level.mean(0) for level in tokens]), mean, atol=1e-5, rtol=1e-5)


def test_points_depend_on_the_image_and_keep_off_its_padding():
    model = adapted("VSPL")
    images = pixels()
    images[:, :, 32:] = 0
    sizes = torch.tensor([[32, 64], [64, 64]])
    points = coordinates(model)
    base = model.get_base_model().model
    features = base.get_image_features(images)
    inside = base.get_point_tokens(features, points, sizes)
    halved = base.get_point_tokens(features, points * torch.tensor([1.0, 0.5]))
    whole = base.get_point_tokens(features, points)
    for one, two, three in zip(inside, halved, whole):
        torch.testing.assert_close(one, torch.stack([two[0], three[1]]))
        assert not torch.allclose(one[0], one[1])
    with torch.no_grad():
        one = model(pixel_values=images, image_sizes=sizes).masks_queries_logits
        two = model(pixel_values=images).masks_queries_logits
        batches = [model(pixel_values=images[i : i + 1], image_sizes=sizes[i : i + 1]) for i in range(2)]
    assert not torch.allclose(one[0], two[0]) and torch.allclose(one[1], two[1], atol=1e-4)
    torch.testing.assert_close(one, torch.cat([b.masks_queries_logits for b in batches]), atol=1e-3, rtol=1e-3)


def test_points_stay_inside_the_image_whatever_they_learn():
    model = train(adapted("VSPL"), steps=3, lr=1e6)
    points = coordinates(model)
    assert ((points >= 0) & (points <= 1)).all() and not torch.allclose(points, coordinates(adapted("VSPL")))
    assert torch.isfinite(logits(model)[1]).all()


def test_a_copy_of_the_object_queries_answers_for_each_point():
    model = adapted("VSPL")
    assert logits(model)[0].shape[1] == 9
    with model.disable_adapter():
        assert same(logits(model), logits(base_model()))


def test_models_that_points_cannot_be_learned_for(tmp_path):
    with pytest.raises(AdapterError, match="use_spatial_prompt_encoder=True"):
        get_peft_model(base_model(use_spatial_prompt_encoder=False), VSPLConfig())
    train(adapted("VSPL")).save_pretrained(tmp_path)
    lean = base_model()
    lean.model.spatial_prompt_encoder, lean.config.use_spatial_prompt_encoder = None, False
    with pytest.raises(AdapterError, match="use_spatial_prompt_encoder=True"):
        PeftModel.from_pretrained(lean, tmp_path)
    with pytest.raises(AdapterError, match="point_grid_size is 0"):
        VSPLConfig(point_grid_size=0)
    merged = adapted("SSPrompt on a point grid").merge_and_unload()
    with pytest.raises(AdapterError, match="merged with a point grid"):
        get_peft_model(merged, VSPLConfig())
