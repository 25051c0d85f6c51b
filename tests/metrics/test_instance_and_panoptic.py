"""Instance AP and panoptic quality beside the official tools, on random and on hostile scenes."""

import pickle

import numpy as np
import pytest
import torch
from judges import (
    naive_panoptic_quality,
    pycocotools_scores,
    random_instances,
    random_panoptic,
    random_scene,
    true_objects,
)

from ssprompt_hf.errors import SSPromptError
from ssprompt_hf.metrics import CityscapesScores, CocoAP, CocoScores, PanopticQuality, PanopticScores
from ssprompt_hf.metrics.segments import runs, unique_inverse
from ssprompt_hf.utils.run_length import coco_rle, rle_runs

THINGS = (2, 3, 4, 5)
COCO_KEYS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
COCO_KEYS += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]
EXACT = {"rtol": 0, "atol": 1e-9}


def scenes(seed, count=3, **options):
    rng = np.random.default_rng(seed)
    return rng, [random_scene(rng, **options) for _ in range(count)]


def instance(masks, labels, scores):
    return {"masks": np.array(masks, bool), "labels": np.array(labels), "scores": np.array(scores)}


def nothing(shape=(8, 8)):
    return {"masks": np.zeros((0, *shape), bool), "labels": np.zeros(0, int), "scores": np.zeros(0)}


def rows(first, last, shape=(8, 8)):
    mask = np.zeros(shape, bool)
    mask[first:last] = True
    return mask


def hostile():
    """Name -> predictions and truths."""
    rng, truths = scenes(99)
    blank = {"label": np.zeros((8, 8), np.uint8), "instance": np.zeros((8, 8), np.int32)}
    void = {"label": np.full((8, 8), 255, np.uint8), "instance": np.zeros((8, 8), np.int32)}
    crowd = {"label": np.full((8, 8), 2, np.uint8), "instance": np.zeros((8, 8), np.int32)}
    one = {"label": np.where(rows(0, 4), 2, 0).astype(np.uint8), "instance": rows(0, 4).astype(np.int32)}
    pixel = {"label": np.zeros((8, 8), np.uint8), "instance": np.zeros((8, 8), np.int32)}
    pixel["label"][3, 3], pixel["instance"][3, 3] = 4, 7
    beside = {"label": np.full((8, 8), 2, np.uint8), "instance": np.where(rows(0, 4), 1, 0).astype(np.int32)}
    guess = instance([rows(0, 4), rows(0, 5), rows(2, 6)], [2, 2, 3], [0.5, 0.5, 0.9])
    many = instance([rows(0, 4)] * 130, [2] * 130, np.arange(130) / 130)
    return {
        "empty predictions": ([nothing(t["label"].shape) for t in truths], truths),
        "empty truth": ([guess, nothing()], [blank, blank]),
        "all void": ([guess], [void]),
        "only a crowd": ([guess, guess], [crowd, one]),
        "a crowd beside": ([guess], [beside]),
        "overlapping equal scores": ([guess, guess], [one, one]),
        "all scores equal": ([p | {"scores": np.ones(len(p["scores"]))} for p in map(_guess(rng), truths)], truths),
        "one pixel": ([instance([pixel["instance"] > 0, rows(3, 4)], [4, 4], [0.2, 0.3])], [pixel]),
        "empty mask": ([instance([rows(0, 0), rows(0, 4)], [2, 2], [0.9, 0.1])], [one]),
        "more than a hundred": ([many], [one]),
        "absent classes": ([instance([rows(0, 4)], [5], [0.5])], [one]),
        "half overlap": ([instance([rows(0, 2), rows(0, 8)], [2, 2], [0.5, 0.4])], [one]),
    }


def _guess(rng):
    return lambda truth: random_instances(rng, truth)


@pytest.mark.parametrize("seed", range(8))
def test_coco_ap_equals_pycocotools(seed):
    pytest.importorskip("pycocotools", reason="pycocotools judges AP: pip install pycocotools")
    rng, truths = scenes(seed, size=[(40, 56), (160, 224)][seed % 2], scale=[1, 5][seed % 2])
    check_coco([random_instances(rng, truth, ties=seed % 4 < 2) for truth in truths], truths)


