"""K-shot selection: enough of every class, decided by the seed alone, and told plainly when it cannot be done."""

import numpy as np
import pytest

from ssprompt_hf.data import SegmentationClasses, SegmentationDataset, label_statistics, select_shots
from ssprompt_hf.data.few_shot import LabelStatistics
from ssprompt_hf.errors import MissingClassError, SSPromptError, TooFewImagesError

NAMES = ["road", "car", "sign", "horse"]


def random_statistics(num_images=60, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 500, (num_images, 4)) * (rng.random((num_images, 4)) < [0.9, 0.5, 0.3, 0.25])
    return LabelStatistics([f"{i:03d}.png" for i in range(num_images)], counts)


class ArraySource:
    def __init__(self, labels):
        self.labels, self.reads = labels, 0
        self.file_names = [f"{i}.png" for i in range(len(labels))]

    def read(self, row):
        return {"image": np.zeros((*self.labels[row].shape, 3), np.uint8), "label": self.read_label(row)}

    def read_label(self, row):
        self.reads += 1
        return self.labels[row]

    def fingerprint(self):
        return "fixed"


def test_statistics_are_counted_once_and_cached(tmp_path):
    labels = [np.array([[0, 0, 255]], np.uint8), np.array([[1, 2, 2]], np.uint8)]
    source = ArraySource(labels)
    dataset = SegmentationDataset(SegmentationClasses.from_names(NAMES), source, "arrays")
    first = label_statistics(dataset, tmp_path)
    assert first.pixel_counts.tolist() == [[2, 0, 0, 0], [0, 1, 2, 0]]
    assert first.images_per_class().tolist() == [1, 1, 1, 0] and first.images_per_class(2).tolist() == [1, 0, 1, 0]
    again = label_statistics(dataset, tmp_path)
    assert source.reads == 2 and (again.pixel_counts == first.pixel_counts).all()
    assert label_statistics(dataset.select([1]), tmp_path).pixel_counts.tolist() == [[0, 1, 2, 0]]


@pytest.mark.parametrize("shots", [1, 4, 10])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_class_occurs_often_enough(shots, seed):
    statistics = random_statistics()
    chosen = select_shots(statistics, NAMES, shots, seed)
    counts = (statistics.pixel_counts[chosen.indices] > 0).sum(0)
    assert (counts >= shots).all() and chosen.images_per_class == dict(zip(NAMES, counts.tolist()))
    assert len(set(chosen.indices)) == len(chosen.indices) <= 4 * shots
    assert chosen.file_names == [statistics.file_names[i] for i in chosen.indices]
    # no image too many: each was still needed when it was taken
    for taken, index in enumerate(chosen.indices):
        before = (statistics.pixel_counts[chosen.indices[:taken]] > 0).sum(0)
        assert ((statistics.pixel_counts[index] > 0) & (before < shots)).any()


def test_seed_and_names_decide_not_the_order():
    statistics = random_statistics()
    chosen = select_shots(statistics, NAMES, 4, seed=3)
    assert chosen == select_shots(statistics, NAMES, 4, seed=3)
    assert chosen.file_names != select_shots(statistics, NAMES, 4, seed=4).file_names
    order = np.random.default_rng(1).permutation(60)
    shuffled = LabelStatistics([statistics.file_names[i] for i in order], statistics.pixel_counts[order])
    assert select_shots(shuffled, NAMES, 4, seed=3).file_names == chosen.file_names
    assert "indices" not in chosen.to_dict() and chosen.to_dict()["seed"] == 3


def test_selection_of_known_images():
    """The same on every machine and in every version: adapters record what was chosen."""
    statistics = LabelStatistics(list("abcdef"), np.eye(2, dtype=int)[[0, 1, 0, 1, 0, 1]])
    assert select_shots(statistics, ["road", "car"], 2, seed=0).file_names == ["f", "d", "c", "e"]


