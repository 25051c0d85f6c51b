"""SAM and SAM 2 answer for classes what transformers' own models answer for sets of points."""

import copy
import math

import pytest
import torch
from tiny_sam import NAMES, SIDE, grid_inputs, images, reference, tell_classes_apart, theirs, tiny_sam, tiny_sam_hq
from tiny_sam2 import tiny_sam2, tiny_tracker

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.fingerprint import model_fingerprint
from ssprompt_hf.models.sam.predictions import MIN_CONFIDENCE, class_maps
from ssprompt_hf.models.sam.prompting import grid_points
from ssprompt_hf.segmentation import tiles
from ssprompt_hf.training.losses import MatchingLoss, SemanticLoss

KINDS = {"sam": tiny_sam, "sam_hq": tiny_sam_hq, "sam2": tiny_sam2, "sam3_tracker": tiny_tracker}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def model(kind):
    return KINDS[kind]()


@pytest.mark.parametrize("settings", [{}, {"point_grid_size": 3}, {"num_class_tokens": 2}], ids=str)
def test_answers_are_those_of_transformers_to_the_bit(kind, settings):
    model = KINDS[kind](**settings)
    layout = {"grid_size": settings.get("point_grid_size", 4), "num_class_tokens": settings.get("num_class_tokens", 1)}
    expected = reference(model, images(2), **layout)
    with torch.no_grad():
        output = model(images(2))
    assert ("object_score_logits" in expected) == (kind in ("sam2", "sam3_tracker"))
    for name, values in expected.items():
        assert torch.equal(output[name], values), name
    assert output.masks_logits.std() > 0.1 and not torch.equal(output.masks_logits[0], output.masks_logits[3])
    assert output.image_of.tolist() == [0, 0, 0, 1, 1, 1] and output.class_of.tolist() == [0, 1, 2] * 2


def test_zero_shot_cannot_tell_classes_apart(model):
    with torch.no_grad():
        maps = model(images(1)).class_maps
        tell_classes_apart(model)
        other = model(images(1)).class_maps
    torch.testing.assert_close(maps, maps[:1].expand(3, -1, -1), rtol=1e-5, atol=1e-6)
    assert (other[0] - other[1]).abs().max() > 0.01


def test_one_class_alone_differs_by_rounding_only(model):
    tell_classes_apart(model)
    with torch.no_grad():
        together = model(images(1))
        model.class_chunk_size = 1
        alone = model(images(1))
        parts = [model(images(1), class_indices=[torch.tensor([index])]) for index in range(3)]
    for name in ("masks_logits", "iou_scores", "class_maps"):
        torch.testing.assert_close(alone[name], together[name], rtol=1e-5, atol=1e-5)
        assert torch.equal(alone[name], torch.cat([part[name] for part in parts]))


def test_an_image_does_not_depend_on_its_company(model):
    tell_classes_apart(model)
    with torch.no_grad():
        whole = model(images(2)).class_maps
        assert torch.equal(model(images(2)[1:]).class_maps, whole[3:])
        output = model(images(2), class_indices=[torch.tensor([2]), torch.tensor([2, 0])])
    assert output.class_of.tolist() == [2, 2, 0] and output.image_of.tolist() == [0, 1, 1]
    torch.testing.assert_close(output.class_maps, whole[[2, 5, 3]])
    scores = model.predictions(output)[0].class_scores()
    assert scores.shape == (2, 3, 16, 16) and not scores[0, :2].any()


def test_with_its_own_prompts_it_is_transformers_model(model, kind):
    other, inputs = theirs(model), grid_inputs(2, 1, 1)
    with torch.no_grad():
        for arguments in (inputs, {"input_boxes": torch.tensor([[[8.0, 8.0, 40.0, 50.0]]])}):
            output, expected = model(images(1), **arguments), other(images(1), **arguments)
            assert torch.equal(output.pred_masks, expected.pred_masks) and output.pred_masks.shape[2] == 3
        embeddings = {"image_embeddings": other.get_image_embeddings(images(1))}
        if kind == "sam_hq":  # it has two
            embeddings = dict(zip(("image_embeddings", "intermediate_embeddings"), embeddings["image_embeddings"]))
        output = model(**embeddings, **inputs, multimask_output=False)
        assert torch.equal(output.pred_masks, other(images(1), **inputs, multimask_output=False).pred_masks)


