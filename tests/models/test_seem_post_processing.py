"""Post-processing against the official results, and against the plain computation on whole masks."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from class_scores import semantic_scores
from conftest import reference_models
from safetensors.torch import load_file
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline
from transformers.utils import ModelOutput

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.segmentation import tiles as tiles_module
from ssprompt_hf.segmentation.inference import class_map, instances, panoptic
from ssprompt_hf.segmentation.policy import InferencePolicy
from ssprompt_hf.segmentation.predictions import QueryPrediction
from ssprompt_hf.segmentation.tiles import MaskGeometry, mask_tiles, resize_masks

GEOMETRY = MaskGeometry(padded_size=(64, 96), image_size=(60, 80), target_size=(45, 61))


@pytest.fixture(params=[(13, 40), (1024, 2048)], ids=["many_tiles", "one_tile"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(tiles_module, "TILE_SIZE", request.param)


@pytest.fixture
def logits():
    """Class logits (2, 13, 6) and smooth mask logits (2, 13, 16, 24) of 5 classes."""
    generator = torch.Generator().manual_seed(0)
    classes = 3 * torch.randn(2, 13, 6, generator=generator, dtype=torch.float64)
    masks = 5 * torch.randn(2, 13, 4, 6, generator=generator, dtype=torch.float64)
    return classes, F.interpolate(masks, size=(16, 24), mode="bicubic")


def prediction_of(class_logits, mask_logits) -> QueryPrediction:
    return QueryPrediction(class_logits, mask_logits, GEOMETRY.padded_size)


def output_of(class_logits, mask_logits, **extra) -> ModelOutput:
    return ModelOutput(
        class_queries_logits=class_logits,
        masks_queries_logits=mask_logits,
        padded_size=(64, 96),
        image_sizes=torch.tensor([[60, 80], [64, 90]]),
        **extra,
    )


@pytest.mark.parametrize("folder", reference_models(), ids=lambda folder: folder.name)
def test_equals_official(folder, tiles):
    spec, expected = json.loads((folder / "spec.json").read_text()), load_file(folder / "expected.safetensors")
    settings, divisor = spec["hyperparameters"], spec["hyperparameters"]["size_divisibility"]
    output = ModelOutput(
        class_queries_logits=expected["a.pred_logits"].double(),
        masks_queries_logits=expected["a.pred_masks"].double(),
        padded_size=tuple(math.ceil(side / divisor) * divisor for side in (96, 128)),
        image_sizes=torch.tensor([[96, 128]]),
    )
    processor = SeemImageProcessor(
        thing_class_ids=spec["thing_ids"],
        object_mask_threshold=settings["object_mask_threshold"],
        overlap_threshold=settings["overlap_threshold"],
    )
    target_sizes = [spec["target_size"]]

    (labels,) = processor.post_process_semantic_segmentation(output, target_sizes)
    assert torch.equal(labels.byte(), expected["a.sem_seg_labels"])
    geometry = MaskGeometry(output["padded_size"], (96, 128), tuple(spec["target_size"]))
    scores = semantic_scores(output["class_queries_logits"][0], output["masks_queries_logits"][0], geometry)
    torch.testing.assert_close(scores[:, ::8, ::8].float(), expected["a.sem_seg_scores_sub"], rtol=0, atol=1e-5)
    best, second = scores.topk(2, dim=0).values
    torch.testing.assert_close(best - second, expected["a.sem_seg_margin"].double(), rtol=1e-3, atol=1e-5)

    (panoptic,) = processor.post_process_panoptic_segmentation(output, target_sizes=target_sizes)
    assert torch.equal(panoptic["segmentation"], expected["a.panoptic_seg"])
    segments = [
        {"id": s["id"], "isthing": not s["was_fused"], "category_id": s["label_id"]} for s in panoptic["segments_info"]
    ]
    assert segments == spec["info"]["a.panoptic_segments"]

    (instances,) = processor.post_process_instance_segmentation(
        output, top_k=spec["instances_top_k"], target_sizes=target_sizes, return_binary_maps=True
    )
    info = instances["segments_info"]
    assert [segment["label_id"] for segment in info] == expected["a.instances.classes"].tolist()
    assert [segment["score"] for segment in info] == pytest.approx(expected["a.instances.scores"].tolist(), abs=1e-6)
    areas = instances["segmentation"].flatten(1).sum(dim=1)
    assert areas.tolist() == expected["a.instances.mask_areas"].tolist()


def test_semantic_equals_whole_masks(logits, tiles):
    classes, masks = logits[0][0], logits[1][0]
    whole = resize_masks(masks, GEOMETRY).sigmoid()
    expected = torch.einsum("qc,qhw->chw", classes.softmax(dim=-1)[:, :-1], whole)
    torch.testing.assert_close(semantic_scores(classes, masks, GEOMETRY), expected, rtol=0, atol=1e-12)
    assert torch.equal(class_map(prediction_of(*logits), 0, GEOMETRY), expected.argmax(dim=0))
    # most classes far from the others: tiles that can be told without their pixels
    classes[:, 2] += 8
    expected = torch.einsum("qc,qhw->chw", classes.softmax(dim=-1)[:, :-1], whole)
    assert torch.equal(class_map(prediction_of(*logits), 0, GEOMETRY), expected.argmax(dim=0))


def test_queries_that_say_the_same_everywhere_are_not_asked_about_every_pixel(tiles, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    classes = 3 * torch.randn(1, 60, 6, generator=generator, dtype=torch.float64)
    classes[:, 20:, -1] += 20  # no object, but for a trace
    masks = 12 * F.interpolate(torch.randn(1, 60, 4, 6, generator=generator, dtype=torch.float64), (16, 24))
    masks[:, :10] -= 30
    asked, values = [], tiles_module.MaskTile.values

    def counted(tile, chosen=slice(None)):
        found = values(tile, chosen)
        asked.append(found.numel())
        return found

    monkeypatch.setattr(tiles_module.MaskTile, "values", counted)
    for few in (classes, classes.index_fill(2, torch.tensor([1, 2]), 0.5)):  # and with two classes that always tie
        whole = torch.einsum("qc,qhw->chw", few[0].softmax(-1)[:, :-1], resize_masks(masks[0], GEOMETRY).sigmoid())
        assert torch.equal(class_map(prediction_of(few, masks), 0, GEOMETRY), whole.argmax(dim=0))
        if few is classes:
            assert sum(asked) < 60 * 45 * 61 / 3


def test_semantic_scores(logits, tiles):
    """`return_segmentation_scores`, as in transformers."""
    processor, output = SeemImageProcessor(), output_of(*logits)
    maps = processor.post_process_semantic_segmentation(output, [(45, 61), (30, 40)])
    results = processor.post_process_semantic_segmentation(
        output, [(45, 61), (30, 40)], return_segmentation_scores=True
    )
    for index, (result, labels) in enumerate(zip(results, maps)):
        assert torch.equal(result.segmentation, labels)
        geometry = MaskGeometry((64, 96), tuple(output["image_sizes"][index].tolist()), tuple(labels.shape))
        expected = semantic_scores(
            output["class_queries_logits"][index], output["masks_queries_logits"][index], geometry
        )
        torch.testing.assert_close(result.segmentation_scores, expected)


@pytest.mark.parametrize("mask_threshold", [0, 0.0, 1, 1.0])
def test_mask_thresholds_at_the_ends(logits, mask_threshold):
    """All of an image lies in every mask, or nothing in any."""
    processor, output = SeemImageProcessor(), output_of(*logits)
    options = {"threshold": 0.1, "mask_threshold": mask_threshold}
    (panoptic_result, *_) = processor.post_process_panoptic_segmentation(
        output, overlap_mask_area_threshold=0.0, **options
    )
    (instance_result, *_) = processor.post_process_instance_segmentation(output, **options)
    for result in (panoptic_result, instance_result):
        assert (result["segmentation"] > 0).all() if mask_threshold == 0 else not result["segmentation"].any()
    (masks, *_) = processor.post_process_spatial(
        output_of(*logits, spatial_masks_logits=logits[1][:, :2]), mask_threshold
    )
    assert masks.all() if mask_threshold == 0 else not masks.any()


@pytest.mark.parametrize("mask_threshold", [-0.1, 1.5, float("nan")])
def test_mask_thresholds_that_are_no_probability(logits, mask_threshold):
    with pytest.raises(SSPromptError, match=f"mask_threshold is {mask_threshold}"):
        SeemImageProcessor().post_process_instance_segmentation(output_of(*logits), mask_threshold=mask_threshold)


@pytest.mark.parametrize("target_size", [(45, 61), (60, 80), (130, 170)])
def test_tiles_are_pieces_of_whole_masks(logits, tiles, target_size):
    geometry = GEOMETRY._replace(target_size=target_size)
    whole = resize_masks(logits[1][0], geometry)
    covered = torch.zeros(target_size, dtype=torch.long)
    for tile in mask_tiles(logits[1][0], geometry):
        expected = whole[:, tile.rows, tile.columns]
        torch.testing.assert_close(tile.values(), expected, rtol=0, atol=1e-12)
        low, high = tile.bounds()
        assert (low <= expected.amin((1, 2))).all() and (expected.amax((1, 2)) <= high).all()
        covered[tile.rows, tile.columns] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("forced", [(300, 500), (96, 320)])
def test_results_do_not_depend_on_the_tiles(monkeypatch, forced):
    """To the bit, in single precision: what a GPU does with the whole image, and the CPU's tiles."""
    generator = torch.Generator().manual_seed(0)
    masks = F.interpolate(4 * torch.randn(1, 30, 8, 16, generator=generator), size=(64, 128), mode="bicubic")
    prediction = QueryPrediction(3 * torch.randn(1, 30, 12, generator=generator), masks, (256, 512))
    geometry = MaskGeometry((256, 512), (250, 480), (300, 500))
    policy = InferencePolicy(segment_threshold=0.1, overlap_threshold=0.05, top_k=40)

    def results():
        segmentation, segments = panoptic(prediction, 0, geometry, {0, 1, 2}, policy)
        found = instances(prediction, 0, geometry, set(range(8)), policy)
        return class_map(prediction, 0, geometry), segmentation, *found, segments

    usual = results()
    monkeypatch.setattr(tiles_module, "tile_size", lambda masks, target_size: forced)
    others = results()
    assert len(usual[-1]) > 2 and usual[-1] == others[-1]
    assert all(torch.equal(one, other) for one, other in zip(usual[:-1], others[:-1]))


