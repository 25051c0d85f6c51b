"""The script that makes seem-nano: batches that depend on step and process alone, and steps that train all of it."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ssprompt_hf.data.street_scenes import StreetScenes


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


def test_half_of_a_batch_changes_its_appearance(pretraining, scenes):
    appearance = pretraining.Batches(scenes, range(1), 4)[0]["appearance"]
    assert (appearance[:2] == 0).all()
    assert (appearance[2:] > 0).any(1).all() and appearance.max() <= 1


@pytest.mark.parametrize("step", [1, 3], ids=["strokes", "phrases"])
def test_a_step_reaches_every_part(pretraining, scenes, step):
    torch.manual_seed(0)
    training = pretraining.Pretraining().train()
    batch = pretraining.to_device(pretraining.Batches(scenes, range(step, step + 1), 2)[0], torch.device("cpu"))
    loss = training(pretraining.byte_tokenizer(), batch, step)
    loss.backward()
    assert torch.isfinite(loss)
    assert training.directions.grad.abs().sum() > 0
    base = training.model.model
    for part in (base.backbone, base.pixel_decoder, base.mask_decoder, base.object_queries, base.text_model):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())
