"""Resizing, flipping from (seed, epoch, index), and mask targets."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from ssprompt_hf.data.transforms import draw_flip, flip_example, mask_targets, resize_example, shorter_side_size
from ssprompt_hf.errors import SSPromptError


def example(height=30, width=50):
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 255, (height, width, 3), dtype=np.uint8),
        "label": rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width)),
        "instance": rng.integers(0, 40000, (height, width), dtype=np.int32),
        "file_name": "a.png",
    }


@pytest.mark.parametrize(
    ("size", "edge", "longest", "expected"),
    [
        ((360, 480), 512, None, (512, 682)),
        ((480, 360), 512, None, (682, 512)),
        ((1024, 2048), 512, 1024, (512, 1024)),
        ((1024, 2048), 512, 800, (400, 800)),
        ((10, 10000), 512, 1000, (1, 1000)),
        ((7, 7), 7, None, (7, 7)),
    ],
)
def test_sizes(size, edge, longest, expected):
    assert shorter_side_size(size, edge, longest) == expected


def test_resize():
    before = example()
    after = resize_example(before, 45)
    assert after["image"].shape == (45, 75, 3) and after["label"].shape == after["instance"].shape == (45, 75)
    assert (after["image"] == np.asarray(Image.fromarray(before["image"]).resize((75, 45), Image.BICUBIC))).all()
    assert set(np.unique(after["label"])) <= {0, 1, 2, 255} and after["label"].dtype == np.uint8
    assert set(np.unique(after["instance"])) <= set(np.unique(before["instance"]))
    assert before["image"].shape == (30, 50, 3)
    same = resize_example(before, 30)
    assert all(same[key] is before[key] for key in before)


def test_flip():
    before = example()
    after = flip_example(before)
    assert (after["image"][:, ::-1] == before["image"]).all() and (after["label"][:, ::-1] == before["label"]).all()
    assert (flip_example(after)["instance"] == before["instance"]).all() and after["file_name"] == "a.png"
    assert after["label"].flags.c_contiguous


def test_flip_is_drawn_from_seed_epoch_and_index_alone():
    torch.manual_seed(0)
    state, python_state = torch.get_rng_state(), random.getstate()
    draws = np.array([[[draw_flip(s, e, i) for i in range(64)] for e in range(8)] for s in range(4)])
    assert torch.equal(state, torch.get_rng_state()) and python_state == random.getstate()
    assert abs(draws.mean() - 0.5) < 0.03
    assert abs(draws.mean(2) - 0.5).max() < 0.3 and abs(draws.mean((0, 1)) - 0.5).max() < 0.35
    assert [draw_flip(0, 0, i) for i in range(8)] == FIRST_DRAWS  # resumed on another machine, the same


FIRST_DRAWS = [True, False, False, True, True, False, False, False]

LABEL = np.array([[0, 0, 1, 1], [0, 2, 2, 255]], np.uint8)
INSTANCE = np.array([[0, 0, 5, 9], [0, 5, 0, 3]], np.int32)


@pytest.mark.parametrize(
    ("task", "classes", "sizes"),
    [("semantic", [0, 1, 2], [3, 2, 2]), ("instance", [1, 1, 2], [1, 1, 1]), ("panoptic", [0, 1, 1, 2], [3, 1, 1, 1])],
)
def test_mask_targets(task, classes, sizes):
    found, masks = mask_targets(LABEL, INSTANCE, [1, 2], task)
    assert found.tolist() == classes and found.dtype == torch.int64
    assert masks.dtype == torch.bool and masks.shape == (len(classes), 2, 4) and masks.sum((1, 2)).tolist() == sizes
    assert masks.sum(0).max() == 1
    for index, mask in zip(found, masks):
        assert (torch.from_numpy(LABEL)[mask] == index).all()


def test_mask_targets_of_nothing():
    found, masks = mask_targets(np.full((2, 3), 255, np.uint8))
    assert found.shape == (0,) and masks.shape == (0, 2, 3)


def test_mask_targets_errors():
    with pytest.raises(SSPromptError, match="instance maps"):
        mask_targets(LABEL, None, [1], "panoptic")
    with pytest.raises(SSPromptError, match="'box'"):
        mask_targets(LABEL, task="box")
    assert len(mask_targets(LABEL, None, [3], "panoptic")[0]) == 3
