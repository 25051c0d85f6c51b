"""A folder of a base model whose files are damaged: an error that names it, never another prediction."""

import json
import shutil

import pytest
import torch
from prompted_seem import small_seem
from safetensors.torch import load_file, save_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.errors import CheckpointError, SSPromptError
from ssprompt_hf.loading import load_base_model

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    model = small_seem()
    model.save_pretrained(folder)
    model.default_image_processor().save_pretrained(folder)
    assert {WEIGHTS, CONFIG, PROCESSOR} <= {path.name for path in folder.iterdir()}
    return folder


def edit(**values):
    def damage(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(name, new):
    def damage(path):
        tensors = load_file(path)
        tensors[name] = new(tensors[name])
        save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})

    return damage


QUERIES = "model.mask_decoder.query_positions"
CASES = [
    (CONFIG, cut, f"{CONFIG} is damaged: it is not JSON"),
    (CONFIG, lambda path: path.write_text("[1]"), "holds no JSON object"),
    (CONFIG, lambda path: path.write_bytes(b"\xff\xfe"), f"{CONFIG} is damaged: it is not JSON"),
    (CONFIG, edit(hidden_dim="wide"), "cannot be loaded.*hidden_dim"),
    (CONFIG, edit(hidden_dim=48), "cannot be loaded"),
    (CONFIG, edit(num_attention_heads=0), "cannot be loaded"),
    (CONFIG, edit(backbone_config={"model_type": "nothing"}), "cannot be loaded"),
    (CONFIG, edit(backbone_config=7), "cannot be loaded"),
    (WEIGHTS, cut, f"{WEIGHTS} is damaged"),
    (WEIGHTS, lambda path: path.write_bytes(b""), f"{WEIGHTS} is damaged"),
    (WEIGHTS, change(QUERIES, lambda tensor: None), f"lack {QUERIES}"),
    (WEIGHTS, change(QUERIES, lambda tensor: tensor[:, :-1].contiguous()), "cannot be loaded"),
    (WEIGHTS, change(QUERIES, lambda tensor: tensor * float("nan")), f"{QUERIES} in .* not finite"),
    (PROCESSOR, cut, f"{PROCESSOR} is damaged: it is not JSON"),
    (PROCESSOR, edit(size="large"), "size is 'large'; it must be"),
    (
        PROCESSOR,
        edit(image_std=[58.395]),
        r"processor of .* cannot be used: image_std is \[58.395\]; it must be",
    ),
    (PROCESSOR, edit(do_normalize=None), "do_normalize is None; it must be True or False"),
    (
        "model.safetensors.index.json",
        lambda path: path.write_text('{"weight_map": {"a": "b.safetensors"}}'),
        "lacks b",
    ),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_damage_is_named(good, tmp_path, number):
    name, damage, message = CASES[number]
    folder = shutil.copytree(good, tmp_path / "base")
    damage(folder / name)
    with pytest.raises(SSPromptError, match=message) as caught:
        SSPromptModel.from_pretrained(folder)
    assert isinstance(caught.value, CheckpointError) and str(folder) in str(caught.value)


def test_what_is_not_damaged(good, tmp_path, caplog):
    folder = shutil.copytree(good, tmp_path / "base")
    tensor = load_file(folder / WEIGHTS)[QUERIES]
    assert torch.equal(SSPromptModel.from_pretrained(folder).get_base_model().get_parameter(QUERIES), tensor)
    (folder / PROCESSOR).unlink()
    SSPromptModel.from_pretrained(folder)
    assert "no file for its image processor" in caplog.text


@pytest.mark.parametrize(("name", "value"), [("foo", 1), ("dtype", "floot"), ("device_map", "nowhere")])
def test_wrong_arguments_are_no_damage(good, name, value):
    with pytest.raises((TypeError, ValueError), match=name) as caught:
        load_base_model(good, **{name: value})
    assert not isinstance(caught.value, CheckpointError)
