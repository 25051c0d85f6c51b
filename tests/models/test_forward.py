"""What transformers' `Trainer` and its users expect of the `forward` of every family of base models."""

import pytest
import torch
from prompted_seem import small_seem
from tiny_clipseg import images as clipseg_images
from tiny_clipseg import tiny_clipseg
from tiny_sam import images as sam_images
from tiny_sam import tiny_sam
from tiny_sam2 import tiny_sam2
from tiny_sam3 import images as sam3_images
from tiny_sam3 import tiny_sam3
from tiny_seem import images as seem_images
from torch.utils._pytree import tree_flatten
from transformers import Trainer, TrainingArguments

MODELS = {
    "seem": (small_seem, lambda: seem_images().float()),
    "sam3": (tiny_sam3, sam3_images),
    "sam2": (tiny_sam2, sam_images),
    "sam": (tiny_sam, sam_images),
    "clipseg": (tiny_clipseg, clipseg_images),
}


@pytest.fixture(scope="module", params=list(MODELS))
def made(request):
    """A model, and two images for it."""
    model, images = MODELS[request.param]
    return model(), images()


@torch.no_grad()
def test_unknown_arguments_are_type_errors(made):
    model, pixels = made
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'class_indexes'; it takes .*class_"):
        model(pixel_values=pixels, class_indexes=[[0]])


@torch.no_grad()
def test_return_dict(made):
    model, pixels = made
    output, parts = model(pixel_values=pixels), model(pixel_values=pixels, return_dict=False)
    assert type(parts) is tuple and len(parts) == len(output)
    assert all(torch.equal(part, output[index]) for index, part in enumerate(parts) if isinstance(part, torch.Tensor))
    assert tree_flatten(output)[0]


def test_trainer_evaluates(made, tmp_path):
    """Without labels: the predictions of all images, and nothing but tensors."""
    model, pixels = made
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=1, use_cpu=True, report_to="none")
    trainer = Trainer(model, arguments)
    predictions = trainer.predict([{"pixel_values": one} for one in pixels]).predictions
    with torch.no_grad():
        output = model(pixel_values=pixels[:1])
    names = [name for name in output if name not in model.config.keys_to_ignore_at_inference]
    assert len(names) == len(predictions) >= 2
    for name, values in zip(names, predictions):
        first = output[name]
        torch.testing.assert_close(torch.from_numpy(values)[: len(first)], first.detach())
        assert len(values) == 2 * len(first)
