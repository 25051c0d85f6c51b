"""The official scripts read exported predictions, and say what our metrics say."""

import json

import numpy as np
import pytest
from judges import (
    cityscapes_ids,
    cityscapes_instance_scores,
    cityscapes_panoptic_scores,
    cityscapes_semantic_scores,
    pycocotools_scores,
    random_instances,
    random_panoptic,
    random_scene,
    save,
    true_objects,
)
from PIL import Image

from ssprompt_hf.data.datasets.cityscapes import CLASSES
from ssprompt_hf.metrics import CityscapesScores, CocoScores, PanopticScores, confusion_matrix, scores_from_confusion
from ssprompt_hf.segmentation.export import PredictionExporter, coco_rle, image_ids, image_stems

THINGS = tuple(CLASSES.thing_indices)
NAMES = [f"aachen/aachen_{number:06d}_000019_leftImg8bit.png" for number in range(6)]


def cityscapes():
    return pytest.importorskip("cityscapesscripts.evaluation", reason="judges: pip install cityscapesscripts")


def scenes(seed, **options):
    rng = np.random.default_rng(seed)
    options = {"things": THINGS[:5], "size": (96, 128), "scale": 3, "void": 0.01, **options}
    return rng, [random_scene(rng, **options) for _ in NAMES]


def truth_files(folder, truths):
    """`labelIds` and `instanceIds` files as in `gtFine`."""
    files = []
    for name, truth in zip(NAMES, truths):
        stem = folder / "gtFine" / "val" / name.replace("_leftImg8bit.png", "_gtFine")
        labels, instances = cityscapes_ids(truth, CLASSES.ids)
        files.append(
            (
                save(stem.with_name(f"{stem.name}_labelIds.png"), labels),
                save(stem.with_name(f"{stem.name}_instanceIds.png"), instances.astype(np.uint16)),
            )
        )
    return list(zip(*files))


def stem(name):
    return name.split("/")[1].removesuffix(".png")