def test_features_say_all_that_pixels_say(model):
    tell_classes_apart(model)
    features = [model.image_features(pixels[None], "features") for pixels in images(2)]
    size = sum(t.numel() * t.element_size() for t in features[0].values())
    assert size == model.feature_bytes((SIDE, SIDE), "features")
    assert features[0]["padded_size"].tolist() == [SIDE, SIDE] and features[0]["padded_size"].dtype == torch.int64
    features = [{name: tensor.clone() for name, tensor in one.items()} for one in features]  # as from a file
    answers = []
    for inputs in ({"pixel_values": images(2)}, model.decoder_inputs(features, "cpu")):
        slots = [model.points, model.class_tokens]
        for slot in slots:
            slot.weight = slot.weight.detach().requires_grad_()
        output = model(**inputs, image_sizes=torch.tensor([[SIDE, SIDE]] * 2))
        output.class_maps.square().sum().backward()
        answers.append([output.class_maps, *(slot.weight.grad for slot in slots)])
    for a, b in zip(*answers):
        assert torch.equal(a, b)
    half = {name: t.half() if t.is_floating_point() else t for name, t in features[0].items()}
    assert {level.dtype for level in model.decoder_inputs([half])["vision_features"][0]} == {torch.float32}
    assert model.feature_stages(()) == ("features",)
    assert model.decoder_bytes((SIDE, SIDE), True) > model.decoder_bytes((SIDE, SIDE), False) > 0
    before = model.feature_settings()
    model.config.point_grid_size = 7
    assert model.feature_settings() == before