@pytest.mark.parametrize("name", hostile())
def test_coco_ap_equals_pycocotools_on_hostile_scenes(name):
    pytest.importorskip("pycocotools", reason="pycocotools judges AP: pip install pycocotools")
    check_coco(*hostile()[name])


def check_coco(predictions, truths):
    scores = CocoScores(6, THINGS)
    scores.add_batch(predictions=predictions, references=truths)
    result = scores.compute()
    stats, precision = pycocotools_scores(predictions, [true_objects(truth, THINGS) for truth in truths], 6)
    np.testing.assert_allclose(np.nan_to_num([result[key] for key in COCO_KEYS], nan=-1.0), stats, **EXACT)
    by_class = precision[..., 0, 2].mean((0, 1))
    np.testing.assert_allclose(np.nan_to_num(result["per_class_ap"], nan=-1.0), by_class, **EXACT)


def test_coco_truth_may_overlap_and_bring_its_areas():
    pytest.importorskip("pycocotools", reason="pycocotools judges AP: pip install pycocotools")
    rng, truths = scenes(5)
    predictions = [random_instances(rng, truth) for truth in truths]
    objects = [true_objects(truth, THINGS) for truth in truths]
    for masks, _, _ in objects:
        masks[0] = masks[0] | np.roll(masks[-1], 1)
    stats, _ = pycocotools_scores(predictions, objects, 6)
    references = [dict(zip(("masks", "labels", "iscrowd"), map(np.array, each))) for each in objects]
    result = CocoAP(6, THINGS).compute(predictions=predictions, references=references)
    np.testing.assert_allclose(np.nan_to_num([result[key] for key in COCO_KEYS], nan=-1.0), stats, **EXACT)
    large = [reference | {"areas": np.full(len(reference["labels"]), 10_000)} for reference in references]
    result = CocoAP(6, THINGS).compute(predictions=predictions, references=large)
    assert np.isnan(result["ap_small"]) and not np.isnan(result["ap_large"])


def coded(prediction):
    return prediction | {"masks": [coco_rle(mask) for mask in prediction["masks"]]}


@pytest.mark.parametrize("seed", range(4))
def test_coded_masks_give_the_same(seed):
    rng, truths = scenes(seed, size=(40, 64), count=4)
    predictions = [random_instances(rng, truth) for truth in truths]
    predictions[0] = instance([rows(0, 0, (40, 64)), rows(0, 40, (40, 64))], [2, 2], [0.9, 0.1])
    objects = [true_objects(truth, THINGS) for truth in truths]
    free = [dict(zip(("masks", "labels", "iscrowd"), map(np.array, each))) for each in objects]
    for kind, references in ((CocoScores, truths), (CityscapesScores, truths), (CocoScores, free)):
        results = [
            kind(6, THINGS).compute(predictions=guesses, references=references)
            for guesses in (predictions, [coded(prediction) for prediction in predictions])
        ]
        assert str(results[0]) == str(results[1])
    for guesses in (predictions, [coded(prediction) for prediction in predictions]):
        result = CocoScores(6, THINGS).compute(predictions=guesses, references=[coded(truth) for truth in free])
        assert str(result) == str(results[0])


