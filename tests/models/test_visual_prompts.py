"""Clicks, boxes and phrases: the answers are those of transformers' own model and processor, bit for bit."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_clipseg
import tiny_sam
import tiny_sam2
import tiny_sam3
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import Sam2Processor, Sam3Processor, SamProcessor
from transformers.models.sam3 import modeling_sam3
from transformers.utils import is_torchvision_available

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import AdapterError, SSPromptError, UnknownNameError
from ssprompt_hf.segmentation.policy import InferencePolicy
from ssprompt_hf.segmentation.prompted import parts_at, prompted_result
from ssprompt_hf.segmentation.tiles import MaskGeometry
from ssprompt_hf.segmentation.visual_prompts import PromptAnswer, read_prompts

POINTS = [[(30.0, 12.0)], [(10.5, 20.25), (70, 40)]]
LABELS = [[1], [1, 0]]
BOXES = [(5, 6, 40.5, 30), (20, 10, 80, 45)]


@pytest.fixture(scope="module")
def picture():
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (5, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 50), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Folders with nothing but a tokenizer."""
    folder = tmp_path_factory.mktemp("words")
    for name, module in (("sam3", tiny_sam3), ("clipseg", tiny_clipseg)):
        module.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def sam3(words):
    """Ours with an adapter, and transformers' model."""
    base = tiny_sam3.tiny_sam3()
    base.name_or_path = str(words / "sam3")
    plain = tiny_sam3.theirs(base)
    return SSPromptModel.from_pretrained(base), plain


def numbers(values):
    """Lists of floats, which transformers' processors take."""
    return np.asarray(values, dtype=float).tolist()


# SAM and SAM 2

SAMS = {
    "sam": (tiny_sam.tiny_sam, SamProcessor),
    "sam_hq": (tiny_sam.tiny_sam_hq, SamProcessor),
    "sam2": (tiny_sam2.tiny_sam2, Sam2Processor),
    "sam3_tracker": (tiny_sam2.tiny_tracker, Sam2Processor),
}


@pytest.fixture(scope="module", params=SAMS)
def sam(request):
    """Ours with an adapter, and transformers' model and processor."""
    make, processor_class = SAMS[request.param]
    base = make()
    plain = tiny_sam.theirs(base)
    model = SSPromptModel.from_pretrained(base)
    return model, plain, processor_class(image_processor=model.image_processor)


def their_inputs(processor, picture, **prompts):
    """Of a processor of transformers, whose own image processor may need torchvision, and the pixels of ours."""
    inputs = processor.image_processor(picture, return_tensors="pt")
    sizes = [[picture.height, picture.width]]
    return {"pixel_values": inputs["pixel_values"]} | dict(
        processor(original_sizes=sizes, return_tensors="pt", **prompts)
    )


@torch.no_grad()
def sam_answer(plain, processor, picture, multimask_output, **prompts):
    """Mask and score of one object."""
    if isinstance(processor, SamProcessor):
        inputs = dict(processor(images=picture, return_tensors="pt", **prompts))
    else:
        inputs = their_inputs(processor, picture, **prompts)
    original, reshaped = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes", None)
    inputs.pop("image_sizes", None)
    output = plain(**inputs, multimask_output=multimask_output)
    if reshaped is not None:
        masks = processor.post_process_masks(output.pred_masks, original, reshaped)[0]
    else:  # as Sam2ImageProcessor, which needs torchvision, has it
        masks = F.interpolate(output.pred_masks[0], original[0].tolist(), mode="bilinear", align_corners=False) > 0
    best = output.iou_scores[0, 0].argmax()
    return masks[0, best].numpy(), output.iou_scores[0, 0, best].item()


@pytest.mark.parametrize("kinds", [("points",), ("boxes",), ("points", "boxes")])
def test_sam_answers_as_in_transformers(sam, picture, kinds):
    model, plain, processor = sam
    given = {"points": {"points": POINTS, "labels": LABELS}, "boxes": {"boxes": BOXES}}
    result = model.predict(picture, **{name: value for kind in kinds for name, value in given[kind].items()})
    assert len(result.segments) == 2
    for index, segment in enumerate(result.segments):
        prompts = {}
        if "points" in kinds:
            prompts |= {"input_points": [[numbers(POINTS[index])]], "input_labels": [[LABELS[index]]]}
        if "boxes" in kinds:
            prompts |= {"input_boxes": [[numbers(BOXES[index])]]}
        mask, score = sam_answer(plain, processor, picture, kinds == ("points",) and index == 0, **prompts)
        assert 0 < mask.sum() < mask.size
        assert np.array_equal(segment.mask, mask) and segment.score == score and segment.object_index == index