def test_tiles_of_other_devices_are_as_large_as_memory_allows(monkeypatch):
    masks, target = torch.empty(100, 256, 512, device="meta"), (1024, 2048)
    assert tiles_module.tile_size(masks.new_empty(100, 2, 2, device="cpu"), target) == (64, 256)
    assert tiles_module.tile_size(masks[:30], target) == target
    assert tiles_module.tile_size(masks, target) == (327, 2048)
    monkeypatch.setattr(tiles_module, "OTHER_DEVICES_BYTES", 2**22)
    assert tiles_module.tile_size(masks, target) == (64, 256)


@pytest.mark.parametrize("target_size", [(45, 61), (60, 80), (130, 170)])
def test_resize_masks(logits, target_size):
    masks = logits[1][0]
    expected = F.interpolate(masks[None], size=(64, 96), mode="bilinear")[..., :60, :80]
    expected = F.interpolate(expected, size=target_size, mode="bicubic", antialias=True)[0]
    assert torch.equal(resize_masks(masks, GEOMETRY._replace(target_size=target_size)), expected)
    assert resize_masks(masks.half(), GEOMETRY).dtype == torch.float32


def test_panoptic_equals_whole_masks(logits, tiles):
    classes, masks = logits[0][0], logits[1][0]
    scores, labels = classes.softmax(dim=-1).max(dim=-1)
    keep = (labels != 5) & (scores > 0.3)
    scores, labels, whole = scores[keep], labels[keep], resize_masks(masks[keep], GEOMETRY).sigmoid()
    owner = (scores[:, None, None] * whole).argmax(dim=0)
    expected, segments, stuff = torch.zeros(GEOMETRY.target_size, dtype=torch.int32), [], {}
    for k, label in enumerate(labels.tolist()):
        mask = (owner == k) & (whole[k] >= 0.5)
        if not mask.any() or (owner == k).sum() / (whole[k] >= 0.5).sum() < 0.15:
            continue
        if label not in stuff:
            segments.append((len(segments) + 1, label, label not in (0, 1)))
        expected[mask] = stuff.get(label, len(segments))
        if label not in (0, 1):
            stuff.setdefault(label, len(segments))

    policy = InferencePolicy(segment_threshold=0.3, mask_threshold=0.5, overlap_threshold=0.15)
    segmentation, info = panoptic(prediction_of(*logits), 0, GEOMETRY, {0, 1}, policy)
    assert len(segments) >= 3 and len(segments) < len(labels)
    assert [(s["id"], s["label_id"], s["was_fused"]) for s in info] == segments
    assert torch.equal(segmentation, expected)


