"""SAM 3 answers for lists of classes what transformers' own model answers for each of them."""

import pytest
import torch
from tiny_sam3 import (
    CLASS_NAMES,
    HEADS,
    PHRASES,
    images,
    phrase,
    reference,
    their_image_processor,
    theirs,
    tiny_sam3,
    tokenizer,
)

from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.models.sam3 import readings
from ssprompt_hf.models.sam3.readings import class_maps
from ssprompt_hf.segmentation import inference, tiles

KINDS = ("sam3", "sam3_lite_text")


def all_classes(model, count: int = 2) -> list[torch.Tensor]:
    return [torch.arange(model.num_classes())] * count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [{}, {"width": 64, "side": 224}], ids=["tiny", "larger"])
def test_answers_are_those_of_transformers_to_the_bit(kind, size):
    model = tiny_sam3(kind, **size)
    pixel_values = images(2, size.get("side", 56))
    expected = reference(model, pixel_values)
    with torch.no_grad():
        output = model(pixel_values, class_indices=all_classes(model))
    for name, values in expected.items():
        assert torch.equal(output[name], values), name
        assert values.std() > 1e-4
    assert output.image_of.tolist() == [0] * 4 + [1] * 4
    assert output.class_of.tolist() == [0, 1, 2, 3] * 2


def test_several_classes_at_once_differ_by_rounding_only():
    model = tiny_sam3(width=64, side=224)
    pixel_values = images(1, 224)
    with torch.no_grad():
        one, four = [], []
        for chunk_size, answers in ((1, one), (3, four)):
            model.class_chunk_size = chunk_size
            output = model(pixel_values, class_indices=all_classes(model, 1))
            answers.extend([output.class_maps, *(output[name] for name in HEADS)])
    for alone, together in zip(one, four):
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_with_phrases_it_is_transformers_own_model(kind):
    model = tiny_sam3(kind)
    plain, pixel_values = theirs(model), images(1)
    with torch.no_grad():
        model(images(1, 84))  # which must leave no trace
        calls = [model(pixel_values=pixel_values, **phrase("car")), model(pixel_values, None, *phrase("car").values())]
        expected = plain(pixel_values=pixel_values, **phrase("car"))
        vision = plain.get_vision_features(pixel_values)
        calls.append(model(vision_embeds=vision, **phrase("car")))
        calls.append(
            model(
                vision_embeds=vision,
                text_embeds=plain.get_text_features(**phrase("car")),
                attention_mask=phrase("car")["attention_mask"],
            )
        )
    for output in calls:
        assert type(output) is type(expected)
        for name in ("pred_masks", "pred_boxes", "pred_logits", "presence_logits", "semantic_seg"):
            assert torch.equal(output[name], expected[name])


@pytest.mark.parametrize("side", [84, 28])
def test_images_of_another_size_are_read_as_by_a_model_built_for_it(side):
    model = tiny_sam3()
    built = tiny_sam3(side=side)
    built.load_state_dict(model.state_dict())
    with torch.no_grad():
        first = model(images(1))
        output, expected = model(images(1, side)), reference(built, images(1, side))
        assert torch.equal(output.semantic_logits, expected["semantic_logits"])
        assert torch.equal(model(images(1)).class_maps, first.class_maps)


def test_positions_and_dtype_of_features():
    model = tiny_sam3()
    features = model.image_features(images(1), "features")
    vision = model.get_vision_features(images(1))
    for index, level in enumerate(vision.fpn_hidden_states[:-1]):
        assert torch.equal(features[f"fpn_{index}"], level)
        position = model.vision_encoder.neck.position_encoding(level.shape, level.device, level.dtype)
        assert torch.equal(position, vision.fpn_position_encoding[index])
    half = {name: t.half() if t.is_floating_point() else t for name, t in features.items()}
    (levels,) = model.decoder_inputs([half])["vision_features"]
    assert {level.dtype for level in levels} == {torch.float32}
    assert model.feature_modules("features") == [model.vision_encoder]
    assert model.feature_stages(()) == ("features",)


