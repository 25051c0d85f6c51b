"""Damage is never accepted in silence: flipped bits, an interrupted save, another base model."""

import json
import os
import shutil

import pytest
import torch
from faults import flip_bit, full_disk, killed_in, some_bits
from peft import PeftModel, set_peft_model_state_dict
from prompted_seem import adapted, logits, same, small_seem, train, trained
from safetensors.torch import load_file

from ssprompt_hf import SSPromptModel
from ssprompt_hf.adapters.files import read_adapter
from ssprompt_hf.errors import AdapterError, StorageError
from ssprompt_hf.models import fingerprint
from ssprompt_hf.models.fingerprint import has_weights, weight_digests
from ssprompt_hf.tuners import SSPromptConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FOLDER = "there is a folder of that name where a file is to be"
ANOTHER = "the tensors are not those that the configuration was written with"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    trained().save_pretrained(folder)
    return folder


@pytest.fixture
def copied(good, tmp_path):
    return shutil.copytree(good, tmp_path / "copied")


def stored_tensors(folder):
    return load_file(folder / WEIGHTS)


def test_no_flipped_bit_of_200_is_taken(good, copied):
    path = copied / WEIGHTS
    original = path.read_bytes()
    start = 8 + int.from_bytes(original[:8], "little")
    refused = 0
    for bit in some_bits(200, start, len(original)):
        flip_bit(path, bit)
        with pytest.raises(AdapterError, match=f"{ANOTHER}|not finite"):
            read_adapter(copied)
        path.write_bytes(original)
        refused += 1
    for bit in some_bits(40, 0, start):  # of the header: what it says of the tensors, or beside them
        flip_bit(path, bit)
        try:
            tensors = read_adapter(copied).tensors
        except AdapterError:
            refused += 1
        else:
            assert all(torch.equal(tensors[name], tensor) for name, tensor in stored_tensors(good).items())
        path.write_bytes(original)
    assert refused >= 230 and read_adapter(copied)


def test_by_every_door(good, copied):
    flip_bit(copied / WEIGHTS, 8 * (copied / WEIGHTS).stat().st_size - 30)
    base = small_seem()
    expected = logits(base)
    for load in (
        lambda: base.load_adapter(copied),
        lambda: PeftModel.from_pretrained(small_seem(), copied),
        lambda: SSPromptModel.from_pretrained(small_seem(), copied),
    ):
        with pytest.raises(AdapterError, match=ANOTHER):
            load()
    assert same(logits(base), expected)
    model = SSPromptModel.from_pretrained(base, good)
    learned, facts = logits(model), model.peft_config["default"].to_dict()
    config = json.loads((copied / CONFIG).read_text())
    (copied / CONFIG).write_text(json.dumps(config | {"seed": 77}))
    for load in (
        lambda: PeftModel.load_adapter(model, copied, "other"),
        lambda: model.load_adapter(copied, "default"),
    ):
        with pytest.raises(AdapterError, match=ANOTHER):
            load()
    assert same(logits(model), learned) and model.peft_config["default"].to_dict() == facts


def test_a_loaded_adapter_may_be_given_other_tensors(good, tmp_path):
    """The digest is about the files; what is in memory may be trained."""
    model = PeftModel.from_pretrained(small_seem(), good, is_trainable=True)
    mean = {name: tensor / 2 for name, tensor in stored_tensors(good).items()}
    set_peft_model_state_dict(model, mean)
    model.save_pretrained(tmp_path)
    tensors = read_adapter(tmp_path).tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in mean.items())


def test_saved_by_transformers(good, tmp_path):
    """Which writes the configuration first."""
    base = small_seem()
    base.load_adapter(good)
    expected = logits(base)
    shutil.copytree(good, tmp_path / "again")
    base.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / CONFIG).read_text())["tensors_sha256"]
    assert same(logits(SSPromptModel.from_pretrained(small_seem(), tmp_path / "again")), expected)