def test_one_object_does_not_depend_on_the_others(sam, picture):
    model = sam[0]
    both = model.predict(picture, points=POINTS, labels=LABELS)
    for index, segment in enumerate(both.segments):
        (alone,) = model.predict(picture, points=POINTS[index], labels=LABELS[index]).segments
        assert np.array_equal(alone.mask, segment.mask) and alone.score == segment.score


def test_connected_parts_around_the_points(sam, picture):
    model = sam[0]
    whole, connected = (model.predict(picture, points=POINTS, labels=LABELS, connected=only) for only in (False, True))
    for index, (one, part) in enumerate(zip(whole.segments, connected.segments)):
        on_it = [point for point, label in zip(POINTS[index], LABELS[index]) if label]
        assert np.array_equal(part.mask, parts_at(one.mask, on_it)) and part.score == one.score


def test_the_image_encoder_runs_once(sam, picture, tmp_path, monkeypatch):
    model, base = sam[0], sam[0].get_base_model()
    picture.save(tmp_path / "a.png")
    direct = model.predict(str(tmp_path / "a.png"), points=POINTS, labels=LABELS)
    encoded = model.encode_image(str(tmp_path / "a.png"))
    monkeypatch.setattr(type(base), "encode_image", None)  # whoever runs it again fails
    for _ in range(2):
        result = model.predict(encoded, points=POINTS, labels=LABELS)
        assert np.array_equal(result.masks, direct.masks) and result.path == direct.path
        assert [one.score for one in result.segments] == [one.score for one in direct.segments]
    with pytest.raises(SSPromptError, match="points, boxes, scribbles and text"):
        model.predict(encoded)
    with pytest.raises(SSPromptError, match="encode it again"):
        SSPromptModel.from_pretrained(tiny_sam.tiny_sam()).predict(encoded, points=POINTS[0])


def test_sam_says_what_it_takes(sam, picture):
    with pytest.raises(SSPromptError, match=r"takes no text\. It takes points \(.*boxes"):
        sam[0].predict(picture, text="a car")
    with pytest.raises(SSPromptError, match="box_labels"):
        sam[0].predict(picture, boxes=BOXES[0], box_labels=0)


# SAM 3


def mean_colours(features, boxes, size):
    """In place of torchvision's `roi_align`, where there is none: of the same shape, and different for other boxes."""
    parts = [
        features[index, :, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].mean((1, 2))
        for index, image_boxes in enumerate(boxes)
        for x0, y0, x1, y1 in image_boxes.tolist()
    ]
    return torch.stack(parts)[..., None, None].expand(-1, -1, size, size)


@torch.no_grad()
@pytest.mark.parametrize("boxes", [None, BOXES])
def test_sam3_finds_what_transformers_finds(sam3, picture, boxes, monkeypatch):
    model, plain = sam3
    if boxes is not None and not is_torchvision_available():
        with pytest.raises(SSPromptError, match="need torchvision"):
            model.predict(picture, boxes=boxes)
        stub = SimpleNamespace(ops=SimpleNamespace(roi_align=mean_colours))
        monkeypatch.setattr(modeling_sam3, "torchvision", stub, raising=False)
        monkeypatch.setattr("ssprompt_hf.models.sam3.phrases.is_torchvision_available", lambda: True)
    processor = Sam3Processor(image_processor=model.image_processor, tokenizer=tiny_sam3.tokenizer())
    box_labels = None if boxes is None else [1, 0]
    phrases = ["a red car", None if boxes else "sky"]
    for phrase in phrases:
        inputs = {} if boxes is None else {"input_boxes": [numbers(boxes)], "input_boxes_labels": [box_labels]}
        inputs = their_inputs(processor, picture, text=phrase, **inputs)
        sizes = inputs.pop("original_sizes")
        output = plain(**inputs)
        with tiny_sam3.their_image_processor() as their_processor:
            (found,) = their_processor.post_process_instance_segmentation(
                None, output, threshold=0.1, target_sizes=sizes.tolist()
            )
        result = model.predict(picture, text=phrase, boxes=boxes, box_labels=box_labels, threshold=0.1, min_area=0)
        order = found["scores"].argsort(descending=True, stable=True)
        assert len(order) > 0
        assert [segment.score for segment in result.segments] == found["scores"][order].tolist()
        assert np.array_equal(result.masks, found["masks"][order].bool().numpy())
        assert {segment.label for segment in result.segments} == {phrase}
        assert {segment.object_index for segment in result.segments} == {None}
        assert {segment.name for segment in result.segments} == {phrase or "like the boxes"}


