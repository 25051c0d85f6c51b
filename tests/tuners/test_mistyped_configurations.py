"""A value of the wrong type in a configuration is named, with its field and what it must be, whoever reads it."""

import json
from dataclasses import fields

import numpy as np
import pytest
from peft import PeftConfig

from ssprompt_hf.adapters.files import read_adapter
from ssprompt_hf.errors import AdapterError
from ssprompt_hf.tuners import CoOpConfig, LOCNConfig, SSPromptConfig, VSPLConfig

CONFIGS = [SSPromptConfig, CoOpConfig, LOCNConfig, VSPLConfig]
WRONG = ["text", 3, 2.5, True, ["a", 1], {"a": 1}, [[1, "b"]], [None], {"a": [1]}, [{}], -(10**30), float("nan")]


@pytest.mark.parametrize("cls", CONFIGS)
def test_every_field_with_every_wrong_value(cls):
    """It is taken, or refused with the name of a field; nothing else is raised."""
    refused = 0
    for field in fields(cls):
        for value in WRONG:
            try:
                cls(**{field.name: value})
            except AdapterError as error:
                refused += 1
                told = [name.name for name in fields(cls)] + ["nothing is learned", "task type"]
                assert any(part in str(error) for part in told), str(error)
    assert refused > 100


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": "512"}, "image_size is '512'; it must be a whole number or nothing"),
        ({"thing_class_ids": 3}, "thing_class_ids is 3; it must be a list, each entry a whole number or nothing"),
        ({"class_names": 5}, "class_names is 5; it must be a list, each entry a text or nothing"),
        ({"class_names": ["a", None]}, r"class_names is \['a', None\]; it must be a list, each entry a text"),
        ({"colors": [[1, "b", 2]]}, "colors is .*; it must be a list, each entry a list, each entry a whole number"),
        ({"spatial_weight": "no"}, "spatial_weight is 'no'; it must be true or false"),
        ({"init_weight": "half"}, "init_weight is 'half'; it must be a number"),
        ({"base_model_digests": [1]}, r"base_model_digests is \[1\]; it must be an object of names and values or no"),
        ({"task": 1}, "task is 1; it must be a text"),
    ],
)
def test_by_us_and_by_peft(tmp_path, values, message):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "SSPROMPT"} | values))
    for read in (read_adapter, PeftConfig.from_pretrained):
        with pytest.raises(AdapterError, match=message):
            read(tmp_path)


def test_what_python_has_besides_lists_and_numbers():
    config = SSPromptConfig(
        class_names=("a", "b"), thing_class_ids={1}, colors=np.zeros((2, 3), int), seed=np.int64(3), init_weight=0.5
    )
    assert config.class_names == ["a", "b"] and config.thing_class_ids == [1]