def test_instances_and_their_map(logits, tiles):
    classes, masks = logits[0][0], logits[1][0]
    found = instances(prediction_of(*logits), 0, GEOMETRY, {0, 1, 2}, InferencePolicy(top_k=30))
    whole = resize_masks(masks, GEOMETRY)
    probabilities = classes.softmax(dim=-1)
    assert set(found.labels.tolist()) <= {0, 1, 2}
    for score, label, mask, area in zip(*found[:2], found.masks, found.areas):
        (query,) = {q for q in range(13) if torch.equal(whole[q] > 0, mask)}
        inside = whole[query].sigmoid()[mask].sum() / (mask.sum() + 1e-6)
        torch.testing.assert_close(score, probabilities[query, label] * inside)
        assert area == mask.sum()
    best = (found.scores[:, None, None] * found.masks).max(dim=0).values
    index = found.segmentation.long() - 1
    assert torch.equal(index >= 0, found.masks.any(dim=0))
    assert torch.equal(torch.where(index >= 0, found.scores[index], 0), best)


def test_instance_maps_drop_hidden_and_weak_ones(logits):
    processor, output = SeemImageProcessor(thing_class_ids=[0, 1, 2]), output_of(*logits)
    for threshold, overlap in ((0.0, 0.0), (0.2, 0.5)):
        for result in processor.post_process_instance_segmentation(output, threshold, 0.5, overlap, top_k=40):
            ids = [segment["id"] for segment in result["segments_info"]]
            assert ids == list(range(1, len(ids) + 1))
            assert set(result["segmentation"].unique().tolist()) - {0} == set(ids)
            assert all(segment["score"] >= threshold for segment in result["segments_info"])