def test_an_image_does_not_depend_on_its_company_nor_a_class_on_the_others():
    model = tiny_sam3()
    with torch.no_grad():
        whole = model(images(2)).class_maps.unflatten(0, (2, 4))
        assert torch.equal(model(images(2)[1:]).class_maps, whole[1])
        output = model(images(2), class_indices=[torch.tensor([2]), torch.tensor([3, 0])])
        assert torch.equal(output.class_maps, torch.stack([whole[0, 2], whole[1, 3], whole[1, 0]]))
        (prediction,) = model.predictions(output)
        scores = prediction.class_scores()
        assert scores.shape == (2, 4, 16, 16)
        assert torch.equal(scores[1, 3], whole[1, 3]) and not scores[0, :2].any()


def test_forgotten_chunks_are_computed_again_to_the_bit(monkeypatch):
    model = tiny_sam3()
    answers = []
    for recompute in (False, True):
        model.checkpoint_chunks = recompute
        model.zero_grad()
        tokens = model.class_tokens.weight = model.class_tokens.weight.detach().requires_grad_()
        output = model(images(2), class_indices=all_classes(model))
        (output.class_maps.sum() + output.queries_logits.sum()).backward()
        answers.append([output.class_maps, tokens.grad, model.detr_decoder.query_embed.weight.grad])
    for a, b in zip(*answers):
        assert torch.equal(a, b)
    # by itself only if memory would not suffice
    model.checkpoint_chunks = None
    levels = model.decoder_inputs([model.image_features(images(1), "features")])["vision_features"][0]
    assert model._plan(levels, 4, True) == (1, False)
    monkeypatch.setattr("ssprompt_hf.models.sam3.memory.free_memory", lambda device: 2**10)
    assert model._plan(levels, 4, True) == (1, True)
    assert model._plan(levels, 4, False) == (1, False)


@pytest.mark.parametrize("reading", readings.READINGS)
def test_readings(reading):
    model = tiny_sam3()
    model.config.semantic_reading = reading
    with torch.no_grad():
        output = model(images(1), class_indices=all_classes(model, 1))
    semantic, scores, masks, presence = (output[name].sigmoid() for name in HEADS)
    expected = torch.zeros_like(semantic)
    if reading != "instances":
        expected = semantic
    if reading != "semantic":
        for query in range(6):
            expected = torch.maximum(expected, scores[:, query, None, None] * masks[:, query])
    torch.testing.assert_close(output.class_maps, expected * presence[:, None, None])
    assert output.class_maps.min() >= 0 and output.class_maps.max() <= 1
    half = [output[name].bfloat16() for name in HEADS]
    assert class_maps(*half[:3], half[3], reading).dtype == torch.float32


def test_instances_and_maps_are_those_of_transformers_post_processing():
    model = tiny_sam3()
    model.config.semantic_reading = "semantic"
    plain, size = theirs(model), (40, 60)
    with torch.no_grad():
        (prediction,) = model.predictions(model(images(2)))
    assert prediction.queries is None and prediction.supports_instances
    geometry = prediction.geometry((56, 56), size)
    for index, image in enumerate(images(2)):
        scored = prediction.instance_masks(index, set(range(4)), 1000)
        found = inference.instance_segmentation(scored, geometry)
        maps = tiles.resize_masks(prediction.image(index).maps, geometry)
        for label, text in enumerate(PHRASES):
            with torch.no_grad(), their_image_processor() as processor:
                output = plain(pixel_values=image[None], **phrase(text))
                (expected,) = processor.post_process_instance_segmentation(
                    None, output, readings.INSTANCE_SCORE_FLOOR, target_sizes=[size]
                )
                (semantic,) = processor.post_process_semantic_segmentation(
                    None, output, [size], return_segmentation_scores=True
                )
            mine = found.labels == label
            assert torch.equal(found.scores[mine], expected["scores"]) and len(expected["scores"]) > 0
            assert (found.masks[mine].long() != expected["masks"]).float().mean() < 1e-3
            scores = semantic["segmentation_scores"][0] * output.presence_logits.sigmoid()
            torch.testing.assert_close(maps[label], scores)


