"""Mean IoU against its definition pixel by pixel, against the formula of `evaluate`, in pieces and over processes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from ssprompt_hf.errors import LabelIdError, SSPromptError
from ssprompt_hf.metrics import MeanIoU, confusion_matrix, scores_from_confusion


def naive(predictions, labels, num_classes, ignore_index=255):
    """Sets of pixels, as the definition reads."""
    pixels = [
        (int(p), int(t))
        for prediction, label in zip(predictions, labels)
        for p, t in zip(np.ravel(prediction), np.ravel(label))
        if t != ignore_index
    ]
    iou, accuracy = [], []
    for k in range(num_classes):
        both = sum(p == k and t == k for p, t in pixels)
        either = sum(p == k or t == k for p, t in pixels)
        truth = sum(t == k for _, t in pixels)
        iou.append(both / either if either else float("nan"))
        accuracy.append(both / truth if truth else float("nan"))
    right = sum(p == t for p, t in pixels)
    return np.nanmean(iou), np.nanmean(accuracy), right / len(pixels), iou, accuracy


def histogram_formula(predictions, labels, num_classes, ignore_index=255):
    """What `evaluate`'s `mean_iou` computes: three histograms an image, summed."""
    intersection, union, truth = np.zeros((3, num_classes))
    for prediction, label in zip(predictions, labels):
        keep = label != ignore_index
        prediction, label = prediction[keep], label[keep]
        areas = [
            np.histogram(x, bins=num_classes, range=(0, num_classes - 1))[0]
            for x in (prediction[prediction == label], prediction, label)
        ]
        intersection += areas[0]
        union += areas[1] + areas[2] - areas[0]
        truth += areas[2]
    with np.errstate(invalid="ignore"):
        iou, accuracy = intersection / union, intersection / truth
    return np.nanmean(iou), np.nanmean(accuracy), intersection.sum() / truth.sum(), iou, accuracy


def random_images(seed, num_classes=5, count=4, absent=()):
    rng = np.random.default_rng(seed)
    present = np.setdiff1d(np.arange(num_classes), absent)
    shapes = [tuple(rng.integers(3, 12, 2)) for _ in range(count)]
    labels = [rng.choice(np.append(present, 255), shape).astype(np.uint8) for shape in shapes]
    predictions = [np.where(rng.random(s) < 0.5, t % 255, rng.choice(present, s)) for s, t in zip(shapes, labels)]
    return predictions, labels


