"""`ssprompt-hf info`: an adapter or a base model, told apart by what is there."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_training import save_tiny_base

from ssprompt_hf.adapters.info import adapter_info, describe_adapter
from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import DownloadError
from ssprompt_hf.models.registry import ADAPTER_CONFIG
from ssprompt_hf.tuners.ssprompt import SSPromptConfig


@pytest.fixture
def told(monkeypatch):
    """What is known of base models, in a form that is easy to see."""
    monkeypatch.setattr("ssprompt_hf.loading.describe_base_model", lambda name, **_: f"base model {name}")
    monkeypatch.setattr("ssprompt_hf.loading.base_model_facts", lambda name, **_: {"base_model": name})


@pytest.fixture
def no_hub(monkeypatch):
    def fail(name, *_, **__):
        raise DownloadError(f"asked the Hub for {name!r}")

    monkeypatch.setattr("ssprompt_hf.adapters.files.fetch_adapter", fail)


def save_adapter(folder):
    SSPromptConfig(class_names=["road", "sky"]).save_pretrained(folder)
    save_file(
        {"base_model.model.class_embeddings.ssprompt_weight": torch.zeros(2)}, folder / "adapter_model.safetensors"
    )
    return str(folder)


def info(name, capsys) -> str:
    assert main(["info", str(name)]) == 0
    text = capsys.readouterr().out.strip()
    assert main(["info", str(name), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts.get("base_model") == (text.removeprefix("base model ") if text.startswith("base model ") else None)
    return text


@pytest.mark.parametrize("name", ["seem-lite", "seem-t", "sam3", "facebook/sam3", "CIDAS/clipseg-rd64-refined"])
def test_names_of_base_models(told, no_hub, name, capsys):
    assert info(name, capsys) == f"base model {name}"


def test_folders(told, tmp_path, capsys):
    base, adapter = tmp_path / "base", save_adapter(tmp_path / "adapter")
    base.mkdir()
    (base / "config.json").write_text("{}")
    assert info(base, capsys) == f"base model {base}"
    assert info(adapter, capsys).startswith(f"adapter      {adapter}\n")
    (tmp_path / "adapter" / "config.json").write_text("{}")
    assert info(adapter, capsys).startswith(f"adapter      {adapter}\n")


def test_a_folder_comes_before_a_name(told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_adapter(tmp_path / "seem-t")
    assert info("seem-t", capsys).startswith("adapter      seem-t\n")


def test_ids_of_the_hub(told, tmp_path, capsys, monkeypatch):
    """The files of an adapter are fetched; a repository without any is a base model's."""
    for name in ("adapter", "base"):
        (tmp_path / name).mkdir()
    save_adapter(tmp_path / "adapter")

    def fetch(name):
        return str(tmp_path / name.split("/")[1])

    monkeypatch.setattr("ssprompt_hf.adapters.files.fetch_adapter", fetch)
    assert info("me/base", capsys) == "base model me/base"
    assert info("me/adapter", capsys).startswith(f"adapter      {tmp_path / 'adapter'}\n")


@pytest.mark.parametrize("name", ["fog", "me/fog"])
def test_what_cannot_be_had(told, no_hub, name, capsys):
    """A bare name that is no base model's is an adapter's."""
    assert main(["info", name]) == 2
    assert capsys.readouterr().err == f"ssprompt-hf info: error: asked the Hub for {name!r}\n"


def test_a_folder_of_neither(told, tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    assert f"holds no adapter: there is no {ADAPTER_CONFIG} in it" in capsys.readouterr().err


def test_what_a_base_model_costs(tmp_path, capsys):
    base = save_tiny_base(tmp_path)
    assert main(["info", base]) == 0 and capsys.readouterr().out.strip()
    assert main(["info", base, "--json"]) == 0
    assert isinstance(json.loads(capsys.readouterr().out), dict)


@pytest.mark.parametrize("metrics", [[1, 2], "good", {"SSPrompt": 3}, {"SSPrompt": {"mean_iou": "high"}}])
def test_an_adapter_of_another_program(metrics, tmp_path, capsys):
    SSPromptConfig(class_names=["road", "sky"]).save_pretrained(tmp_path)
    file = tmp_path / ADAPTER_CONFIG
    foreign = {"metrics": metrics, "chosen_images": 16, "training": ["sgd"], "dataset": 3}
    file.write_text(json.dumps(json.loads(file.read_text()) | foreign))
    tensors = {"base_model.model.class_embeddings.ssprompt_weight": torch.zeros(1), "ssprompt_weight": torch.zeros(0)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    text = describe_adapter(adapter_info(tmp_path))
    assert "images       16\n" in text and "0 road" in text
    assert main(["info", str(tmp_path)]) == 0 and main(["info", str(tmp_path), "--json"]) == 0


def test_names_cannot_write_on_the_terminal(tmp_path, capsys):
    """Nor can they forge lines, or change the direction of what follows."""
    folder = tmp_path / "adapter"
    names = ["\x1b[2Jroad", "sky\nfingerprint  forged", "\u202etree"]
    SSPromptConfig(class_names=names, dataset="fog\r\x1b]0;title\x07").save_pretrained(folder)
    save_file({"base_model.model.x\x1b[1m.ssprompt_weight": torch.zeros(3)}, folder / "adapter_model.safetensors")
    assert main(["info", str(folder)]) == 0
    text = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "\\x1b[2Jroad" in text and "sky\\nfingerprint" in text and "\\u202etree" in text
    assert not any(line.startswith("fingerprint  forged") for line in text.split("\n"))
