"""Several adapters of one base model, scored in one pass over the images."""

import json
import shutil

import pytest
import torch

from ssprompt_hf import DataArguments, SSPromptModel, SSPromptTrainingArguments, evaluate_adapter, evaluate_adapters
from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import AdapterError, SSPromptError
from ssprompt_hf.models.seem.mask_decoder import SeemMaskDecoder
from ssprompt_hf.models.seem.modeling_seem import SeemForUniversalSegmentation
from ssprompt_hf.training.evaluation_runs import adapter_names
from ssprompt_hf.tuners import CoOpConfig, SSPromptConfig, VSPLConfig

SCENES = {"dataset": "street-scenes/fog", "eval_split": "test"}
SCENES["dataset_options"] = '{"num_images": 2, "size": [64, 128]}'
SEMANTIC_ONLY = {"spatial_embedding": False, "spatial_weight": False}
NOISE = {"init_embeddings": "noise", "init_std": 0.05, "init_weight": 0.5}
CONFIGS = {
    "ssprompt": lambda: SSPromptConfig(**NOISE),
    "deep": lambda: SSPromptConfig(**NOISE, **SEMANTIC_ONLY, deep_prompts="last"),
    "masks": lambda: SSPromptConfig(**NOISE, **SEMANTIC_ONLY, class_masks=True),
    "semprompt": lambda: SSPromptConfig(**NOISE, **SEMANTIC_ONLY, prompts_per_class=2),
    "coop": lambda: CoOpConfig(num_context_tokens=2),
    "untrained": SSPromptConfig,
    "grid": lambda: SSPromptConfig(**NOISE, spatial_source="point_grid", point_grid_size=2),
    "vspl": lambda: VSPLConfig(point_grid_size=2),
}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Folders of adapters whose prompts are not those of the base model, by name."""
    root = tmp_path_factory.mktemp("adapters")
    classes = DataArguments(**SCENES).load("test").classes
    folders = {}
    for seed, (name, config) in enumerate(CONFIGS.items()):
        torch.manual_seed(seed)
        config = config()
        config.image_size = 64
        config.class_names, config.thing_class_ids = classes.names, classes.thing_indices
        model = SSPromptModel.from_pretrained(
            "seem-nano",
            config=config,
            class_names=classes.names,
            thing_class_ids=classes.thing_indices,
            is_trainable=True,
        )
        if name == "grid":
            model.base_model.set_point_tokens(torch.randn(3, 4, model.config.hidden_dim))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad and name != "untrained":
                    parameter.add_(torch.randn(parameter.shape) * parameter.abs().mean().clamp(min=0.1) / 4)
        folders[name] = str(root / name / "adapter")
        model.save_pretrained(folders[name])
    return folders


def arguments(folder, **more) -> SSPromptTrainingArguments:
    quiet = {"use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    return SSPromptTrainingArguments(output_dir=str(folder), **quiet, **more)


class Calls:
    """Counts the calls of a method, which go on as before."""

    def __init__(self, patch, owner, name):
        self.count, method = 0, getattr(owner, name)

        def counted(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        patch.setattr(owner, name, counted)


@pytest.mark.parametrize("task", ["semantic", "panoptic"])
def test_each_gets_the_scores_that_it_gets_alone(adapters, tmp_path, monkeypatch, task):
    data = DataArguments(**SCENES)
    names = list(adapters) if task == "semantic" else ["semprompt", "untrained"]
    monkeypatch.setattr("ssprompt_hf.training.evaluation_runs.write_picture", lambda *_: None)
    alone = {}
    for name in names:
        own_maps = str(tmp_path / f"alone-{name}")
        alone[name] = evaluate_adapter(data, adapters[name], arguments(tmp_path / "alone"), own_maps, task)
    frozen = Calls(monkeypatch, SeemForUniversalSegmentation, "get_image_features")
    decoder = Calls(monkeypatch, SeemMaskDecoder, "forward")
    args = arguments(tmp_path / "together")
    together = evaluate_adapters(data, [adapters[name] for name in names], args, str(tmp_path / "maps"), task)
    assert list(together) == names
    assert json.dumps(together) == json.dumps(alone)
    different = {json.dumps(one["scores"]["adapted"]) for one in together.values()}
    assert len(different) >= len(names) - 1  # random points may see what object queries see
    assert frozen.count == 2
    # those that learn no spatial prompts, and all that is zero-shot, have the same masks
    assert decoder.count == 2 * {"semantic": 6, "panoptic": 1}[task]
    for name in names:
        written = json.loads((tmp_path / "together" / name / "metrics.json").read_text())
        assert json.dumps(written) == json.dumps(together[name])
        maps = [path for path in (tmp_path / f"alone-{name}").rglob("*") if path.is_file()]
        assert maps
        for path in maps:
            own = tmp_path / "maps" / name / path.relative_to(tmp_path / f"alone-{name}")
            assert path.read_bytes() == own.read_bytes()
    table = (tmp_path / "together" / "table.md").read_text()
    assert all(f"| {name} | " in table for name in names) and "| road | " in table


def test_the_command_takes_several_adapters(adapters, tmp_path, capsys):
    options = ["--dataset", SCENES["dataset"], "--dataset_options", SCENES["dataset_options"], "--eval_split", "test"]
    options += ["--use_cpu", "--disable_tqdm", "True"]
    chosen = [adapters["ssprompt"], adapters["semprompt"]]
    command = ["evaluate", *options, "--output_dir", str(tmp_path), "--export", str(tmp_path / "maps")]
    assert main([*command, "--adapter", *chosen]) == 0
    out = capsys.readouterr().out
    for name in ("ssprompt", "semprompt"):
        assert f"wrote {tmp_path / name / 'metrics.json'}" in out and (tmp_path / name / "picture.png").is_file()
        assert len(list((tmp_path / "maps" / name / "semantic").iterdir())) == 2
    assert (tmp_path / "table.md").read_text() in out


def test_adapters_that_see_other_images_have_a_pass_of_their_own(adapters, tmp_path, monkeypatch):
    monkeypatch.setattr("ssprompt_hf.training.evaluation_runs.write_picture", lambda *_: None)
    data, larger = DataArguments(**SCENES), tmp_path / "larger"
    shutil.copytree(adapters["semprompt"], larger)
    config = larger / "adapter_config.json"
    config.write_text(config.read_text().replace('"image_size": 64', '"image_size": 96'))
    both = [adapters["semprompt"], str(larger)]
    found = evaluate_adapters(data, both, arguments(tmp_path / "together"))
    assert found["semprompt"]["scores"] != found["larger"]["scores"]
    alone = evaluate_adapter(data, str(larger), arguments(tmp_path / "alone"))
    assert json.dumps(found["larger"]) == json.dumps(alone)


def test_mistakes(adapters, tmp_path):
    data = DataArguments(**SCENES)
    with pytest.raises(SSPromptError, match="adapters is empty"):
        evaluate_adapters(data, [], arguments(tmp_path))
    foreign = tmp_path / "foreign"
    shutil.copytree(adapters["semprompt"], foreign)
    config = foreign / "adapter_config.json"
    config.write_text(config.read_text().replace('"base_model_fingerprint": "', '"base_model_fingerprint": "0'))
    with pytest.raises(AdapterError, match="was made for another base model"):
        evaluate_adapters(data, [adapters["semprompt"], str(foreign)], arguments(tmp_path))
    classes = DataArguments(**SCENES | {"dataset": "street-scenes/fog/custom"})
    with pytest.raises(SSPromptError, match="semprompt/adapter' was made for the classes road, pavement"):
        evaluate_adapters(classes, [adapters["semprompt"]], arguments(tmp_path))


def test_names_of_adapters():
    assert adapter_names(["runs/fog/adapter", "runs/night/adapter", "user/fog", "x/adapter/"]) == [
        "fog",
        "night",
        "fog_2",
        "x",
    ]