def assert_scores(scores, expected):
    keys = ("mean_iou", "mean_accuracy", "pixel_accuracy", "per_class_iou", "per_class_accuracy")
    for key, value in zip(keys, expected):
        np.testing.assert_allclose(scores[key], value, rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
@pytest.mark.parametrize("reference", [naive, histogram_formula])
def test_agrees_with_the_definition_and_with_evaluate(seed, absent, reference):
    predictions, labels = random_images(seed, absent=absent)
    metric = MeanIoU(num_classes=5)
    metric.add_batch(predictions=predictions, references=labels)
    assert_scores(metric.compute(), reference(predictions, labels, 5))


def test_absent_classes_are_left_out_and_only_predicted_ones_count_as_zero():
    scores = scores_from_confusion(confusion_matrix(np.array([0, 0, 1]), np.array([0, 0, 0]), 3))
    assert scores["per_class_iou"][:2] == [2 / 3, 0.0] and np.isnan(scores["per_class_iou"][2])
    assert scores["mean_iou"] == pytest.approx(1 / 3)
    assert scores["mean_accuracy"] == pytest.approx(2 / 3)


def test_pixels_without_prediction_are_misses():
    matrix = confusion_matrix(np.array([0, 255, -1, 7]), np.array([0, 0, 1, 255]), 2)
    assert matrix.tolist() == [[1, 0, 1], [0, 0, 1]]
    assert scores_from_confusion(matrix)["per_class_iou"] == [0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_numpy_and_torch_count_the_same(dtype):
    predictions, labels = random_images(7)
    for prediction, label in zip(predictions, labels):
        tensor = confusion_matrix(torch.tensor(prediction, dtype=dtype), torch.tensor(label, dtype=dtype), 5)
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == confusion_matrix(prediction, label, 5).tolist()


def test_other_ignore_index_and_all_ignored():
    assert confusion_matrix(np.array([1, 1]), np.array([11, 1]), 2, ignore_index=11).sum() == 1
    metric = MeanIoU(num_classes=2)
    metric.add(prediction=[[0, 1]], reference=[[255, 255]])
    scores = metric.compute()
    assert np.isnan(scores["mean_iou"]) and np.isnan(scores["pixel_accuracy"])


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_bad_labels_and_shapes(kind):
    with pytest.raises(LabelIdError, match="from 0 to 3; 3 classes allow 0 to 2"):
        confusion_matrix(kind([0, 1]), kind([0, 3]), 3)
    with pytest.raises(LabelIdError):
        confusion_matrix(kind([0, 1]), kind([0, -1]), 3)
    with pytest.raises(SSPromptError, match="resize"):
        confusion_matrix(kind([0, 1]), kind([0]), 3)


def test_streaming_in_ragged_batches_and_from_matrices():
    predictions, labels = random_images(3, count=7)
    whole = MeanIoU(class_names=list("abcde")).compute(predictions=predictions, references=labels)
    metric = MeanIoU(class_names=list("abcde"))
    for start in range(0, 7, 3):
        metric.add_batch(predictions=predictions[start : start + 3], references=labels[start : start + 3])
    assert len(metric) == 7
    assert metric.compute() == whole and list(whole["per_class_iou"]) == list("abcde")
    assert len(metric) == 0

    matrices = torch.stack([torch.from_numpy(confusion_matrix(p, t, 5)) for p, t in zip(predictions, labels)])
    metric.add_confusion(matrices[:4])
    other = MeanIoU(class_names=list("abcde"))
    other.add_confusion(matrices[4:6])
    other.add_confusion(matrices[6].numpy())
    metric.merge(other)
    assert len(metric) == 7 and metric.compute() == whole


def test_square_matrices_are_accepted():
    metric = MeanIoU(num_classes=2)
    metric.add_confusion(np.array([[3, 1], [0, 4]]))
    assert metric.compute()["per_class_iou"] == [0.75, 0.8]
    with pytest.raises(SSPromptError, match=r"\(2, 3\)"):
        metric.add_confusion(np.zeros((3, 3)))


def test_errors():
    with pytest.raises(SSPromptError, match="num_classes"):
        MeanIoU()
    with pytest.raises(SSPromptError, match="2 names"):
        MeanIoU(3, class_names=["a", "b"])
    metric = MeanIoU(2)
    with pytest.raises(SSPromptError, match="Nothing to compute"):
        metric.compute()
    with pytest.raises(SSPromptError, match="1 predictions but 2"):
        metric.add_batch(predictions=[[[0]]], references=[[[0]], [[0]]])
    with pytest.raises(SSPromptError, match="Give both"):
        metric.compute(predictions=[[[0]]])
    with pytest.raises(SSPromptError, match="4 class names"):
        scores_from_confusion(np.zeros((2, 2)), list("abcd"))
    shared = MeanIoU(2, num_process=2, process_id=0)
    shared.add(prediction=[[0]], reference=[[0]])
    with pytest.raises(SSPromptError, match=r"torch\.distributed"):
        shared.compute()


LABELS = [np.random.default_rng(i).integers(0, 3, (4, 5)) for i in range(5)]


def _worker(rank, store, results):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    metric = MeanIoU(num_classes=3, num_process=2, process_id=rank)
    for label in LABELS[rank::2]:
        metric.add(prediction=label + (label == 1), reference=label)
    results.put((rank, metric.compute()))
    torch.distributed.destroy_process_group()


def test_two_processes_of_unequal_load(tmp_path):
    context = torch.multiprocessing.get_context("fork")  # nothing to import again
    results = context.Queue()
    workers = [context.Process(target=_worker, args=(rank, tmp_path / "store", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    alone = MeanIoU(num_classes=3).compute(predictions=[t + (t == 1) for t in LABELS], references=LABELS)
    assert found == {0: alone, 1: None}


def test_evaluate_is_imported_only_when_needed():
    code = "import sys, ssprompt_hf.metrics as m; m.confusion_matrix; print('evaluate' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