@pytest.mark.parametrize("seed", range(2))
def test_cityscapes_semantic_script(seed, tmp_path):
    cityscapes()
    rng, truths = scenes(seed)
    exporter = PredictionExporter(tmp_path / "out", NAMES, CLASSES.ids)
    matrix = 0
    for index, truth in enumerate(truths):
        guess = np.where(rng.random(truth["label"].shape) < 0.7, truth["label"] % 19, rng.integers(0, 15, (96, 128)))
        exporter.add_semantic(index, guess)
        matrix = matrix + confusion_matrix(guess, truth["label"], 19)
    ours = scores_from_confusion(matrix, CLASSES.names)
    labels, _ = truth_files(tmp_path, truths)
    files = [tmp_path / "out" / "semantic" / f"{stem(name)}.png" for name in NAMES]
    official = cityscapes_semantic_scores(files, labels)
    assert ours["mean_iou"] == pytest.approx(official["averageScoreClasses"], abs=1e-9)
    for name, value in ours["per_class_iou"].items():
        assert value == pytest.approx(official["classScores"][name], abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_cityscapes_instance_script(seed, tmp_path):
    cityscapes()
    rng, truths = scenes(seed)
    exporter = PredictionExporter(tmp_path / "out", NAMES, CLASSES.ids)
    scores = CityscapesScores(CLASSES.names, THINGS)
    for index, truth in enumerate(truths):
        guess = random_instances(rng, truth, things=THINGS[:6])
        guess |= {"mask_of": np.arange(len(guess["labels"]))}
        if seed == 2 and index % 2:
            guess = {key: value[:0] for key, value in guess.items()}
        exporter.add_instances(index, **guess)
        scores.add(prediction=guess, reference=truth)
    exporter.finish()
    ours = scores.compute()
    _, instances = truth_files(tmp_path, truths)
    files = [tmp_path / "out" / "instance" / f"{stem(name)}.txt" for name in NAMES]
    averages, matrix, names = cityscapes_instance_scores(files, instances)
    assert ours["ap"] > 0
    assert ours["ap"] == pytest.approx(averages["allAp"], abs=1e-9)
    assert ours["ap50"] == pytest.approx(averages["allAp50%"], abs=1e-9)
    assert [CLASSES.names[index] for index in THINGS] == names
    np.testing.assert_allclose([ours["per_class_ap"][name] for name in names], matrix.mean(1), rtol=0, atol=1e-9)


def test_coco_results_file(tmp_path):
    rle = pytest.importorskip("pycocotools.mask", reason="judges: pip install pycocotools")
    rng, truths = scenes(7)
    guesses = [random_instances(rng, truth, things=THINGS[:5]) for truth in truths]
    for rank in (0, 1):  # two processes, one of which repeats an image of the other
        exporter = PredictionExporter(tmp_path, [f"{number:012d}.jpg" for number in range(6)], range(19), 2, rank)
        for index in (*range(rank, 6, 2), 0):
            guess = guesses[index]
            exporter.add_instances(
                index, guess["masks"], range(len(guess["labels"])), guess["labels"], guess["scores"]
            )
    exporter.finish()
    results = json.loads((tmp_path / "instance" / "coco_instances.json").read_text())
    read = [{"masks": [], "labels": [], "scores": []} for _ in truths]
    for result in results:
        entry = read[result["image_id"]]
        entry["masks"].append(rle.decode(result["segmentation"]))
        entry["labels"].append(result["category_id"])
        entry["scores"].append(result["score"])
    read = [{key: np.array(value) for key, value in entry.items()} for entry in read]
    stats, _ = pycocotools_scores(read, [true_objects(truth, THINGS) for truth in truths], 19)
    full = [
        {key: value[guess["masks"].any((1, 2))] for key, value in guess.items()} for guess in guesses
    ]  # empty masks are not written
    ours = CocoScores(19, THINGS).compute(predictions=full, references=truths)
    assert ours["ap"] == pytest.approx(stats[0], abs=1e-9) and ours["ap"] > 0
    assert not (tmp_path / ".parts").exists()


@pytest.mark.parametrize("seed", range(2))
def test_cityscapes_panoptic_script(seed, tmp_path):
    cityscapes()
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    rng, truths = scenes(seed)
    truth_files(tmp_path, truths)
    convert2panoptic(str(tmp_path / "gtFine"), str(tmp_path / "gtFine"), setNames=["val"])
    exporter = PredictionExporter(tmp_path / "out", NAMES, CLASSES.ids)
    scores = PanopticScores(CLASSES.names, THINGS)
    for index, truth in enumerate(truths):
        guess = random_panoptic(rng, truth, num_classes=19, things=THINGS)
        exporter.add_panoptic(index, **guess)
        scores.add(prediction=guess, reference=truth)
    exporter.finish()
    ours = scores.compute()
    official = cityscapes_panoptic_scores(
        tmp_path / "gtFine" / "cityscapes_panoptic_val.json",
        tmp_path / "gtFine" / "cityscapes_panoptic_val",
        tmp_path / "out" / "panoptic.json",
        tmp_path / "out" / "panoptic",
    )
    for name, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for key in ("pq", "sq", "rq"):
            assert ours[key + suffix] == pytest.approx(official[name][key], abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53), (200, 300)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_length_code_equals_pycocotools(shape, share):
    rle = pytest.importorskip("pycocotools.mask", reason="judges: pip install pycocotools")
    mask = np.random.default_rng(0).random(shape) < share
    if share == 0.02:
        mask[shape[0] // 3 :, shape[1] // 4 : shape[1] // 2 + 1] = True
    expected = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_rle(mask) == {"size": list(shape), "counts": expected["counts"].decode()}


def test_names_and_ids():
    assert image_stems(["a/x 1.png", "b/y.png"]) == ["x_1", "y"]
    assert image_stems(["a/x.png", "b/x.png"]) == ["a/x", "b/x"]
    assert image_stems(["x.png", "x.jpg"]) == ["x.png", "x.jpg"]
    assert image_ids(["000012", "000013"]) == [12, 13]
    assert image_ids(["aachen_000000_000019_leftImg8bit"]) == ["aachen_000000_000019"]
    assert image_ids(["fog/GOPR0475_frame_000041_rgb_anon"]) == ["GOPR0475_frame_000041"]


def test_void_predictions_and_16_bit_ids(tmp_path):
    exporter = PredictionExporter(tmp_path, ["a.png"], [5, 300])
    exporter.add_semantic(0, np.array([[0, 1, 255]], np.uint8))
    with Image.open(tmp_path / "semantic" / "a.png") as image:
        assert np.asarray(image).tolist() == [[5, 300, 0]]
    exporter = PredictionExporter(tmp_path, ["a.png"], [7, 8], ids=["x"], semantic_ids=[0, 1])
    exporter.add_semantic(0, np.array([[0, 1, 255]], np.uint8))
    with Image.open(tmp_path / "semantic" / "a.png") as image:
        assert np.asarray(image).tolist() == [[0, 1, 255]]
    exporter.add_panoptic(0, np.ones((1, 1)), [{"id": 1, "label_id": 1}])
    exporter.finish()
    (entry,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert entry["image_id"] == "x" and entry["segments_info"][0]["category_id"] == 8


HOSTILE = [
    "../../outside.png",
    "../outside.png",
    "/etc/outside.png",
    "..\\..\\outside.png",
    "C:\\outside.png",
    "..",
    ".",
    "",
    "/",
    "a/../../b.png",
    "CON.png",
    "nul",
    "a\nb.png",
    "a\x00b.png",
    "a.png",
    "A.png",
    "a.png",
    "a_2.png",
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.png",
    "\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9\xe9.png",
    "\ud800.png",
    "masks/a.png",
    "coco_instances.json",
    "~/a.png",
    "deep/er/a.png ",
    "a:b.png",
]


def test_names_from_data_never_leave_the_folder(tmp_path):
    """A table, or a data set of the Hub, may call its images whatever it likes."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    folder = tmp_path / "in" / "deep" / "out"
    exporter = PredictionExporter(folder, HOSTILE, [1, 2])
    mask = np.ones((1, 4, 4), bool)
    for index in range(len(HOSTILE)):
        exporter.add_semantic(index, np.zeros((4, 4), np.uint8))
        exporter.add_instances(index, mask, [0], [index % 2], [0.5])
        exporter.add_panoptic(index, np.ones((4, 4)), [{"id": 1, "label_id": 0}])
    exporter.finish()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(folder) and "\\" not in path.name for path in files)
    for pattern in ("semantic/**/*.png", "instance/masks/**/*.png", "instance/**/*.txt", "panoptic/**/*.png"):
        assert len(list(folder.glob(pattern))) == len(HOSTILE), pattern
    panoptic = json.loads((folder / "panoptic.json").read_text())["annotations"]
    assert len({entry["file_name"].casefold() for entry in panoptic}) == len({str(e["image_id"]) for e in panoptic})
    assert len(panoptic) == len(HOSTILE) and len(json.loads((folder / "instance/coco_instances.json").read_text()))
