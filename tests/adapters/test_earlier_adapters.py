"""Adapters that earlier versions of the package have written (`tests/fixtures/adapters`) load to the bit."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.adapters.files import read_adapter
from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.loading import load_base_model
from ssprompt_hf.models.interface import SEMANTIC

FOLDER = Path(__file__).parents[1] / "fixtures" / "adapters"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())
SAME_PIXELS = 0.999  # processors round differently
SAME_PROCESSOR = torch.backends.cpu.get_cpu_capability() == EXPECTED["cpu_capability"]
"""Whether the last bit of a sigmoid has to be the same, and that of every pixel that is drawn."""

every_adapter = pytest.mark.parametrize("name", EXPECTED["adapters"])


def digest(values: torch.Tensor | np.ndarray | None) -> str | None:
    if values is None:
        return None
    array = values.detach().float().contiguous().numpy() if isinstance(values, torch.Tensor) else values
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    facts = EXPECTED["scene"]
    images = load_segmentation_dataset(facts["dataset"], split=facts["split"], num_images=facts["num_images"])
    image = images[facts["index"]]["image"]
    assert digest(image) == facts["image"] or not SAME_PROCESSOR
    return image


def check_prompts(base: torch.nn.Module, name: str, adapter: str = "default"):
    """What the layers of the base model say of an adapter's prompts."""
    expected = EXPECTED["adapters"][name]
    for path, shape in expected["shapes"].items():
        layer = base.get_submodule(path)
        with torch.no_grad():
            prompts = layer.adapter_prompt(adapter)
        assert list(prompts.shape) == shape
        assert digest(layer.default_prompt(adapter)) == expected["default_prompts"][path], path
        samples, flat = expected["samples"][path], prompts.float().flatten()
        found = flat[torch.arange(len(samples)) * len(flat) // len(samples)].tolist()
        assert found == pytest.approx(samples, rel=1e-5, abs=1e-7), path
        if SAME_PROCESSOR:
            assert digest(prompts) == expected["prompts"][path], path


@every_adapter
def test_prompts_and_predictions(name, scene):
    expected = EXPECTED["adapters"][name]
    model = SSPromptModel.from_pretrained("seem-nano", adapter=FOLDER / name)
    config, base = model.peft_config["default"], model.get_base_model()
    assert config.method_name == expected["method"] and set(config.target_modules) == set(expected["prompts"])
    assert len(base.config.class_names) == expected["classes"]
    check_prompts(base, name)
    result = model.predict(scene)
    truth = np.asarray(Image.open(FOLDER / name / "class_map.png"))
    assert digest(truth) == expected["class_map"]
    assert result.task == expected["task"] and (result.class_map == truth).mean() >= SAME_PIXELS
    if "segments" in expected:
        assert {segment.class_id for segment in result.segments if segment.area > 100} == {
            segment["label_id"] for segment in expected["segments"] if segment["area"] > 100
        }
    for segment in expected.get("segments", []):
        near = [one.area for one in result.segments if one.class_id == segment["label_id"]]
        tolerance = 0.01 * segment["area"] + 20
        assert segment["area"] <= 20 or min(abs(area - segment["area"]) for area in near) <= tolerance


def bare_base(name: str) -> torch.nn.Module:
    """A base model with what the adapter needs, that PEFT or transformers may load it onto."""
    config = read_adapter(FOLDER / name).config
    return load_base_model("seem-nano", config.prompt_encoders(is_new=False, is_trainable=False))[0]


@every_adapter
def test_by_peft_and_by_transformers(name):
    model = PeftModel.from_pretrained(bare_base(name), FOLDER / name)
    check_prompts(model.get_base_model(), name)
    base = bare_base(name)
    base.load_adapter(FOLDER / name, "earlier")
    check_prompts(base, name, "earlier")
    assert base.config.class_names == read_adapter(FOLDER / name).config.class_names


@every_adapter
def test_written_again_the_tensors_are_the_same(name, tmp_path):
    model = SSPromptModel.from_pretrained("seem-nano", adapter=FOLDER / name)
    model.save_pretrained(tmp_path)
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (FOLDER / name, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    old, new = (read_adapter(folder).config.to_dict() for folder in (FOLDER / name, tmp_path))
    assert {key: new[key] for key in old if key != "inference_mode"} == {
        key: value for key, value in old.items() if key != "inference_mode"
    }


def test_all_at_once():
    """One model, to which every adapter is added in turn."""
    names = list(EXPECTED["adapters"])
    plain = load_base_model("seem-nano", ("text", "spatial"))[0]
    model = SSPromptModel.from_pretrained(plain, adapter=FOLDER / names[0], adapter_name=names[0])
    for name in names[1:]:
        model.load_adapter(FOLDER / name, name)
    for name in reversed(names):
        model.set_adapter(name)
        base = model.get_base_model()
        slot = next(slot for slot in base.prompt_slots.values() if slot.kind == SEMANTIC)
        in_force = base.get_submodule(slot.path).weight
        assert len(in_force) == EXPECTED["adapters"][name]["classes"] + slot.num_fixed
        if SAME_PROCESSOR:
            assert digest(in_force) == EXPECTED["adapters"][name]["prompts"][slot.path]