def test_no_object(logits):
    classes, masks = logits
    classes[..., -1] = 50.0
    result = SeemImageProcessor().post_process_panoptic_segmentation(output_of(classes, masks))[0]
    assert result["segments_info"] == [] and result["segmentation"].shape == (60, 80)
    assert not result["segmentation"].any()
    stuff_only = SeemImageProcessor(thing_class_ids=[]).post_process_instance_segmentation(output_of(*logits))[0]
    assert stuff_only["segments_info"] == [] and not stuff_only["segmentation"].any()


def test_sizes(logits):
    processor = SeemImageProcessor()
    shapes = lambda maps: [tuple(m.shape) for m in maps]  # noqa: E731
    post_process = processor.post_process_semantic_segmentation
    assert shapes(post_process(output_of(*logits))) == [(60, 80), (64, 90)]
    original_sizes = torch.tensor([[30, 40], [32, 45]])
    output = output_of(*logits, original_sizes=original_sizes)
    assert shapes(post_process(output)) == [(30, 40), (32, 45)]
    assert shapes(post_process(output, target_sizes=[(7, 8), (9, 10)])) == [(7, 8), (9, 10)]
    bare = ModelOutput(class_queries_logits=logits[0], masks_queries_logits=logits[1])
    assert shapes(post_process(bare)) == [(64, 96), (64, 96)]
    with pytest.raises(ValueError, match="one \\(height, width\\) for each of the 2 images"):
        post_process(output, target_sizes=[(7, 8)])


