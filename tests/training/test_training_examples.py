"""Which classes an image is asked about, where every class is decoded by itself."""

import numpy as np
import pytest
import torch
from tiny_training import tiny_images, tiny_processor

from ssprompt_hf.data.classes import SegmentationClasses
from ssprompt_hf.data.dataset import SegmentationDataset
from ssprompt_hf.training.examples import SegmentationExamples

NUM_CLASSES = 7


class Blocks:
    """Labels of the classes 1 and 4; of class 2; of none."""

    file_names = ("two", "one", "none")

    def read(self, row):
        label = np.full((32, 64), (1, 2, 255)[row], np.uint8)
        if row == 0:
            label[:, 32:] = 4
        return {"image": np.zeros((32, 64, 3), np.uint8), "label": label}

    def read_label(self, row):
        return self.read(row)["label"]

    def fingerprint(self):
        return "blocks"


def asked(negative_classes, seed: int = 0, **options):
    """A function of round and image."""
    dataset = SegmentationDataset(SegmentationClasses.from_names(map(str, range(NUM_CLASSES))), Blocks(), "blocks")
    examples = SegmentationExamples(dataset, tiny_processor(), seed=seed, negative_classes=negative_classes, **options)
    return lambda epoch, index: examples[epoch, index]["class_indices"].tolist()


@pytest.mark.parametrize("negatives", [0, 1, 3, 20])
def test_an_image_is_asked_about_its_own_classes_and_some_others(negatives):
    classes = asked(negatives)
    for index, own in enumerate(([1, 4], [2])):
        for epoch in range(4):
            found = classes(epoch, index)
            assert set(own) <= set(found) <= set(range(NUM_CLASSES))
            assert found == sorted(set(found)) and len(found) == min(len(own) + negatives, NUM_CLASSES)


def test_an_image_without_labels_is_asked_about_one_class_at_least():
    assert [len(asked(negatives)(0, 2)) for negatives in (0, 1, 3)] == [1, 1, 3]


def test_the_choice_depends_on_seed_round_and_image_alone():
    first, again, other = asked(2), asked(2, random_flip=True), asked(2, seed=1)
    rounds = [first(epoch, 0) for epoch in range(10)]
    assert rounds == [again(epoch, 0) for epoch in reversed(range(10))][::-1]
    assert len({tuple(classes) for classes in rounds}) > 3
    assert rounds != [other(epoch, 0) for epoch in range(10)]
    # another image with the same absent classes draws others
    assert [first(epoch, 2) for epoch in range(10)] != [first(epoch + 1, 2) for epoch in range(10)]
    # every absent class has its turn
    assert set().union(*rounds) == set(range(NUM_CLASSES))
    # more of them are the same ones and others
    more = asked(3)
    assert all(set(classes) < set(more(epoch, 0)) for epoch, classes in enumerate(rounds))


def test_all_classes_are_asked_about_otherwise():
    examples = SegmentationExamples(tiny_images(1), tiny_processor())
    assert "class_indices" not in examples[0, 0]
    examples = SegmentationExamples(tiny_images(1), tiny_processor(), negative_classes=1)
    assert examples[0, 0]["class_indices"].dtype == torch.int64
