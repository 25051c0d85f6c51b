"""CLIPSeg answers for lists of classes what transformers' own model answers for each of them."""

import pytest
import torch
from tiny_clipseg import CLASS_NAMES, PHRASES, aligned, images, phrase, reference, theirs, tiny_clipseg, tokenizer

from ssprompt_hf.errors import AdapterError, SSPromptError


def offsets(seed: int = 0, scale: float = 0.5) -> torch.Tensor:
    return scale * torch.randn(17, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [64, 32, 48, 96])  # the model was built for 32
def test_answers_are_those_of_transformers_to_the_bit(side):
    model, pixel_values = tiny_clipseg(), images(2, side)
    with torch.no_grad():
        output = model(pixel_values=pixel_values)
    assert torch.equal(output.logits, reference(model, pixel_values))
    assert output.logits.shape == (8, side, side)
    assert output.image_of.tolist() == [0] * 4 + [1] * 4 and output.class_of.tolist() == [0, 1, 2, 3] * 2
    assert (output.logits[0] - output.logits[1]).std() > 0.1


def test_several_classes_at_once_differ_by_rounding_only():
    model = tiny_clipseg()
    with torch.no_grad():
        one = model(pixel_values=images(2)).logits
        model.class_chunk_size = 3
        torch.testing.assert_close(model(pixel_values=images(2)).logits, one, rtol=1e-4, atol=1e-4)
    assert model._chunk_size(torch.device("cuda")) == 3
    model.class_chunk_size = None
    assert [model._chunk_size(torch.device(device)) for device in ("cpu", "cuda")] == [1, 32]


def test_with_something_to_look_for_it_is_transformers_own_model():
    model, pixel_values = tiny_clipseg(), images(2)
    plain, texts = theirs(model), {name: value.repeat(2, 1) for name, value in phrase("car").items()}
    conditions = [
        texts,
        texts | {"labels": torch.zeros(2, 64, 64)},
        {"conditional_embeddings": torch.ones(2, 12)},
        {"conditional_pixel_values": images(2, seed=5)},
    ]
    with torch.no_grad():
        for condition in conditions:
            expected, output = (m(pixel_values=pixel_values, **condition) for m in (plain, model))
            assert type(output) is type(expected) and torch.equal(output.logits, expected.logits)
            assert output.loss == expected.loss
        arguments = (texts["input_ids"], pixel_values, None, None, texts["attention_mask"])
        assert torch.equal(model(*arguments).logits, plain(*arguments).logits)
        model.token_offsets.weight = offsets()
        assert not torch.equal(model(*arguments).logits, plain(*arguments).logits), "prompts are in force there, too"


def test_offsets_are_added_to_the_tokens_of_the_deepest_layer():
    """Written out once more: a decoder whose first linear layer has an output that was moved."""
    model, pixel_values = tiny_clipseg(), images(1)
    plain = theirs(model)
    plain.decoder.reduces[0].register_forward_hook(lambda module, args, output: output + offsets())
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
        model.token_offsets.weight = offsets()
        after = model(pixel_values=pixel_values).logits
        expected = torch.cat([plain(pixel_values=pixel_values, **phrase(text)).logits for text in PHRASES])
        assert torch.equal(after, expected) and (after - before).abs().max() > 0.1
        # the classes read them in their own ways
        moved = after - before
        assert (moved[0] - moved[1]).std() > 0.1 * moved.std()
        assert torch.equal(aligned(model)(pixel_values=pixel_values).logits, after), "a copy reads its own prompts"
        copied = aligned(model)
        copied.token_offsets.weight = torch.zeros(17, 8)
        assert torch.equal(copied(pixel_values=pixel_values).logits, before)


def test_offsets_of_an_image_of_another_size():
    model = tiny_clipseg()
    model.token_offsets.weight = offsets()
    added = model._add_offsets(None, (), torch.zeros(1, 37, 8))[0]
    assert torch.equal(added[0], offsets()[0])
    places = added[1:].unflatten(0, (6, 6)).permute(2, 0, 1)[None]
    expected = offsets()[1:].unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(expected, size=(6, 6), mode="bicubic", align_corners=False)
    torch.testing.assert_close(places, expected)
    # equal places stay equal
    model.token_offsets.weight = torch.ones(17, 8)
    torch.testing.assert_close(model._add_offsets(None, (), torch.zeros(1, 5, 8)), torch.ones(1, 5, 8))


def test_features_are_what_the_decoder_reduces():
    model, pixel_values = tiny_clipseg(), images(1)
    features, other = model.image_features(pixel_values, "features"), theirs(model)
    with torch.no_grad():
        plain = other.clip.vision_model(pixel_values, output_hidden_states=True).hidden_states
        for index, layer in enumerate((1, 2, 3)):
            reduced = other.decoder.reduces[2 - index](plain[layer + 1])
            assert torch.equal(features[f"activation_{index}"], reduced) and reduced.shape == (1, 17, 8)