def test_run_length_codes_are_those_of_pycocotools():
    tools = pytest.importorskip("pycocotools.mask", reason="pycocotools judges codes: pip install pycocotools")
    rng = np.random.default_rng(0)
    masks = [rng.random((37, 53)) < share for share in (0, 0.01, 0.3, 0.9, 1)]
    masks.append(np.repeat(rng.random((3, 70)) < 0.5, 400, 0))  # long runs, that take several characters
    masks.append(np.ones((2000, 3000), bool))
    for mask in masks:
        code = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert coco_rle(mask)["counts"] == code["counts"].decode()
        for form in (code, coco_rle(mask)):
            (starts,), (ends,) = rle_runs([form])
            flat = np.zeros(mask.size, bool)
            for start, end in zip(starts, ends):
                flat[start:end] = True
            np.testing.assert_array_equal(flat.reshape(mask.T.shape).T, mask)
    starts, ends = rle_runs([coco_rle(mask) for mask in masks])
    assert [int((e - s).sum()) for s, e in zip(starts, ends)] == [int(mask.sum()) for mask in masks]
    assert [x[0].tolist() for x in rle_runs([{"size": [2, 3], "counts": [0, 2, 1, 0, 1, 2]}])] == [[0, 4], [2, 6]]
    for counts, message in (([5], "add up to 5 pixels"), ("", "add up to 0 pixels"), ("P", "ends within a number")):
        with pytest.raises(SSPromptError, match=message):
            rle_runs([{"size": [2, 3], "counts": counts}])
    with pytest.raises(SSPromptError, match="several sizes"):
        codes = [coco_rle(np.ones((2, 3), bool)), coco_rle(np.ones((3, 2), bool))]
        CocoScores(6, THINGS).add(
            prediction={"masks": codes, "labels": [2, 2], "scores": [0.5, 0.5]},
            reference={"label": np.zeros((2, 3), int)},
        )


def panoptic_truth(truth):
    stuff = [(truth["label"] == k, k, 0) for k in (0, 1) if (truth["label"] == k).any()]
    return [*zip(*true_objects(truth, THINGS)), *stuff]


def check_panoptic(predictions, truths):
    result = PanopticScores(6, THINGS)
    result.add_batch(predictions=predictions, references=truths)
    result = result.compute()
    means, by_class = naive_panoptic_quality(predictions, [panoptic_truth(truth) for truth in truths], 6, THINGS)
    for name, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        np.testing.assert_allclose([result[key + suffix] for key in ("pq", "sq", "rq")], means[name], **EXACT)
    for k in range(6):
        values = [result[f"per_class_{key}"][k] for key in ("pq", "sq", "rq")]
        np.testing.assert_allclose(values, by_class.get(k, np.full(3, np.nan)), **EXACT)
    return result


@pytest.mark.parametrize("seed", range(8))
def test_panoptic_quality_equals_its_definition(seed):
    rng, truths = scenes(seed)
    check_panoptic([random_panoptic(rng, truth) for truth in truths], truths)


def test_panoptic_quality_on_hostile_scenes():
    for predictions, truths in hostile().values():
        maps = []
        for prediction in predictions:  # the last of overlapping masks is on top
            segmentation = np.zeros(prediction["masks"].shape[1:], np.int32)
            for number, mask in enumerate(prediction["masks"], start=1):
                segmentation[mask] = number
            seen = set(np.unique(segmentation).tolist()) - {0}
            infos = [{"id": number, "label_id": int(prediction["labels"][number - 1])} for number in seen]
            maps.append({"segmentation": segmentation, "segments_info": infos})
        check_panoptic(maps, truths)


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_equals_torchmetrics(seed):
    detection = pytest.importorskip("torchmetrics.detection", reason="torchmetrics is a witness: pip install it")
    # torchmetrics knows neither crowds nor pixels without prediction that are not a class of their own
    rng, truths = scenes(seed, crowds=False, void=0.0)
    predictions = [random_panoptic(rng, truth) for truth in truths]
    witness = detection.PanopticQuality(set(THINGS), {0, 1, 7}, return_sq_and_rq=True, return_per_class=True)
    for prediction, truth in zip(predictions, truths):
        classes = np.full(prediction["segmentation"].max() + 1, 7)
        for info in prediction["segments_info"]:
            classes[info["id"]] = info["label_id"]
        guess = np.stack([classes[prediction["segmentation"]], prediction["segmentation"]], -1)
        label = np.where(truth["label"] == 255, 7, truth["label"])
        known = np.stack([label, truth["instance"]], -1)
        witness.update(*(torch.from_numpy(x.astype(np.int64))[None] for x in (guess, known)))
    expected = witness.compute().numpy().reshape(-1, 3)
    order = [*THINGS, 0, 1]  # torchmetrics sorts things before stuff; classes without segment have NaN or 0
    result = check_panoptic(predictions, truths)
    ours = np.nan_to_num([result[f"per_class_{key}"] for key in ("pq", "sq", "rq")]).T[order]
    np.testing.assert_allclose(ours, np.nan_to_num(expected[:6]), rtol=0, atol=1e-6)


