"""Every family on a GPU; `SSPROMPT_TEST_DEVICE=cpu` runs the same code where there is none."""

import copy
import os

import pytest
import torch
from peft import get_peft_model
from tiny_families import answers, move

from ssprompt_hf.tuners import SSPromptConfig

DEVICE = os.environ.get("SSPROMPT_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_an_adapted_model_answers_there_as_on_the_cpu(tiny, monkeypatch):
    # by default cuDNN convolves with ten bits of mantissa: answers of SAM and CLIPSeg then differ by 1e-3
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, pixel_values = move(get_peft_model(tiny.model(), SSPromptConfig())), tiny.pixel_values(2)
    expected = answers(model, pixel_values)
    moved = copy.deepcopy(model).to(DEVICE)
    found = answers(moved, pixel_values.to(DEVICE))
    assert found.device.type == torch.device(DEVICE).type
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)
    moved.merge_adapter()
    torch.testing.assert_close(answers(moved, pixel_values.to(DEVICE)), found, rtol=1e-5, atol=1e-6)


def test_half_precision(tiny):
    model, pixel_values = move(get_peft_model(tiny.model(), SSPromptConfig())).to(DEVICE), tiny.pixel_values()
    expected = answers(model, pixel_values.to(DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        found = answers(model, pixel_values.to(DEVICE))
    assert found.isfinite().all() and (found - expected).abs().mean() < 0.1


def test_a_step_of_training(tiny):
    model, pixel_values = move(get_peft_model(tiny.model(), SSPromptConfig())).to(DEVICE), tiny.pixel_values()
    base = model.get_base_model()
    stage = base.feature_stages(("spatial", "semantic"))[0]
    features = base.image_features(pixel_values.to(DEVICE), stage)
    kept = {name: tensor.cpu() for name, tensor in features.items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        inputs = base.decoder_inputs([kept], DEVICE)
        outputs = model(**inputs, image_sizes=torch.tensor([pixel_values.shape[-2:]]))
        loss = base.predictions(outputs)[0].class_scores()[:, 0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