def test_phrases_may_be_missing(sam3, picture):
    model, _ = sam3
    scores = model.predict(picture, text=["car", "sky"], threshold=0).phrases
    between = sum(scores.values()) / 2
    result = model.predict(picture, text=["car", "sky"], threshold=between, min_area=0)
    worse = min(scores, key=scores.get)
    assert result.missing == [worse] and result.phrases == scores
    assert worse in repr(result) and {segment.label for segment in result.segments} == set(scores) - {worse}


@pytest.mark.parametrize("kind", ["sam3", "sam3_lite_text"])
def test_phrases_that_are_too_long(kind, words, picture):
    base = tiny_sam3.tiny_sam3(kind)
    base.name_or_path = str(words / "sam3")
    model = SSPromptModel.from_pretrained(base)
    with pytest.raises(SSPromptError, match=r"'x+' has 42 tokens, but SAM 3 reads at most 32: shorten it"):
        model.predict(picture, text="x" * 40)


def test_a_score_that_equals_the_threshold_is_kept(sam3, picture):
    model, _ = sam3
    scores = [one.score for one in model.predict(picture, text="car", threshold=0, min_area=0).segments]
    kept = model.predict(picture, text="car", threshold=scores[1], min_area=0).segments
    assert [one.score for one in kept] == [score for score in scores if score >= scores[1]]


def test_a_score_that_equals_the_threshold_of_the_model_is_dropped(picture):
    """As in `post_process_instance_segmentation` of transformers."""
    geometry = MaskGeometry((4, 4), (4, 4), (50, 90), "bilinear")
    answer = PromptAnswer(torch.ones(2, 4, 4), torch.tensor([0.75, 0.5]), geometry, phrase="car", threshold=0.5)
    found = [prompted_result([answer], picture, InferencePolicy(), value).segments for value in (None, 0.5)]
    assert [[one.score for one in segments] for segments in found] == [[0.75], [0.75, 0.5]]


def test_settings_are_checked_before_anything_is_asked(sam3, picture):
    model, _ = sam3
    for prompts in ({"text": "car"}, {}):
        for image_size in (0, 10**9):
            with pytest.raises(AdapterError, match=f"image_size is {image_size}; it must be at least 1"):
                model.predict(picture, image_size=image_size, **prompts)
        with pytest.raises(SSPromptError, match="batch_size is 0"):
            model.predict(picture, batch_size=0, **prompts)
        with pytest.raises(AdapterError, match="there is no adapter 'nope'; there are 'default'"):
            model.predict(picture, adapter="nope", **prompts)
    for value in ((1, 2), None):
        with pytest.raises(TypeError, match=r"predict\(\) got an unexpected keyword argument 'pionts'"):
            model.predict(picture, pionts=value)


def test_the_tokenizer_is_read_as_the_model_was(picture, tmp_path, monkeypatch):
    tiny_sam3.tiny_sam3().save_pretrained(tmp_path / "base")
    access = {"cache_dir": str(tmp_path / "cache"), "token": "secret", "local_files_only": True, "revision": "v1"}
    model = SSPromptModel.from_pretrained(tmp_path / "base", keep_prompt_encoders=True, **access)
    asked = {}

    def from_pretrained(name, **given):
        asked[name] = given
        return tiny_sam3.tokenizer()

    def find_source(name, **_):
        raise UnknownNameError(name)

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    model.get_base_model().name_or_path = "somebody/words"
    monkeypatch.setattr("ssprompt_hf.tuners.text.tokenizer.find_source", find_source)
    model.predict(picture, text="car")
    assert asked == {"somebody/words": access}
    assert "secret" not in repr(copy.deepcopy(model)._access)
    assert b"secret" not in pickle.dumps(model)


def test_a_base_model_without_a_name_can_be_given_one(picture, words):
    base = tiny_sam3.tiny_sam3()
    model = SSPromptModel.from_pretrained(base)
    with pytest.raises(AdapterError, match=r"does not say where its tokenizer is: .*set its name_or_path"):
        model.predict(picture, text="car")
    base.name_or_path = str(words / "sam3")
    assert model.predict(picture, text="car", threshold=0, min_area=0).segments


