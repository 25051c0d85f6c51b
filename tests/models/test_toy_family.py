"""A family of our own invention is what `docs/add_a_base_model.md` shows; `test_every_family.py` tries it out."""

import re
from pathlib import Path

import pytest
import torch
import toy_family
from peft import get_peft_model
from toy_family import ToyConfig, ToyImageProcessor, ToyModel

from ssprompt_hf import SSPromptConfig
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.loading import describe_base_model
from ssprompt_hf.models import registry

PAGE = Path(__file__).parents[2] / "docs" / "add_a_base_model.md"


def test_the_page_shows_the_code_that_is_tested():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    source = Path(toy_family.__file__).read_text()
    shown = [block for block in blocks if block.startswith("class Toy")]
    assert len(shown) == 3
    for block in shown:
        assert block.strip() in source
    (description,) = [block for block in blocks if block.startswith("class Tiny")]
    methods = description[description.index("    def make") : description.index("TINY = ")].strip()
    assert methods in (PAGE.parents[1] / "tests/support/tiny_families/toy.py").read_text()


def test_a_folder_is_described(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "FAMILIES", dict(registry.FAMILIES))
    monkeypatch.setattr(registry, "MODEL_TYPES", dict(registry.MODEL_TYPES))
    registry.register_family("toy", "toy_family", ("toy",))
    ToyModel(ToyConfig()).save_pretrained(tmp_path)
    assert "0.0 M" in describe_base_model(tmp_path)


def test_other_modules_are_no_base_models():
    with pytest.raises(AdapterError, match="is no PromptableModel"):
        get_peft_model(torch.nn.Linear(2, 2), SSPromptConfig())


def test_the_processor_says_where_images_lie():
    processor = ToyImageProcessor().with_image_size(32)
    assert processor.resized_size((100, 200)) == processor.padded_size((32, 32)) == (32, 32)
