"""Explanations of adapters on SAM, whose spatial prompts are points and make no masks of their own."""

import json

import pytest
import torch
from few_classes import NAMES, save_few_scenes
from tiny_sam import tiny_sam

from ssprompt_hf import DataArguments, SSPromptConfig, SSPromptModel, VSPLConfig
from ssprompt_hf.explain.run import explain_adapter


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam")
    tiny_sam(None).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(base, tmp_path_factory):
    return DataArguments(base_model=base, data_dir=str(save_few_scenes(tmp_path_factory.mktemp("data"))))


@pytest.mark.parametrize("method", ["ssprompt", "vspl"])
def test_what_is_told_of_sam(base, data, method, tmp_path):
    config = SSPromptConfig() if method == "ssprompt" else VSPLConfig(point_grid_size=4)
    model = SSPromptModel.from_pretrained(base, config=config, class_names=NAMES, is_trainable=True)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter")
    explain_adapter(tmp_path / "adapter", data, tmp_path / "why", use_cpu=True, examples=1)
    text, report = ((tmp_path / "why" / name).read_text() for name in ("explain.json", "report.md"))
    explanation = json.loads(text)
    spatial, semantic = (explanation["prompts"][kind] for kind in ("spatial", "semantic"))
    assert spatial["names"] == [f"point {index}" for index in range(16)] and spatial["learned"]
    assert semantic["learned"] == (method == "ssprompt") and ("weights" in semantic) == (method == "ssprompt")
    assert (
        explanation["prompt_names"]["adapted"] == [] and "NaN" not in (tmp_path / "why" / "explain.json").read_text()
    )
    report = (tmp_path / "why" / "report.md").read_text()
    assert "The base model is asked about one class at a time. *Spatial prompts*, the tokens of points" in report
    assert "proposes one mask" not in report and "object queries" not in report
    assert "has no text encoder" in report and "Which spatial prompts serve which class" not in report
