"""The mask decoder against the plain arrangement of the official code, in float64."""

import make_small_reference
import pytest
import torch
from naive_decoder import NaiveDecoder
from seem_reference import assert_close_to_largest
from tiny_seem import ARCHITECTURES, images, phrases, strokes, tiny_seem

SETTINGS = {
    "v0": ("focal-dw-v0", {}),
    "v1": ("focal-v1", {}),
    "v1-pre-norm": ("focal-v1", {"pre_norm": True}),
    # The decoder projects the feature maps if its width is another one.
    "v1-projected": ("focal-v1", {"feature_size": 64, "mask_feature_size": 16}),
}
PHRASES = phrases([[5, 6, 7], [8]], [[9, 10, 11, 12, 13]])


@pytest.fixture(params=list(SETTINGS))
def model(request):
    architecture, config = SETTINGS[request.param]
    return tiny_seem(architecture, **config)


def close(actual, expected):
    assert_close_to_largest(actual, expected, tolerance=1e-10)


@torch.no_grad()
def test_objects_and_all_layers(model):
    output = model(pixel_values=images(), output_auxiliary_predictions=True)
    naive = NaiveDecoder(model, output.image_features).run()
    close(output.masks_queries_logits, naive.masks("object"))
    close(output.class_queries_logits, naive.class_logits(model.class_embeddings()))
    assert len(output.auxiliary_predictions) == len(naive.history) - 1 == 5
    for index, prediction in enumerate(output.auxiliary_predictions):
        close(prediction["masks_queries_logits"], naive.masks("object", after=index))
        close(prediction["class_queries_logits"], naive.class_logits(model.class_embeddings(), after=index))
    # Worth nothing if all queries looked everywhere, or nowhere.
    seen = (output.masks_queries_logits > 0).double().mean()
    assert 0.1 < seen < 0.9


@torch.no_grad()
def test_phrases_of_different_number_and_length(model):
    features = model.get_image_features(images())
    output = model(image_features=features, **PHRASES)
    naive = NaiveDecoder(model, features)
    naive.add_phrases(**PHRASES)
    expected = naive.run().phrase_masks()
    close(output.grounding_masks_logits[0], expected[0])
    close(output.grounding_masks_logits[1, :1], expected[1, :1])


@torch.no_grad()
def test_strokes_then_the_mask_as_memory(model):
    features = model.get_image_features(images())
    marks = strokes(num_objects=1 if model.config.decoder_version == "v0" else 3)
    marks["positive_prompt_masks"][1, -1] = False  # an object with negative strokes only
    naive = NaiveDecoder(model, features)
    naive.add_strokes(*marks.values())
    first = model(image_features=features, **marks).spatial_masks_logits
    close(first, naive.run().stroke_masks())
    naive = NaiveDecoder(model, features)
    naive.add_strokes(*marks.values(), previous_masks=first)
    second = model(image_features=features, **marks, previous_masks=first).spatial_masks_logits
    close(second, naive.run().stroke_masks())
    assert not torch.allclose(first, second)


@torch.no_grad()
def test_all_prompts_in_one_sequence(model):
    """In the naive sequence everything is together; that it does not mix is the mask's doing."""
    features = model.get_image_features(images())
    marks, previous = strokes(), torch.randn(2, 1, 16, 24, dtype=torch.float64)
    naive = NaiveDecoder(model, features)
    naive.add_phrases(**PHRASES)
    naive.add_strokes(*marks.values(), previous_masks=previous)
    naive.run()
    output = model(image_features=features, **PHRASES, **marks, previous_masks=previous, output_objects=True)
    close(output.masks_queries_logits, naive.masks("object"))
    close(output.class_queries_logits, naive.class_logits(model.class_embeddings()))
    close(output.grounding_masks_logits[0], naive.phrase_masks()[0])
    close(output.spatial_masks_logits, naive.stroke_masks())


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_recorded_results(architecture):
    """Nothing has changed since `make_small_reference.py` was run."""
    recorded = make_small_reference.load()
    actual = make_small_reference.results(architecture, recorded["image"])
    assert set(actual) == {name for name in recorded if name.startswith(f"{architecture}.")}
    for name, value in actual.items():
        assert_close_to_largest(value, recorded[name], tolerance=1e-9)