def test_only_the_best_instances_are_kept(monkeypatch):
    model = tiny_sam3()
    with torch.no_grad():
        everything = model(images(2)).instances
        monkeypatch.setattr(readings, "INSTANCES_PER_IMAGE", 5)
        best = model(images(2)).instances
    assert best.num_queries == 6 and best.image_of.tolist() == [0] * 5 + [1] * 5
    for image in range(2):
        scores = everything.scores[everything.image_of == image]
        kept = scores.topk(5).indices.sort().values
        for name in ("labels", "query_of", "scores", "masks_logits"):
            values = getattr(everything, name)[everything.image_of == image]
            assert torch.equal(getattr(best, name)[best.image_of == image], values[kept])
    monkeypatch.setattr(readings, "INSTANCE_SCORE_FLOOR", 1.0)
    with torch.no_grad():
        nothing = model(images(2)).instances
    assert len(nothing.scores) == 0 and nothing.masks_logits.shape == (0, 16, 16)


def test_what_an_output_holds():
    model = tiny_sam3()
    output = model(images(1))
    assert output.class_maps.requires_grad and output.instances is None and output.masks_logits.shape == (4, 6, 16, 16)
    (prediction,) = model.predictions(output)
    assert prediction.queries.masks_logits is output.masks_logits and prediction.num_classes == 4
    with torch.no_grad():
        assert model(images(1)).masks_logits is None
        both = model(images(1), class_indices=[torch.tensor([1])], output_auxiliary_predictions=True)
        assert both.masks_logits is not None and both.instances is not None
        prediction = model.predict_pixels(images(2), torch.tensor([[56, 56]] * 2))
        assert prediction.batch_size == 2
        labels = prediction.class_map(1, prediction.geometry((56, 56), (30, 50)))
        assert labels.shape == (30, 50)


def test_half_precision():
    model = tiny_sam3().bfloat16()
    assert model.class_tokens.weight.dtype == torch.bfloat16
    model.set_class_names(CLASS_NAMES, tokenizer())  # now made in half precision
    with torch.no_grad():
        output = model(images(1))
    assert output.class_maps.dtype == torch.float32 and output.semantic_logits.dtype == torch.bfloat16
    expected = reference(model, images(1))
    assert torch.equal(output.semantic_logits, expected["semantic_logits"])


def test_slots():
    model = tiny_sam3()
    assert model.semantic_slot == "class_tokens" and model.spatial_slot("object_queries") == "object_queries"
    assert model.decodes_by_class and model.num_classes() == 4 and model.semantic_shape(3) == (3, None, 16)
    assert model.get_submodule(model.prompt_slots["object_queries"].path).weight.shape == (6, 16)
    with pytest.raises(AdapterError, match="no spatial prompts of the kind 'point_grid'"):
        model.spatial_slot("point_grid")
    with pytest.raises(AdapterError, match="VSPL"):
        model.check_points()
    with pytest.raises(AdapterError, match="no points"):
        model.point_prompts(images(1), torch.tensor([[56, 56]]), 4)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "pass pixel_values or vision_features"),
        ({"pixel_values": images(2), "vision_features": []}, "one of them"),
        ({"pixel_values": images(1), "class_indices": [[0], [1]]}, "for 2 images, but there are 1"),
        ({"pixel_values": images(1), "class_indices": [[4]]}, r"holds \[4\]; an image needs .* 0 to 3"),
        ({"pixel_values": images(1), "class_indices": [[-1]]}, r"\[-1\]"),
        ({"pixel_values": images(1), "class_indices": [[]]}, "at least one"),
        ({"pixel_values": images(1)[..., :42]}, "56x42 pixels; SAM 3 takes squares .* multiple of 14"),
        ({"pixel_values": images(1, 42)[..., :40, :40]}, "40x40"),
    ],
)
def test_wrong_inputs(arguments, message):
    with pytest.raises(SSPromptError, match=message):
        tiny_sam3()(**arguments)


def test_wrong_settings_and_prompts():
    model = tiny_sam3()
    model.class_chunk_size = 0
    with pytest.raises(SSPromptError, match="class_chunk_size is 0"):
        model(images(1))
    model.class_chunk_size = None
    model.config.semantic_reading = "best"
    with pytest.raises(SSPromptError, match="'best'; it must be one of fused, semantic, instances"):
        model(images(1))
    model.config.semantic_reading = "fused"
    model.class_tokens.weight[2] = 0
    with pytest.raises(SSPromptError, match=r"class prompts \[2\] are all zeros"):
        model(images(1))
    with pytest.raises(SSPromptError, match="call set_class_names"):
        tiny_sam3(class_names=None)(images(1))
    with pytest.raises(SSPromptError, match="name at least one class"):
        model.set_class_names([], tokenizer())
