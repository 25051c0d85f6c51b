"""Clicks, boxes, scribbles and phrases of SEEM: the official answers, made to agree with the clicks."""

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_seem import small_seem, word_tokenizer

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.loading import load_base_model
from ssprompt_hf.models.seem.click_refinement import MARGIN, Clicks
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.models.seem.processing_seem import SeemProcessor

POINTS, LABELS = [[(30.0, 12.0)], [(10.5, 20.25), (70, 40)]], [[1], [1, 0]]


@pytest.fixture(scope="module")
def picture():
    coarse = np.random.default_rng(0).integers(0, 255, (5, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 50), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    word_tokenizer().save_pretrained(folder)
    base = small_seem()
    base.name_or_path = str(folder)
    processor = SeemImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return SSPromptModel(
        base, SSPromptModel.from_pretrained(small_seem()).peft_config["default"], image_processor=processor
    )


@pytest.fixture
def official(model, monkeypatch):
    monkeypatch.setattr(model.get_base_model(), "refines_clicks", False)
    return SeemProcessor(model.image_processor, word_tokenizer())


def official_masks(model, processor, picture, **prompts):
    inputs = processor(images=picture, return_tensors="pt", **prompts)
    with torch.no_grad(), model.disable_adapter():
        output = model.get_base_model()(**inputs)
    post_process = processor.post_process_grounding if "text" in prompts else processor.post_process_spatial
    return post_process(output)[0].numpy()


@pytest.mark.parametrize(
    ("prompts", "theirs"),
    [
        (
            {"points": POINTS, "labels": LABELS},
            [{"input_points": [[one]], "input_labels": [[label]]} for one, label in zip(POINTS, LABELS)],
        ),
        ({"boxes": (5, 6, 40, 30)}, [{"input_boxes": [[[5, 6, 40, 30]]]}]),
        ({"scribbles": [(5, 6), (40, 30)]}, [{"input_scribbles": [[[[(5, 6), (40, 30)]]]]}]),
        ({"text": ["the sky", "car"], "threshold": 0.0, "min_area": 0}, [{"text": "the sky"}, {"text": "car"}]),
    ],
)
def test_without_refinement_masks_are_the_official_ones(model, official, picture, prompts, theirs):
    result = model.predict(picture, **prompts)
    assert len(result.segments) == len(theirs)
    for segment, one in zip(result.segments, theirs):
        (mask,) = official_masks(model, official, picture, **one)
        assert np.array_equal(segment.mask, mask)
        assert 0 <= segment.score <= 1


def test_learned_prompts_play_no_part(model, picture):
    questions = {"points": POINTS, "labels": LABELS, "text": "car", "threshold": 0.0, "min_area": 0}
    before = model.predict(picture, **questions)
    classes = model.predict(picture).class_map
    learned = [one for name, one in model.named_parameters() if "ssprompt_embedding" in name]
    kept = [one.detach().clone() for one in learned]
    with torch.no_grad():
        for one in learned:
            one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(1)), alpha=3)
    after = model.predict(picture, **questions)
    assert not np.array_equal(model.predict(picture).class_map, classes)
    with torch.no_grad():
        for one, old in zip(learned, kept):
            one.copy_(old)
    assert np.array_equal(before.masks, after.masks)
    assert [one.score for one in before.segments] == [one.score for one in after.segments]


def test_clicks_and_phrases_together(model, picture):
    result = model.predict(picture, points=(30, 12), text="car", threshold=0.0, min_area=0)
    assert [(one.object_index, one.label) for one in result.segments] == [(0, None), (None, "car")]
    assert result.overlay(legend=True).height > 50 and result.overlay().size == (90, 50)


def test_a_missing_encoder_is_named(model, picture):
    inner = model.get_base_model().model
    sampler, inner.spatial_prompt_encoder = inner.spatial_prompt_encoder, None
    with pytest.raises(SSPromptError, match="boxes need the visual sampler"):
        model.predict(picture, boxes=(1, 1, 5, 5))
    inner.spatial_prompt_encoder = sampler


def test_the_visual_sampler_stays_where_there_is_one(tmp_path):
    small_seem().save_pretrained(tmp_path / "whole")
    small_seem(use_spatial_prompt_encoder=False).save_pretrained(tmp_path / "lean")
    assert load_base_model(tmp_path / "whole")[0].model.spatial_prompt_encoder is not None
    assert load_base_model(tmp_path / "lean")[0].model.spatial_prompt_encoder is None
    with pytest.raises(AdapterError, match="without its visual sampler"):
        load_base_model(tmp_path / "lean", {"spatial"})


# Masks that obey clicks


def clicked(labels, mask_logits, positions=((0.125, 0.25), (0.8, 0.9))):
    """What becomes of a mask on a grid of 8 x 8, of which the left half looks like one thing and the right half like
    another."""
    features = torch.zeros(2, 8, 8)
    features[0, :, :4] = features[1, :, 4:] = 1
    clicks = Clicks(features, np.array(positions), np.array(labels), (1.0, 1.0))
    return clicks, clicks.obeyed_by(mask_logits)[0]


def test_a_mask_that_agrees_with_the_clicks_stays():
    mask = torch.full((1, 8, 8), -MARGIN)
    mask[..., :4] = MARGIN
    assert torch.equal(clicked([1, 0], mask)[1], mask[0])


def test_a_click_corrects_what_is_near_and_alike():
    mask = torch.full((1, 8, 8), -1.0)
    corrected = clicked([1, 0], mask)[1]
    assert corrected[2, 1] > 0.9 * MARGIN and corrected[1, 1] > 0
    assert (corrected[:, 4:] < 0).all()  # near, but not alike
    assert corrected[7, 0] < corrected[3, 0]  # alike, but not near


def test_the_candidate_that_needs_less_correction_is_taken():
    wrong, nearly = torch.full((8, 8), -3.0), torch.full((8, 8), -3.0)
    nearly[:, :4] = 1.0
    clicks, mask = clicked([1, 0], torch.stack([wrong, nearly]))
    assert torch.equal(mask, nearly + clicks.correction(nearly)[0])
