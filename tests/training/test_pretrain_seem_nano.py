"""The script that makes seem-nano: batches that depend on step and process alone, and steps that train all of it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssprompt_hf.data.street_scenes.source import StreetScenes


@pytest.fixture(scope="module")
def pretraining():
    with pytest.MonkeyPatch.context() as patch:
        # at the end of the path: examples/evaluate.py must not stand in for the library of this name
        patch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2] / "examples")])
        yield importlib.import_module("pretrain_seem_nano")


@pytest.fixture(scope="module")
def scenes(pretraining):
    drawn = [StreetScenes(split="train", size=pretraining.SIZE, num_images=2, seed=5)[index] for index in range(2)]
    return {name: np.stack([scene[name] for scene in drawn]) for name in ("image", "label", "instance")}


def test_batches_are_a_function_of_step_and_process(pretraining, scenes):
    first = pretraining.Batches(scenes, range(3, 5), 4)[0]
    again = pretraining.Batches(scenes, range(5), 4)[3]
    assert torch.equal(first["pixel_values"], again["pixel_values"]) and first["names"] == again["names"]
    other = pretraining.Batches(scenes, range(3, 5), 4, process=1)[0]
    assert not torch.equal(first["pixel_values"], other["pixel_values"])


def test_every_third_batch_has_the_size_of_the_scenes(pretraining, scenes):
    sizes = [tuple(batch["pixel_values"].shape[2:]) for batch in pretraining.Batches(scenes, range(3), 1)]
    large, small = pretraining.IMAGE_SIZES
    assert sizes == [large, large, small] and small == pretraining.SIZE


def test_images_and_labels_of_a_batch_fit_together(pretraining, scenes):
    batch = pretraining.Batches(scenes, range(1), 4)[0]
    assert batch["labels"].shape[1:] == batch["pixel_values"].shape[2:]
    for masks, labels in zip(batch["masks"], batch["labels"]):
        assert masks.shape[1:] == tuple(side // 4 for side in labels.shape)
    # what changes its appearance has labels, but no segments
    assert (
        len(batch["labels"]) == len(batch["pixel_values"]) == 4 and len(batch["masks"]) == len(batch["classes"]) == 3
    )
    things_and_stuff = torch.cat([masks.sum(0).flatten() for masks in batch["masks"]])
    assert things_and_stuff.max() <= 1 + 1e-5 and things_and_stuff.mean() > 0.9  # segments share no pixel


@pytest.mark.parametrize("step", [1, 3], ids=["strokes", "phrases"])
def test_a_step_reaches_every_part(pretraining, scenes, step):
    torch.manual_seed(0)
    training = pretraining.Pretraining().train()
    batch = pretraining.to_device(pretraining.Batches(scenes, range(step, step + 1), 2)[0], torch.device("cpu"))
    loss = training(pretraining.byte_tokenizer(), batch, step)
    loss.backward()
    assert torch.isfinite(loss)
    base = training.model.model
    for part in (base.backbone, base.pixel_decoder, base.mask_decoder, base.object_queries, base.text_model):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