def test_named_void_is_no_void_for_cityscapes():
    truth = {"label": np.full((20, 20), 255, np.uint8), "instance": np.zeros((20, 20), np.int32)}
    truth["label"][:10] = 2
    truth["instance"][:10] = 1
    guess = instance([rows(0, 10, (20, 20)), rows(10, 20, (20, 20))], [2, 2], [0.5, 0.9])
    assert CityscapesScores(6, THINGS).compute(predictions=[guess], references=[truth])["ap"] == 1.0
    truth["instance"][10:] = 5
    assert CityscapesScores(6, THINGS).compute(predictions=[guess], references=[truth])["ap"] == 0.25


def test_both_forms_of_predictions_and_references_give_the_same():
    rng, truths = scenes(3)
    maps = [random_panoptic(rng, truth) for truth in truths]
    for prediction in maps:
        for info in prediction["segments_info"]:
            info["score"] = round(float(rng.random()), 1)
    maps = [p | {"segments_info": [i for i in p["segments_info"] if i["label_id"] in THINGS]} for p in maps]
    stacks = [
        instance(
            [p["segmentation"] == i["id"] for i in p["segments_info"]] or np.zeros((0, 40, 56)),
            [i["label_id"] for i in p["segments_info"]],
            [i["score"] for i in p["segments_info"]],
        )
        for p in maps
    ]
    tables = []
    for truth in truths:
        segmentation, infos = np.zeros((40, 56), np.int64), []
        for mask, label, crowd in panoptic_truth(truth):
            number = int(rng.integers(1, 2**24))
            segmentation[mask] = number
            infos.append({"id": number, "label_id": label, "iscrowd": crowd})
        tables.append({"segmentation": segmentation, "segments_info": infos})
    for kind in (CocoScores, CityscapesScores):
        kind = kind(6, THINGS) if kind is CocoScores else kind(6, THINGS, min_region_size=10)
        results = [kind.compute(predictions=p, references=t) for p in (maps, stacks) for t in (truths, tables)]
        assert all(str(result) == str(results[0]) for result in results)
    panoptic = [random_panoptic(rng, truth) for truth in truths]
    scores = PanopticScores(6, THINGS)
    first, second = (scores.compute(predictions=panoptic, references=t) for t in (truths, tables))
    assert str(first) == str(second)
    tensors = [{k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in p.items()} for p in stacks]
    assert str(CocoScores(6, THINGS).compute(predictions=tensors, references=truths)) == str(
        CocoScores(6, THINGS).compute(predictions=stacks, references=truths)
    )


def test_batches_order_and_repeated_images_change_nothing():
    rng, truths = scenes(1, count=7)
    guesses = [random_instances(rng, truth) for truth in truths]
    panoptic = [random_panoptic(rng, truth) for truth in truths]
    for kind, predictions in ((CocoAP, guesses), (PanopticQuality, panoptic)):
        metric = kind([f"class {k}" for k in range(6)], THINGS)
        whole = metric.compute(predictions=predictions, references=truths)
        assert list(whole["per_class_ap" if kind is CocoAP else "per_class_pq"]) == metric.class_names
        other = kind([f"class {k}" for k in range(6)], THINGS)
        for order, target in (([6, 2, 4, 0], metric), ([0, 1, 3, 5], other)):
            for index in order:
                target.add(prediction=predictions[index], reference=truths[index], image_id=index)
        metric.merge(other)
        assert len(metric) == 7 and str(metric.compute()) == str(whole)
        assert len(metric) == 0