@pytest.mark.parametrize("knows_digest", [True, False])
def test_killed_at_every_rename_of_a_save(good, tmp_path, knows_digest):
    """Old weights, new weights, or an error; never one under the configuration of the other. The old adapter may be
    one of an earlier version, whose configuration knows no digest."""
    old, copied = tmp_path / "old", tmp_path / "copied"
    shutil.copytree(good, old)
    if not knows_digest:
        config = json.loads((old / CONFIG).read_text())
        del config["tensors_sha256"]
        (old / CONFIG).write_text(json.dumps(config))
    shutil.copytree(old, copied)
    model = SSPromptModel(small_seem(), SSPromptConfig(seed=1))
    train(model, steps=1)
    new = model.get_base_model().get_submodule("class_embeddings").ssprompt_embedding["default"].detach()
    outcomes = set()
    for call in range(1, 20):
        was_killed = killed_in(os, "replace", call, lambda: model.save_pretrained(copied))
        try:
            config, tensors = read_adapter(copied)
        except AdapterError as error:
            assert ANOTHER in str(error)
            outcomes.add("refused")
        else:
            has_new = torch.equal(tensors["base_model.model.class_embeddings.ssprompt_embedding"], new)
            assert config.seed == (1 if has_new else None)
            outcomes.add("new" if has_new else "old")
        if not was_killed:
            break
        shutil.copytree(old, copied, dirs_exist_ok=True)
    assert outcomes == {"old", "refused", "new"}
    # what the killed ones had begun is gone with the next save that ends
    assert not [path.name for path in copied.parent.iterdir() if path.name.startswith(f".{copied.name}")]


def test_a_full_disk_while_saving(good, copied):
    with full_disk(500), pytest.raises(StorageError, match="copied: there is no room for it"):
        SSPromptModel.from_pretrained(small_seem(), good).save_pretrained(copied)
    assert {path.name: path.read_bytes() for path in copied.iterdir()} == {
        path.name: path.read_bytes() for path in good.iterdir()
    }
    assert [path.name for path in copied.parent.iterdir()] == ["copied"]


# The base model


def test_a_base_model_with_one_bit_less_is_another(good):
    """Of every tensor a value that samples do not meet is changed, as little as it can be."""
    base = small_seem()
    digests = weight_digests(base)
    # text and strokes may be left away, and are not asked about
    parameters = [p for name, p in base.named_parameters() if "decoder" in name and p.numel() > 1]
    for parameter in parameters[:: len(parameters) // 20]:
        value = parameter.data.view(-1)[-1].clone()
        parameter.data.view(-1)[-1] = torch.nextafter(value, value + 1)
        assert not has_weights(base, digests)
        parameter.data.view(-1)[-1] = value
    assert has_weights(base, digests)
    base.model.mask_decoder.query_positions.data[0, 1] *= 1.001
    for load in (lambda: SSPromptModel.from_pretrained(base, good), lambda: base.load_adapter(good)):
        with pytest.raises(AdapterError, match=r"some weights of this base model .* are not those"):
            load()
    SSPromptModel.from_pretrained(base, good, check_base_model=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounded_base_models_are_the_same(dtype):
    digests = weight_digests(small_seem())
    half = small_seem().to(dtype)
    copied = small_seem().to(dtype).float()  # from files in half precision
    assert has_weights(half, digests) and has_weights(copied, digests) and has_weights(small_seem().double(), digests)
    for model in (half, copied):
        with torch.no_grad():
            model.model.mask_decoder.query_positions[0, 1] *= 1.5
        assert not has_weights(model, digests)
    made_in_half = weight_digests(half)
    assert len(made_in_half) == 1 and has_weights(half, made_in_half)


def test_an_earlier_adapter_is_checked_as_before(good, copied):
    config = json.loads((copied / CONFIG).read_text())
    del config["base_model_digests"], config["tensors_sha256"]
    (copied / CONFIG).write_text(json.dumps(config))
    expected = logits(SSPromptModel.from_pretrained(small_seem(), good))
    assert same(logits(SSPromptModel.from_pretrained(small_seem(), copied)), expected)
    with pytest.raises(AdapterError, match="has another set of weights"):
        SSPromptModel.from_pretrained(small_seem(seed=1), copied)
    assert adapted().peft_config["default"].base_model_digests


def test_a_folder_where_a_file_is_to_be(good, tmp_path):
    model = SSPromptModel.from_pretrained(small_seem(), good)
    (tmp_path / "taken" / WEIGHTS).mkdir(parents=True)
    with pytest.raises(StorageError, match=FOLDER):
        model.save_pretrained(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_base_model_is_digested_once(good, monkeypatch):
    """Until one of its weights changes, however that is done."""
    monkeypatch.setattr(fingerprint, "SMALL", 8)  # those of the model are small
    calls, digest = [], fingerprint._digest
    monkeypatch.setattr(fingerprint, "_digest", lambda *arguments: calls.append(1) or digest(*arguments))
    model = SSPromptModel.from_pretrained(small_seem(), good)
    first = len(calls)
    for number in range(4):
        model.load_adapter(good, f"adapter{number}")
    assert first and len(calls) <= first + 1
    weight = max(model.get_base_model().model.parameters(), key=torch.numel)
    with torch.no_grad():
        weight.view(-1)[1] += 1e-3
    with pytest.raises(AdapterError, match="some weights of this base model"):
        model.load_adapter(good, "late")