def test_layers_that_nobody_reads_are_not_computed():
    model, seen = tiny_clipseg(), []
    for index, layer in enumerate(model.clip.vision_model.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: seen.append(index))
    model.image_features(images(1))
    assert seen == [0, 1, 2, 3]  # of five


def test_what_features_depend_on():
    model = tiny_clipseg()
    modules = [model.clip.vision_model, model.decoder.reduces]
    assert model.feature_modules("features") == modules and model.feature_stages(()) == ("features",)
    settings = model.feature_settings()
    model.drop_text_encoder()
    model.name_classes(["a"])
    assert model.feature_settings() == settings and settings["extract_layers"] == [1, 2, 3]
    half = {name: t.half() if t.is_floating_point() else t for name, t in model.image_features(images(1)).items()}
    (levels,) = model.decoder_inputs([half])["activations"]
    assert {level.dtype for level in levels} == {torch.float32}
    assert 0 < model.decoder_bytes((64, 64), False) < model.decoder_bytes((64, 64), True)


def test_an_image_does_not_depend_on_its_company_nor_a_class_on_the_others():
    model = tiny_clipseg()
    with torch.no_grad():
        whole = model(pixel_values=images(2)).logits.unflatten(0, (2, 4))
        assert torch.equal(model(pixel_values=images(2)[1:]).logits, whole[1])
        output = model(pixel_values=images(2), class_indices=[torch.tensor([2]), torch.tensor([3, 0])])
    assert torch.equal(output.logits, torch.stack([whole[0, 2], whole[1, 3], whole[1, 0]]))
    (prediction,) = model.predictions(output)
    scores = prediction.class_scores()
    assert scores.shape == (2, 4, 64, 64)
    assert torch.equal(scores[1, 3], whole[1, 3].sigmoid()) and not scores[0, :2].any()


def test_predictions_are_maps_without_instances():
    model = tiny_clipseg()
    output = model(pixel_values=images(1), output_auxiliary_predictions=True)
    (prediction,) = model.predictions(output)
    assert torch.equal(prediction.maps, output.logits.sigmoid()) and prediction.maps.requires_grad
    assert not prediction.supports_instances and prediction.presence_logits is None and prediction.num_classes == 4
    prediction = model.predict_pixels(images(2), torch.tensor([[64, 64]] * 2))
    labels = prediction.class_map(1, prediction.geometry((64, 64), (30, 50)))
    assert prediction.batch_size == 2 and labels.shape == (30, 50) and not prediction.maps.requires_grad


def test_half_precision():
    model = tiny_clipseg().bfloat16()
    assert model.class_embeddings.weight.dtype == model.token_offsets.weight.dtype == torch.bfloat16
    model.set_class_names(CLASS_NAMES, tokenizer())  # now made in half precision
    with torch.no_grad():
        output = model(pixel_values=images(1))
    assert output.logits.dtype == torch.bfloat16 and model.predictions(output)[0].maps.dtype == torch.float32
    assert torch.equal(output.logits, reference(model, images(1)))


def test_slots():
    model = tiny_clipseg()
    assert model.semantic_slot == "class_embeddings" and model.spatial_slot("object_queries") == "token_offsets"
    assert model.decodes_by_class and model.num_classes() == 4 and model.semantic_shape(3) == (3, 12)
    assert torch.equal(model.token_offsets.weight, torch.zeros(17, 8))
    with pytest.raises(AdapterError, match="no spatial prompts of the kind 'point_grid'"):
        model.spatial_slot("point_grid")
    with pytest.raises(AdapterError, match="VSPL"):
        model.check_points()
    with pytest.raises(AdapterError, match="no points"):
        model.point_prompts(images(1), torch.tensor([[64, 64]]), 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "pass pixel_values or activations"),
        ({"pixel_values": images(2), "activations": []}, "one of them"),
        ({"pixel_values": images(1), "class_indices": [[0], [1]]}, "for 2 images, but there are 1"),
        ({"pixel_values": images(1), "class_indices": [[4]]}, r"holds \[4\]; an image needs .* 0 to 3"),
        ({"pixel_values": images(1), "class_indices": [[-1]]}, r"\[-1\]"),
        ({"pixel_values": images(1), "class_indices": [[]]}, "at least one"),
        ({"pixel_values": images(1)[..., :48]}, "64x48 pixels; CLIPSeg takes squares .* multiple of 16"),
        ({"pixel_values": images(1)[..., :40, :40]}, "40x40"),
    ],
)
def test_wrong_inputs(arguments, message):
    with pytest.raises(SSPromptError, match=message):
        tiny_clipseg()(**arguments)


def test_wrong_settings_and_prompts():
    model = tiny_clipseg()
    model.class_chunk_size = 0
    with pytest.raises(SSPromptError, match="class_chunk_size is 0"):
        model(pixel_values=images(1))
    with pytest.raises(SSPromptError, match="call set_class_names"):
        tiny_clipseg(class_names=None)(pixel_values=images(1))
    with pytest.raises(SSPromptError, match="name at least one class"):
        model.set_class_names([], tokenizer())