def _process(rank, world, port, folder, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store{port}", rank=rank, world_size=world
    )
    rng, truths = scenes(4, count=5)
    guesses = [random_instances(rng, truth) for truth in truths]
    metric = CocoAP(6, THINGS, num_process=world, process_id=rank)
    mine = range(rank, 5, world)
    metric.add_batch(predictions=[guesses[i] for i in mine], references=[truths[i] for i in mine], image_ids=mine)
    result = metric.compute()
    torch.distributed.destroy_process_group()
    queue.put((rank, str(result)))


def test_processes_give_the_result_of_one(tmp_path):
    context = torch.multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_process, args=(rank, 2, 0, tmp_path, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    results = dict(queue.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    rng, truths = scenes(4, count=5)
    alone = CocoAP(6, THINGS).compute(
        predictions=[random_instances(rng, truth) for truth in truths], references=truths
    )
    assert results == {0: str(alone), 1: "None"}


def test_records_are_small():
    rng, truths = scenes(0, count=1, size=(512, 1024), scale=12)
    for scores, prediction in (
        (CocoScores(6, THINGS), random_instances(rng, truths[0])),
        (CityscapesScores(6, THINGS), random_instances(rng, truths[0])),
        (PanopticScores(6, THINGS), random_panoptic(rng, truths[0])),
    ):
        assert len(pickle.dumps(scores.record(prediction, truths[0]))) < 20_000


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_runs_and_unique(dtype):
    rng = np.random.default_rng(0)
    values = np.repeat(rng.integers(0, 100, 50), rng.integers(1, 9, 50)).astype(dtype)
    starts, lengths = runs(values)
    np.testing.assert_array_equal(np.repeat(values[starts], lengths), values)
    for numbers in (values, rng.integers(-5, 2**30, 50), np.array([7]), np.zeros(0, int)):
        for got, expected in zip(unique_inverse(numbers), np.unique(numbers, return_inverse=True)):
            np.testing.assert_array_equal(got, expected)


def test_errors():
    label = {"label": np.zeros((8, 8), np.uint8)}
    two = {"masks": np.ones((2, 8, 8), bool), "labels": np.array([2, 3])}
    scores = CocoScores(6, THINGS)
    for prediction, reference, message in (
        (instance([rows(0, 2)], [6], [0.5]), label, "6 classes allow 0 to 5"),
        (instance([rows(0, 2)], [2], [np.nan]), label, "not a finite number"),
        (instance([rows(0, 2)], [2, 3], [0.5, 0.5]), label, "do not go together"),
        (instance([rows(0, 2)], [2], [0.5]), {"label": np.zeros((9, 8), np.uint8)}, "resize the prediction"),
        (instance([rows(0, 2)], [2], [0.5]), {"label": np.full((8, 8), 6, np.uint8)}, "6 classes allow 0 to 5"),
        (instance([rows(0, 2)], [2], [0.5]), {"label": np.full((8, 8), 2, np.uint8)}, "no `instance` map"),
        ({"boxes": []}, label, "`masks`, `labels` and `scores`"),
        (nothing(), {"boxes": []}, "`label` and `instance`"),
        (nothing(), two | {"areas": np.ones(1)}, "2 masks but 1 areas"),
        (nothing(), two | {"iscrowd": np.zeros(1)}, "2 masks but 1 iscrowd"),
        (nothing(), two | {"labels": np.array([2])}, "2 masks but 1 labels"),
        (nothing(), two | {"labels": np.array([2, 6])}, "has the label 6; labels go from 0 to 5"),
    ):
        with pytest.raises(SSPromptError, match=message):
            scores.add(prediction=prediction, reference=reference)
    with pytest.raises(SSPromptError, match="Nothing to compute"):
        scores.compute()
    with pytest.raises(SSPromptError, match="not take boxes"):
        scores.add_batch(boxes=[])
    with pytest.raises(SSPromptError, match=r"\[9\]"):
        CocoScores(6, [9])
    with pytest.raises(SSPromptError, match="through `torch"):
        scores.gather()
    with pytest.raises(SSPromptError, match="id 3, which is not"):
        PanopticScores(6, THINGS).add(
            prediction={"segmentation": np.full((8, 8), 3), "segments_info": []}, reference=label
        )
