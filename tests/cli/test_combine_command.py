"""`ssprompt-hf combine`."""

import pytest
import torch
from peft import get_peft_model
from prompted_seem import set_classes, small_seem, train
from safetensors.torch import load_file

from ssprompt_hf import SSPromptConfig
from ssprompt_hf.adapters.files import read_adapter
from ssprompt_hf.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, two seeds of an adapter, and one for other classes."""
    folder = tmp_path_factory.mktemp("combine")
    small_seem().save_pretrained(folder / "base")
    trained = (("one", "ab", [7, 8], 0.5), ("two", "ab", [7, 8], 0.2), ("other", "cd", [1, 2], 0.3))
    for name, classes, ids, rate in trained:
        base = small_seem()
        set_classes(base, list(classes), [0])
        config = SSPromptConfig(spatial_embedding=False, spatial_weight=False, seed=int(10 * rate))
        config.base_model_name_or_path = str(folder / "base")
        adapter = get_peft_model(base, config)
        adapter.peft_config["default"].base_model_name_or_path = str(folder / "base")
        adapter.peft_config["default"].class_ids = ids  # as training always sets them
        train(adapter, lr=rate).save_pretrained(folder / name / "adapter")
    return folder


def paths(folder, *names) -> list[str]:
    return [str(folder / name / "adapter") for name in names]


def test_the_union_of_classes(folder, tmp_path, capsys):
    assert main(["combine", *paths(folder, "one", "other"), "--output_dir", str(tmp_path / "out")]) == 0
    assert "2 adapters, 4 classes" in capsys.readouterr().out
    config, tensors = read_adapter(tmp_path / "out")
    assert config.class_names == ["a", "b", "c", "d"] and config.thing_class_ids == [0, 2]
    assert config.class_ids == [7, 8, 1, 2]
    assert [(source["adapter"], source["seed"]) for source in config.made_from] == [("one", 5), ("other", 3)]
    parts = [read_adapter(path).tensors for path in paths(folder, "one", "other")]
    (name,) = [name for name in tensors if name.endswith("ssprompt_embedding")]
    assert torch.equal(tensors[name], torch.cat([part[name] for part in parts]))
    assert "one, other" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("options, weights", [(["--mean"], (0.5, 0.5)), (["--weights", "0.25", "0.75"], (0.25, 0.75))])
def test_sums(folder, tmp_path, options, weights):
    adapters = paths(folder, "one", "two")
    assert main(["combine", *adapters, *options, "--output_dir", str(tmp_path / "out")]) == 0
    first, second, mean = (load_file(f"{path}/adapter_model.safetensors") for path in (*adapters, tmp_path / "out"))
    for name in mean:
        torch.testing.assert_close(mean[name], weights[0] * first[name] + weights[1] * second[name])
    made_from = read_adapter(tmp_path / "out").config.made_from
    assert [source["weight"] for source in made_from] == list(weights)


@pytest.mark.parametrize(
    "names, options, message",
    [
        (("one", "two"), [], "the class 'a' is in 'one' and in 'two'"),
        (("one", "other"), ["--mean"], "have other classes or settings"),
        (("one", "one"), [], "is given more than once"),
        (("one", "two"), ["--spatial_prompts_of", "night"], "none of the adapters"),
        (("one", "two"), ["--mean", "--shared_classes", "first"], "--shared_classes is for unions of classes"),
        (("one", "two"), ["--weights", "nan", "1"], "weights holds nan"),
    ],
)
def test_mistakes(folder, tmp_path, capsys, names, options, message):
    assert main(["combine", *paths(folder, *names), *options, "--output_dir", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
