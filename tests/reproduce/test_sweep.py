"""The sweep of training settings."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.reproduce.cells import CellRunner
from ssprompt_hf.reproduce.plans import Training
from ssprompt_hf.reproduce.presets import make_preset

SWEEP = Path(__file__).resolve().parents[2] / "benchmarks" / "sweep.py"


@pytest.fixture
def sweep(monkeypatch):
    """Calls the script with options."""
    spec = importlib.util.spec_from_file_location("sweep", SWEEP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*options):
        monkeypatch.setattr("sys.argv", ["sweep.py", *map(str, options)])
        module.main()

    return run


def test_a_sequence_of_photographs_is_scored_on(sweep, tmp_path, capsys):
    generator = np.random.default_rng(0)
    for name, top in (("images", 256), ("annotations", 2)):
        (tmp_path / name / "train").mkdir(parents=True)
        for photograph in ("a_1", "a_2", "b_1", "c_1"):
            shape = (32, 64, 3) if name == "images" else (32, 64)
            pixels = Image.fromarray(generator.integers(0, top, shape, dtype=np.uint8))
            pixels.save(tmp_path / name / "train" / f"{photograph}.png")
    (tmp_path / "classes.json").write_text('{"classes": [{"id": 0, "name": "road"}, {"id": 1, "name": "car"}]}')
    out = tmp_path / "out"
    options = ["--domains", "--data_dir", tmp_path, "--seeds", 0, "--output_dir", out, "--output", tmp_path / "found"]
    options += ["--grid", "deep_prompts=last", "max_steps=1", "shrinkage=0", "--held_out"]
    sweep(*options, "b")
    assert (out / "photographs" / "train.txt").read_text().split() == ["a_1.png", "a_2.png", "c_1.png"]
    assert (out / "photographs" / "val.txt").read_text().split() == ["b_1.png"]
    (found,) = json.loads((tmp_path / "found").read_text())
    assert found["settings"] == {"deep_prompts": "last", "max_steps": 1, "shrinkage": 0}
    assert len(found["scores"]["photographs"]) == 1
    with pytest.raises(Exception, match="held_out is 'd', which no name in"):
        sweep(*options, "d")


def test_what_the_recipe_adds_is_part_of_the_settings(tmp_path):
    domain = make_preset("embedded").domains["fog"]

    def settings(method: str, **options):
        runner = CellRunner(tmp_path)
        return runner.training_settings(
            Training(method, "seem-nano", domain, "semantic", 16, 0, tuple(options.items()))
        )

    paper, extended = settings("ssprompt"), settings("ssprompt_extended")
    assert "recipe" not in paper and "class_masks" not in paper["prompts"]  # as earlier versions have it
    assert extended["recipe"] == ["prototypes", "class_masks"]
    ablated = settings("ssprompt_extended", class_masks=False)
    assert ablated["recipe"] == ["prototypes"] and "class_masks" not in ablated["prompts"]
    assert settings("ssprompt", class_masks=True)["prompts"]["class_masks"] is True
    assert settings("ssprompt", class_masks=False) == paper