def test_min_pixels():
    statistics = random_statistics()
    chosen = select_shots(statistics, NAMES, 3, min_pixels=200)
    assert ((statistics.pixel_counts[chosen.indices] >= 200).sum(0) >= 3).all()


@pytest.mark.parametrize("shots", [1, 7, 60])
def test_total_mode(shots):
    statistics = random_statistics()
    chosen = select_shots(statistics, NAMES, shots, mode="total")
    assert len(set(chosen.indices)) == shots
    if shots == 7:
        assert min(chosen.images_per_class.values()) >= 3


def test_total_mode_fills_up_with_images_without_classes():
    statistics = LabelStatistics(["a", "b", "c"], np.array([[5, 0], [0, 0], [0, 0]]))
    assert sorted(select_shots(statistics, ["x", "y"], 3, mode="total").indices) == [0, 1, 2]


def test_missing_class():
    statistics = LabelStatistics(["a", "b"], np.array([[5, 0], [3, 0]]))
    with pytest.raises(MissingClassError, match=r"'car'.* road: 2, car: 0"):
        select_shots(statistics, ["road", "car"], 1)
    assert select_shots(statistics, ["road", "car"], 1, allow_fewer=True).images_per_class == {"road": 1, "car": 0}


def test_a_class_lost_in_the_ignored_id_is_told(tmp_path, caplog):
    """0/255 masks whose class list has the ids 0 and 1: all the pixels of the second class would count as ignored."""
    classes = SegmentationClasses.from_dict(["wall", "crack"])
    labels = [classes.encode(np.array([[0, 255]], np.uint8))] * 2
    dataset = SegmentationDataset(classes, ArraySource(labels), "cracks")
    for _ in range(2):  # also from the cache
        caplog.clear()
        statistics = label_statistics(dataset, tmp_path)
        for text in ("cracks: No label shows 'crack', but 2 pixels have the id 255", '"id": 255, "name": "crack"'):
            assert text in caplog.text
        with pytest.raises(MissingClassError, match=r"wall: 2, crack: 0\. No label shows 'crack'.*`ignore_id`"):
            select_shots(statistics, classes.names, 1)


def test_classes_that_are_merely_absent_are_not_called_lost(tmp_path, caplog):
    labels = [np.array([[0, 255]], np.uint8), np.array([[0, 1]], np.uint8)]
    data = {"classes": ["wall", "crack"]}
    for number, (chosen, dictionary) in enumerate(
        [
            (labels, data),  # it is there
            ([labels[0] * 0], data),  # nothing is ignored
            (labels[:1], data | {"ignore_id": 255}),  # the user says so
            (labels[:1], data | {"ignore_color": [0, 0, 0]}),
        ]
    ):
        dataset = SegmentationDataset(SegmentationClasses.from_dict(dictionary), ArraySource(chosen), "cracks")
        label_statistics(dataset, tmp_path / str(number))
    whole = SegmentationDataset(SegmentationClasses.from_dict(data), ArraySource(labels), "cracks")
    label_statistics(whole.select([0]), tmp_path)  # a part need not show every class
    assert not caplog.records


def test_fewer_images_than_shots():
    statistics = LabelStatistics(["a", "b", "c"], np.array([[5, 0], [3, 1], [1, 1]]))
    with pytest.raises(TooFewImagesError, match=r"'car'.*at most 2 shots.*road: 3, car: 2"):
        select_shots(statistics, ["road", "car"], 3)
    assert len(select_shots(statistics, ["road", "car"], 3, allow_fewer=True).indices) == 3
    with pytest.raises(TooFewImagesError, match="4 images wanted, 3 there"):
        select_shots(statistics, ["road", "car"], 4, mode="total")


@pytest.mark.parametrize(("shots", "mode"), [(0, "per_class"), (1.5, "per_class"), (True, "total"), (1, "some")])
def test_bad_settings(shots, mode):
    with pytest.raises(SSPromptError):
        select_shots(random_statistics(), NAMES, shots, mode=mode)