@pytest.mark.parametrize("slot", ["point_tokens", "point_coordinates"])
def test_gradients_are_those_of_finite_differences(model, slot):
    tell_classes_apart(model)
    model = model.double().requires_grad_(False)
    features = model.decoder_inputs([model.image_features(images(1).double())])
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(2, 16, 16, generator=generator).double()
    module = model.get_submodule(slot)
    if slot == "point_coordinates":
        values = grid_points(3).double() * 0.9
    else:
        values = model.points.weight.detach().clone()

    def loss(prompts):
        module.weight = prompts
        output = model(**features, image_sizes=torch.tensor([[40, SIDE]]), class_indices=[torch.tensor([2, 0])])
        extra = 0 if output.object_score_logits is None else output.object_score_logits.sum()
        return (output.class_maps * weights).sum() + output.iou_scores.sum() + extra

    learned = values.clone().requires_grad_()
    loss(learned).backward()
    direction = torch.randn(values.shape, generator=generator).double()
    with torch.no_grad():
        ends = [loss(values + sign * 1e-6 * direction) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-6
    assert difference.abs() > 1e-3
    torch.testing.assert_close((learned.grad * direction).sum(), difference, rtol=1e-5, atol=1e-7)


def test_forgotten_chunks_are_computed_again_to_the_bit(model):
    tell_classes_apart(model)
    answers = []
    for classes in ([torch.tensor([0, 1])], [torch.tensor([0, 1])] * 2):  # 2 pairs, which are kept, and 4
        model.class_chunk_size = 2
        model.class_tokens.weight = model.class_tokens.weight.detach().requires_grad_()
        output = model(images(1).expand(len(classes), -1, -1, -1), class_indices=classes)
        output.class_maps[:2].sum().backward()
        answers.append([output.class_maps[:2], model.class_tokens.weight.grad])
    for a, b in zip(*answers):
        assert torch.equal(a, b)


def test_points_by_token_and_by_coordinates(model):
    with torch.no_grad():
        grid = model(images(1)).class_maps
        model.point_coordinates.weight = grid_points(4)
        assert torch.equal(model(images(1)).class_maps, grid)
        # shares of the image, which fills the square of SAM 2 but not that of SAM
        narrow = model(images(1), image_sizes=torch.tensor([[SIDE // 2, SIDE]])).class_maps
        assert torch.equal(narrow, grid) == (not model.pads_images)
        model.point_coordinates.weight = None
        sizes = torch.tensor([[SIDE // 2, SIDE], [SIDE, SIDE]])
        tokens = model.point_prompts(images(2), sizes, 4)
        assert tokens.shape == (2, 16, 32) and torch.equal(tokens[1], model.points.weight)
        model.point_tokens.weight = tokens[0]
        assert torch.equal(model(images(1)).class_maps, narrow)
    assert model.point_shape(9) == (9, 32)
    model.check_points()


def test_default_points_are_no_part_of_the_files(model, tmp_path):
    assert not any(name.startswith("point") for name in model.state_dict())
    mark = model_fingerprint(model)
    default = model.points.weight
    model.points.weight = default + 1  # merged
    assert model_fingerprint(model) == mark
    model.points.weight = default.clone()  # and taken out again
    model.prompts_written()
    assert "points.weight" not in model.state_dict() and set(model.config.prompt_shapes) == {"class_tokens"}
    model.points.weight = default + 1
    model.save_pretrained(tmp_path)
    assert model_fingerprint(model) != mark
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded.points.weight, default + 1) and model_fingerprint(loaded) == model_fingerprint(model)


def test_a_copy_has_points_of_its_own(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.prompt_encoder.shared_embedding.positional_embedding.add_(1)
    assert not torch.equal(twin.points.weight, model.points.weight)
    assert twin.points.make_default.__self__ is twin


def test_scores_are_masks_times_confidence():
    masks, scores = torch.randn(3, 4, 4), torch.tensor([-0.5, 0.4, 1.3])
    maps = class_maps(masks, scores, None)
    confidence = torch.tensor([MIN_CONFIDENCE, 0.4, 1.0])[:, None, None]
    assert torch.equal(maps, masks.sigmoid() * confidence)
    objects = torch.tensor([0.0, 3.0, -3.0])
    confidence = confidence * objects.sigmoid()[:, None, None]
    assert torch.equal(class_maps(masks, scores, objects), masks.sigmoid() * confidence)
    assert class_maps(masks.bfloat16(), scores.bfloat16(), None).dtype == torch.float32


def test_predictions(model):
    tell_classes_apart(model)
    with torch.no_grad():
        output = model(images(2))
    (prediction,) = model.predictions(output)
    assert not prediction.supports_instances and (prediction.presence_logits is None) == model.pads_images
    one = prediction.image(1)
    assert type(one) is type(prediction) and torch.equal(one.maps, output.class_maps[3:])
    geometry = one.geometry((48, SIDE), (30, 40))
    # as their `post_process_masks`, but for the scores in place of logits
    maps = one.maps[None]
    if model.pads_images:
        maps = torch.nn.functional.interpolate(maps, (SIDE, SIDE), mode="bilinear", align_corners=False)[..., :48, :]
    maps = torch.nn.functional.interpolate(maps, (30, 40), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(tiles.resize_masks(one.maps, geometry), maps)
    assert (prediction.class_map(1, geometry) == maps.argmax(0)).float().mean() > 0.995
    assert prediction.prompt_parts(1).num_prompts == 0  # all prompts make the map of a class together
    labels = torch.zeros(2, SIDE, SIDE, dtype=torch.long)
    assert SemanticLoss("dice")(prediction, labels).shape == (2,)
    with pytest.raises(SSPromptError, match="no masks of single objects"):
        MatchingLoss(3)(prediction, [torch.tensor([0])] * 2, [torch.ones(1, SIDE, SIDE)] * 2, [0, 1])


def test_pixels_to_prediction_in_half_precision(model):
    half = model.bfloat16()
    assert half.points.weight.dtype == torch.bfloat16
    half.set_class_names(NAMES)
    prediction = half.predict_pixels(images(1).bfloat16(), torch.tensor([[SIDE, SIDE]]))
    assert prediction.maps.dtype == torch.float32
    expected = reference(half, images(1).bfloat16())
    with torch.no_grad():
        assert torch.equal(half(images(1).bfloat16()).masks_logits, expected["masks_logits"])


def test_slots_and_classes(model):
    assert model.semantic_slot == "class_tokens" and model.num_classes() == 3 and model.decodes_by_class
    sources = {source: model.spatial_slot(source) for source in ("object_queries", "point_grid", "coordinates")}
    assert list(sources.values()) == ["points", "point_tokens", "point_coordinates"]
    assert model.points.weight.shape == (16, 32) and model.semantic_shape(5) == (5, None, 32)
    assert model.config.thing_class_ids == [2] and model.config.id2label == dict(enumerate(NAMES))
    assert model.class_tokens.weight.shape == (3, 1, 32) and model.class_tokens.weight.ne(0).any(-1).all()
    assert torch.equal(model.prompt_vectors(model.class_tokens.weight), model.class_tokens.weight[:, 0])


def test_errors(model):
    title = model.model_title
    with pytest.raises(SSPromptError, match="class_names is empty"):
        model.set_class_names([])
    with pytest.raises(SSPromptError, match=f"32x64 pixels; this {title} takes 64x64"):
        model(images(1)[..., :32, :])
    with pytest.raises(SSPromptError, match="one of them"):
        model()
    for classes, message in (([], "for 0 images"), ([torch.tensor([3])], r"holds \[3\]"), ([[]], "at least one")):
        with pytest.raises(SSPromptError, match=message):
            model(images(1), class_indices=classes)
    model.class_chunk_size = 0
    with pytest.raises(SSPromptError, match="class_chunk_size is 0"):
        model(images(1))
    model.class_chunk_size = 1
    model.class_tokens.weight = None
    assert model.num_classes() == 0
    with pytest.raises(SSPromptError, match="call set_class_names"):
        model(images(1))
    with pytest.raises(SSPromptError, match="point_grid_size is 0"):
        KINDS[model.config.model_type](point_grid_size=0)


def test_grid_is_that_of_vspl():
    from ssprompt_hf.tuners.vspl.layer import grid_coordinates

    assert torch.equal(grid_points(5), grid_coordinates(5)) and math.isclose(float(grid_points(2)[0, 0]), 0.25)