def test_prompted_masks(logits):
    processor = SeemImageProcessor()
    output = ModelOutput(grounding_masks_logits=logits[1], spatial_masks_logits=logits[1], padded_size=(64, 96))
    sizes = [(45, 61), (64, 96)]
    grounding = processor.post_process_grounding(output, target_sizes=sizes, binarize=False)
    geometry = MaskGeometry((64, 96), (64, 96), (45, 61))
    assert torch.equal(grounding[0], resize_masks(logits[1][0], geometry))
    assert torch.equal(processor.post_process_grounding(output, target_sizes=sizes)[0], grounding[0] > 0)
    spatial = processor.post_process_spatial(output, target_sizes=sizes)
    whole = F.interpolate(logits[1][:1], size=(64, 96), mode="bilinear")
    assert torch.equal(spatial[0], F.interpolate(whole, size=(45, 61), mode="bilinear")[0] > 0)
    assert spatial[1].shape == (13, 64, 96) and spatial[1].dtype == torch.bool
    with pytest.raises(ValueError, match="no `spatial_masks_logits`"):
        processor.post_process_spatial(output_of(*logits))


def test_half_precision(logits):
    processor = SeemImageProcessor(object_mask_threshold=0.3, overlap_threshold=0.1)
    labels = processor.post_process_semantic_segmentation(output_of(*logits))
    for dtype in (torch.float16, torch.bfloat16):
        output = output_of(*(tensor.to(dtype) for tensor in logits))
        for half, full in zip(processor.post_process_semantic_segmentation(output), labels):
            assert (half == full).float().mean() > 0.95
        processor.post_process_panoptic_segmentation(output)
        processor.post_process_instance_segmentation(output)


@pytest.mark.parametrize("subtask", ["semantic", "instance", "panoptic", None])
def test_as_the_pipeline_calls_it(logits, subtask):
    """The pipeline passes thresholds and target sizes of its own and reads ids, labels and scores."""
    output = ModelOutput(
        class_queries_logits=2 * logits[0][:1],
        masks_queries_logits=logits[1][:1],
        padded_size=(64, 96),
        image_sizes=torch.tensor([[60, 80]]),
        target_size=[(45, 61)],
    )
    pipeline = SimpleNamespace(
        image_processor=SeemImageProcessor(thing_class_ids=[0, 1]),
        model=SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate("abcde")))),
    )
    annotations = ImageSegmentationPipeline.postprocess(pipeline, output, subtask=subtask, threshold=0.4)
    assert annotations
    for annotation in annotations:
        assert annotation["mask"].size == (61, 45) and annotation["mask"].getextrema() == (0, 255)
        assert annotation["label"] in "abcde"
        assert (annotation["score"] is None) == (subtask == "semantic")


def test_unknown_thing_classes(logits):
    with pytest.raises(ValueError, match=r"holds \[7\], but the output has 5 classes"):
        SeemImageProcessor(thing_class_ids=[1, 7]).post_process_panoptic_segmentation(output_of(*logits))