def test_text_needs_the_text_encoder(sam3, picture):
    model, _ = sam3
    base = model.get_base_model()
    parts = base.text_encoder, base.text_projection
    base.text_encoder = base.text_projection = None
    try:
        with pytest.raises(SSPromptError, match=r"text need the text encoder.*keep_prompt_encoders=True"):
            model.predict(picture, text="car")
    finally:
        base.text_encoder, base.text_projection = parts
    with pytest.raises(SSPromptError, match="takes no points"):
        model.predict(picture, points=(1, 2))


# CLIPSeg


@torch.no_grad()
def test_clipseg_answers_as_transformers_does(words, picture):
    base = tiny_clipseg.tiny_clipseg()
    base.name_or_path = str(words / "clipseg")
    model = SSPromptModel.from_pretrained(base)
    pixels = model.image_processor(picture, return_tensors="pt")["pixel_values"]
    phrases = ["a red car", "sky"]
    result = model.predict(picture, text=phrases, threshold=0, min_area=0)
    for segment, logits in zip(result.segments, tiny_clipseg.reference(base, pixels, phrases), strict=True):
        probabilities = logits.sigmoid()[None, None]
        mask = F.interpolate(probabilities, size=(50, 90), mode="bilinear", align_corners=False)[0, 0] > 0.5
        assert segment.score == probabilities.max().item()
        assert np.array_equal(segment.mask, mask.numpy())


# What users write


def test_parts_at_points():
    mask = np.zeros((4, 9), dtype=bool)
    mask[:2, :3] = mask[2, 3] = mask[:, 5] = mask[:, 7:] = True  # the first part touches the pixel by a corner
    first = mask.copy()
    first[:, 5:] = False
    assert np.array_equal(parts_at(mask, [(0, 0)]), first)
    both = mask.copy()
    both[:, 5] = False
    assert np.array_equal(parts_at(mask, np.array([[3.2, 1.8], [8.4, 3.4], [4, 0]])), both)
    assert np.array_equal(parts_at(mask, [(4, 0)]), mask)  # beside it: nothing tells which part is meant


def test_forms_of_prompts():
    size = (50, 90)
    one = read_prompts(size, points=(3, 4))
    assert one.num_objects == 1 and one.points[0].tolist() == [[3, 4]] and one.labels[0].tolist() == [1]
    assert read_prompts(size, points=np.array([[3, 4], [5, 6]]), labels=torch.tensor([1, 0])).labels[0].tolist() == [
        1,
        0,
    ]
    several = read_prompts(size, points=[[(3, 4)], [(5, 6), (7, 8)]], boxes=[(0, 0, 5, 5), (1, 1, 2, 2)])
    assert several.num_objects == 2 and several.object(1).boxes.tolist() == [[1, 1, 2, 2]]
    line = read_prompts(size, scribbles=[(1, 1), (5, 5)])
    assert line.scribbles[0][0].shape == (2, 2) and line.kinds == ["scribbles"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, "nothing to look for: give points, boxes, scribbles or text"),
        ({"points": (90.5, 3)}, r"points holds \(90.5, 3\), outside the image of 90x50 pixels"),
        ({"points": [[(1, 2)], [(-1, 2)]]}, r"\(-1, 2\), outside"),
        ({"points": "here"}, "points is 'here', nested 0 deep"),
        ({"points": [(1, 2, 3)]}, r"must hold \(x, y\)"),
        ({"points": (1, float("nan"))}, r"must hold \(x, y\)"),
        ({"points": (1, 2), "labels": 2}, "labels is 2"),
        ({"points": [(1, 2), (3, 4)], "labels": [1]}, "a number for each of points"),
        ({"points": (3, 3), "labels": [1, [0]]}, r"labels is \[1, \[0\]\]; it must hold a number for each of points"),
        ({"points": (3, 3), "labels": [None]}, r"labels is \[None\]"),
        ({"scribbles": [[[(1, 1), (5, 5)]], 5]}, "each object must have a list of lines"),
        ({"labels": [1]}, "labels were given without points"),
        ({"boxes": (5, 5, 1, 9)}, r"box \(5, 5, 1, 9\) must be left, top, right, bottom"),
        ({"boxes": (1, 2)}, "left, top, right, bottom"),
        ({"points": [[(1, 2)], [(3, 4)]], "boxes": (1, 1, 2, 2)}, "points of 2, boxes of 1 objects"),
        ({"text": ["car", " "]}, "a list of phrases that are not empty"),
        ({"text": []}, "text is"),
        ({"text": "car", "connected": True}, "parts of a mask that points lie on, but there are no points"),
    ],
)
def test_prompts_that_are_none(prompts, message):
    with pytest.raises(SSPromptError, match=message):
        read_prompts((50, 90), **prompts)
