"""What `predict` says in the terms of the class file, in files that can be fed back; and images of all sizes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_seem import small_seem

from ssprompt_hf import SSPromptConfig, SSPromptModel
from ssprompt_hf.data.classes import ClassInfo, SegmentationClasses
from ssprompt_hf.data.loading import load_segmentation_dataset
from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.metrics import confusion_matrix, scores_from_confusion
from ssprompt_hf.models.seem.image_processing_seem import SeemImageProcessor
from ssprompt_hf.prediction import tile_spans
from ssprompt_hf.segmentation.prediction_files import PredictionFiles
from ssprompt_hf.segmentation.results import build_result, without_specks

CLASSES = SegmentationClasses(
    (
        ClassInfo("road", 7, color=(128, 64, 128)),
        ClassInfo("car", 255, thing=True, color=(0, 0, 142)),
        ClassInfo("sky", 0, color=(70, 130, 180)),
    ),
    ignore_ids=(1,),
)


@pytest.fixture(scope="module")
def model():
    config = SSPromptConfig(
        class_names=CLASSES.names,
        thing_class_ids=[1],
        class_ids=CLASSES.ids,
        colors=CLASSES.colors,
        ignore_index=CLASSES.none_id,
    )
    processor = SeemImageProcessor(size={"shortest_edge": 64, "longest_edge": 128})
    return SSPromptModel(small_seem(), config, image_processor=processor)


def image(seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((90, 50), Image.Resampling.BICUBIC)


def test_predictions_fed_back_as_labels_score_100(model, tmp_path):
    CLASSES.save(tmp_path / "classes.json")
    results = []
    for name in ("images", "annotations"):
        (tmp_path / name).mkdir()
    for seed in range(2):
        image(seed).save(tmp_path / f"images/{seed}.png")
        results.append(model.predict(str(tmp_path / f"images/{seed}.png")))
        results[-1].save(tmp_path / f"annotations/{seed}.png")
    data = load_segmentation_dataset(data_dir=str(tmp_path), split="train")
    matrix = sum(
        confusion_matrix(torch.from_numpy(result.class_indices), torch.from_numpy(row["label"]), 3)
        for result, row in zip(results, data)
    )
    assert scores_from_confusion(matrix, CLASSES.names)["mean_iou"] == 1 and matrix.sum() == 2 * 90 * 50
    for result in results:
        assert {one.class_id for one in result.segments} <= set(CLASSES.ids)
        assert set(np.unique(result.class_map)) == {one.class_id for one in result.segments}
    written = Image.open(tmp_path / "annotations/0.png")
    assert written.mode == "P" and written.getpalette()[21:24] == [128, 64, 128]


def test_pixels_without_a_class_get_the_ignored_id(model, tmp_path):
    result = model.predict(image(), "instance", threshold=0.0)
    assert (result.class_map[result.segments_map == 0] == 1).all() and (result.class_map == 255).any()
    result.save(tmp_path / "x.png")
    labels = CLASSES.encode(np.asarray(Image.open(tmp_path / "x.png")))
    assert np.array_equal(labels, result.class_indices)


def test_ids_above_255_are_written_with_16_bits(tmp_path):
    found = torch.tensor([[0, 1], [1, 0]])
    result = build_result("semantic", (found, None), Image.new("RGB", (2, 2)), ["a", "b"], class_ids=[3, 60000])
    result.save(tmp_path / "x.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), [[3, 60000], [60000, 3]])
    assert [one.class_id for one in result.segments] == [3, 60000]


def test_ids_must_fit_the_classes():
    for wrong in ([1, 2], [1, 1, 2]):
        with pytest.raises(AdapterError, match="class_ids"):
            SSPromptConfig(class_names=["a", "b", "c"], class_ids=wrong)


def test_a_class_list_has_an_id_for_nothing():
    assert CLASSES.none_id == 1
    assert SegmentationClasses((ClassInfo("a", 255), ClassInfo("b", 0)), ignore_ids=()).none_id == 1


# Masks of single objects


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_masks_are_written_as_coco_reads_them(model, task, tmp_path):
    result = model.predict(image(), task, threshold=0.0)
    files = PredictionFiles(tmp_path)
    files.add("x", "x\n\u200b.jpg", result)
    files.finish()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x-instances.png")), result.segments_map)
    mask_of = pytest.importorskip("pycocotools.mask")
    data = json.loads((tmp_path / "coco.json").read_text())
    assert data["images"] == [{"id": 1, "file_name": "x\n\u200b.jpg", "width": 90, "height": 50}]
    assert {one["id"]: one["name"] for one in data["categories"]} == dict(zip(CLASSES.ids, CLASSES.names))
    assert len(data["annotations"]) == len(result.segments) >= 1
    for annotation, segment in zip(data["annotations"], result.segments):
        mask = mask_of.decode(annotation["segmentation"]).astype(bool)
        assert np.array_equal(mask, result.segments_map == segment.id)
        assert annotation["score"] == segment.score and annotation["area"] == segment.area == mask.sum()
        assert annotation["bbox"] == mask_of.toBbox(annotation["segmentation"]).tolist()


def test_specks_are_left_out():
    found = torch.zeros(10, 10, dtype=torch.int32)
    found[0, :2], found[5:] = 1, 2
    infos = [{"id": number, "label_id": 0, "was_fused": False, "score": 0.9} for number in (1, 2)]
    cleaned, left = without_specks(found, infos, 3)
    assert [info["id"] for info in left] == [2] and set(cleaned.unique().tolist()) == {0, 2}
    assert without_specks(found, infos, 2)[1] == infos


def test_the_smallest_area_is_an_option(model):
    areas = sorted(one.area for one in model.predict(image(), "instance", threshold=0.0, min_area=0).segments)
    least = areas[-1]
    left = model.predict(image(), "instance", threshold=0.0, min_area=least).segments
    assert [one.area for one in left] == [area for area in areas if area >= least] and len(left) < len(areas)
    with pytest.raises(SSPromptError, match="min_area is -1"):
        model.predict(image(), "instance", min_area=-1)


def test_overlays_have_a_legend(model):
    result = model.predict(image(), "panoptic", threshold=0.0)
    plain, legend = result.overlay(), result.overlay(legend=True)
    assert plain.size == (90, 50) and legend.height > 50
    below = np.asarray(legend)[50:].reshape(-1, 3).tolist()
    for segment in result.segments:
        assert list(result.colors[CLASSES.ids.index(segment.class_id)]) in below


# Tiles


def test_tiles_cover_every_pixel_once():
    for length, side in ((100, 100), (100, 40), (101, 37), (30, 64), (5, 2), (64, 63)):
        spans = tile_spans(length, side)
        kept = np.concatenate([np.arange(span.keep_start, span.keep_stop) for span in spans])
        assert np.array_equal(kept, np.arange(length))
        assert all(0 <= one.start <= one.keep_start <= one.keep_stop <= one.stop <= length for one in spans)
        assert {one.stop - one.start for one in spans} == {min(side, length)}


def test_a_large_image_is_looked_at_in_tiles(model):
    whole = model.predict(image())
    assert np.array_equal(model.predict(image(), tile=90).class_map, whole.class_map)
    tiled = model.predict(image(), tile=40)
    assert tiled.class_map.shape == (50, 90) and not np.array_equal(tiled.class_map, whole.class_map)
    corner = model.predict(image().crop((0, 0, 40, 40)))
    assert np.array_equal(tiled.class_map[:25, :28], corner.class_map[:25, :28])
    with pytest.raises(SSPromptError, match="semantic maps only"):
        model.predict(image(), "instance", tile=40)
    with pytest.raises(SSPromptError, match="leave out task, tile"):
        model.predict(image(), "instance", tile=40, points=(1, 1))
