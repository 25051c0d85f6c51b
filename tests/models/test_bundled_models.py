"""The base models inside the package: they load by name, say how large they are, and segment."""

from pathlib import Path

import numpy as np
import pytest

import ssprompt_hf
from ssprompt_hf import SSPromptModel
from ssprompt_hf.data.loading import load_street_scenes
from ssprompt_hf.metrics.confusion import confusion_matrix
from ssprompt_hf.models.registry import BASE_MODELS

ASSETS = Path(ssprompt_hf.__file__).parent / "assets"


@pytest.mark.parametrize("name", [name for name, model in BASE_MODELS.items() if model.embedded])
def test_it_is_small_and_knows_streets(name):
    assert sum(path.stat().st_size for path in (ASSETS / name).iterdir()) < 14e6
    assert f"# {name}\n" in (ASSETS / name / "README.md").read_text(encoding="utf-8")
    scenes = load_street_scenes("street-scenes/clear", split="validation", num_images=1, size=(192, 384))
    example = scenes[0]
    result = SSPromptModel.from_pretrained(name).predict(example["image"])
    assert result.class_names == scenes.classes.names
    matrix = confusion_matrix(result.class_indices, example["label"], len(scenes.classes))[:, : len(scenes.classes)]
    assert np.trace(np.asarray(matrix)) > 0.8 * np.asarray(matrix).sum()
