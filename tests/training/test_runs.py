"""Whole runs through the command line and the example scripts."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_training import SCRIPT, interrupted, run_python, save_tiny_base

from ssprompt_hf.cli.main import main
from ssprompt_hf.data.loading import load_street_scenes
from ssprompt_hf.model import SSPromptModel
from ssprompt_hf.tuners.ssprompt import SSPromptConfig

EXAMPLES = SCRIPT.parents[2] / "examples"
SCENES = ["--dataset", "street-scenes/fog", "--dataset_options", '{"num_images": 6, "size": [32, 64]}']
QUICK = ["--max_steps", "4", "--per_device_train_batch_size", "2", "--use_cpu", "--disable_tqdm", "True"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Output folder of a finished run."""
    output = tmp_path_factory.mktemp("trained")
    options = ["--base_model", base, *SCENES, *QUICK, "--shots", "2", "--allow_fewer", "--save_steps", "2"]
    assert main(["train", *options, "--output_dir", str(output)]) == 0
    return output


def weights(output):
    return (output / "adapter" / "adapter_model.safetensors").read_bytes()


def test_training_writes_adapter_metrics_and_picture(trained):
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["adapter_bytes"] == len(weights(trained))
    assert metrics["trainable_parameters"] == 6 * 32 + 6 + 11 * 32 + 11 + 11 * 33 + 11
    assert metrics["steps"] == 4 and metrics["evaluation_images"] == 6 and metrics["train_seconds"] > 0
    assert 0 <= metrics["zero_shot_miou"] <= 100 and 0 <= metrics["ssprompt_miou"] <= 100
    assert metrics["ssprompt_miou"] == metrics["scores"]["adapted"]["mean_iou"]
    assert metrics["settings"]["training"]["learning_rate"] == SSPromptConfig().default_learning_rate
    with Image.open(trained / "picture.png") as picture:
        assert picture.width > 900
    assert sorted(path.name for path in (trained / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    assert config["chosen_images"] == metrics["shots"]["file_names"] and config["shots"] == 2
    assert config["metrics"]["SSPrompt"]["mean_iou"] == metrics["ssprompt_miou"]
    assert config["class_names"][:2] == ["road", "pavement"] and len(config["colors"]) == 11
    assert config["class_ids"] == list(range(11)) and config["ignore_index"] == 255


def test_evaluating_the_saved_adapter_gives_the_same_scores(trained, tmp_path):
    options = ["--adapter", str(trained / "adapter"), *SCENES, "--use_cpu", "--disable_tqdm", "True"]
    assert main(["evaluate", *options, "--output_dir", str(tmp_path)]) == 0
    scores, expected = (json.loads((folder / "metrics.json").read_text())["scores"] for folder in (tmp_path, trained))
    assert scores == expected
    assert (tmp_path / "picture.png").is_file()


def test_evaluating_a_base_model(base, trained, tmp_path):
    options = ["--base_model", base, *SCENES, "--use_cpu", "--disable_tqdm", "True", "--output_dir", str(tmp_path)]
    assert main(["evaluate", *options]) == 0
    metrics, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path, trained))
    assert metrics["scores"] == {"zero_shot": expected["scores"]["zero_shot"]} and metrics["adapter"] is None
    options = [
        "--base_model",
        base,
        *SCENES,
        *QUICK,
        "--output_dir",
        str(tmp_path / "trained"),
        "--method",
        "zero_shot",
    ]
    assert main(["train", *options]) == 0
    assert json.loads((tmp_path / "trained" / "metrics.json").read_text())["scores"] == metrics["scores"]


def test_predicting_and_describing(base, trained, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    image = load_street_scenes("street-scenes/fog", "test", num_images=1, size=(32, 64))[0]["image"]
    Image.fromarray(image).save(pictures / "one.png")
    adapter = str(trained / "adapter")
    assert main(["predict", str(pictures), "--adapter", adapter, "--output_dir", str(tmp_path / "out")]) == 0
    found = np.asarray(Image.open(tmp_path / "out" / "one.png"))
    assert np.array_equal(found, SSPromptModel.from_pretrained(adapter=adapter).predict(image).class_map)
    segments = json.loads((tmp_path / "out" / "segments.json").read_text())["one"]
    assert sum(segment["area"] for segment in segments) == found.size
    assert (tmp_path / "out" / "one-overlay.png").is_file()

    options = ["--base_model", base, "--class_names", "road", "sky", "--task", "panoptic", "--threshold", "0"]
    assert main(["predict", str(pictures / "one.png"), *options, "--output_dir", str(tmp_path / "names")]) == 0
    assert set(np.unique(np.asarray(Image.open(tmp_path / "names" / "one.png")))) <= {0, 1, 255}

    capsys.readouterr()
    assert main(["info", adapter]) == 0
    text = capsys.readouterr().out
    steps = json.loads((trained / "metrics.json").read_text())["steps"]
    assert f"steps {steps}, batch_size " in text
    assert "935 learned numbers" in text and "2 chosen" in text and re.search(r"10 rider +thing +0\.\d\d", text)
    assert main(["info", adapter, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["dataset"] == "street-scenes/fog"


def test_going_on_from_a_checkpoint(base, trained, tmp_path):
    options = ["--base_model", base, *SCENES, *QUICK, "--shots", "2", "--allow_fewer", "--output_dir", str(tmp_path)]
    assert main(["train", *options, "--save_steps", "2", "--resume"]) == 0  # nothing there yet
    assert weights(tmp_path) == weights(trained)
    for path in (tmp_path / "checkpoint-4").iterdir():
        path.unlink()
    assert main(["train", *options, "--save_steps", "2", "--resume"]) == 0
    assert weights(tmp_path) == weights(trained)
    (tmp_path / "checkpoint-notes").mkdir()
    assert main(["train", *options, "--save_strategy", "no"]) == 0  # anew: the checkpoints of earlier runs go
    assert weights(tmp_path) == weights(trained) and checkpoints(tmp_path) == ["checkpoint-notes"]


def checkpoints(output) -> list[str]:
    return sorted(path.name for path in output.glob("checkpoint-*"))


def test_checkpoints_of_an_unfinished_run_are_kept(base, trained, tmp_path, capsys):
    options = ["--base_model", base, *SCENES, *QUICK, "--shots", "2", "--allow_fewer", "--output_dir", str(tmp_path)]
    command = ["train", *options, "--save_steps", "2"]
    assert interrupted(command) == 130
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} holds a training that did not finish, up to checkpoint-2: add --resume" in error
    assert checkpoints(tmp_path) == ["checkpoint-2"] and not (tmp_path / "adapter").exists()
    for changed, message in (
        (["--method", "locn"], "is of another run, with the method SSPrompt, and cannot go on with LOCN: start anew"),
        (["--seed", "5"], "was written with seed"),
    ):
        assert main([*command, "--resume", *changed]) == 2
        assert f"{tmp_path / 'checkpoint-2'} {message}" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert weights(tmp_path) == weights(trained)
    # a finished run makes room for the next; when that is interrupted, the adapter is not that of its checkpoints
    assert interrupted(command) == 130
    assert checkpoints(tmp_path) == ["checkpoint-2"] and (tmp_path / "adapter").exists()
    assert main(command) == 2 and checkpoints(tmp_path) == ["checkpoint-2"]


def test_a_bad_label_in_the_evaluation_does_not_cost_the_training(base, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "out"
    scenes = load_street_scenes("street-scenes/fog", "train", num_images=3, size=(32, 64))
    for index, split in enumerate(["train", "train", "val"]):
        row = scenes[index]
        label = row["label"] if split == "train" else np.full_like(row["label"], 200)
        for folder, array in (("images", row["image"]), ("annotations", label)):
            (data / folder / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(data / folder / split / f"{index}.png")
    (data / "classes.txt").write_text("\n".join(scenes.classes.names))
    output.mkdir()
    for name in ("metrics.json", "picture.png"):
        (output / name).write_text("of an earlier run")
    assert main(["train", "--base_model", base, "--data_dir", str(data), *QUICK, "--output_dir", str(output)]) == 2
    assert "200" in capsys.readouterr().err
    adapter = output / "adapter"
    assert sorted(path.name for path in output.iterdir()) == ["adapter", "checkpoint-4"]
    assert "Not evaluated yet." in (adapter / "README.md").read_text()
    assert SSPromptModel.from_pretrained(adapter=adapter).predict(scenes[0]["image"]).class_map.shape == (32, 64)


@pytest.mark.parametrize(
    "options",
    [
        ["--method", "spaprompt", "--learn_weights", "False"],
        ["--method", "semprompt", "--task", "panoptic"],
        ["--method", "coop", "--prompt_options", '{"num_context_tokens": 4, "class_token_position": "middle"}'],
        ["--method", "locn", "--feature_cache", "none"],
        ["--method", "vspl", "--prompt_options", '{"point_grid_size": 2}', "--image_size", "40"],
        ["--spatial_source", "point_grid", "--prompt_options", '{"point_grid_size": 2}', "--semantic_loss", "nll"],
        ["--image_size", "64", "--prompt_options", '{"init_embeddings": "noise"}', "--feature_cache", "disk"],
    ],
    ids=["spatial", "semantic panoptic", "coop", "locn", "vspl", "point grid", "image size"],
)
def test_variants(base, tmp_path, options):
    assert main(["train", "--base_model", base, *SCENES, *QUICK, "--output_dir", str(tmp_path), *options]) == 0
    adapter = str(tmp_path / "adapter")
    assert main(["evaluate", "--adapter", adapter, *SCENES, "--use_cpu", "--output_dir", str(tmp_path / "again")]) == 0
    first, again = (
        json.loads((folder / "metrics.json").read_text())["scores"] for folder in (tmp_path, tmp_path / "again")
    )
    assert first == again


def test_demo(base, tmp_path, capsys):
    options = ["--base_model", base, "--dataset_options", '{"num_images": 6, "size": [32, 64]}', "--shots", "2"]
    assert main(["demo", *options, "--allow_fewer", *QUICK, "--output_dir", str(tmp_path)]) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.match(r"2-shot SSPrompt on street-scenes/fog/custom: mean IoU [\d.]+ zero-shot, [\d.]+ adapted", last)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for name in ("zero_shot_miou", "ssprompt_miou", "adapter_bytes", "train_seconds", "trainable_parameters"):
        assert isinstance(metrics[name], (int, float))
    assert (tmp_path / "picture.png").is_file() and (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize(
    ("image_size", "size", "padded"),
    [(None, (32, 72), (32, 96)), (80, (80, 180), (96, 192)), (24, (24, 54), (32, 64))],
)
def test_the_limit_of_the_longer_side_allows_the_same_shapes_at_every_size(base, image_size, size, padded):
    """The processor of `base` has a shorter side of 32 pixels and a longer of at most 128."""
    model = SSPromptModel.from_pretrained(base, class_names=["road", "sky"])
    image = np.random.default_rng(0).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    processor = model.sized_image_processor(image_size)
    assert processor(image, return_tensors="pt")["image_sizes"].tolist() == [list(size)]
    wide = processor(np.zeros((10, 40, 3), np.uint8), return_tensors="pt")["image_sizes"][0]
    assert wide[1] == 4 * wide[0]
    seen = []
    model.get_base_model().model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model.predict(image, image_size=image_size)
    assert [tuple(shape[2:]) for shape in seen] == [padded]


def test_an_interrupted_demo_starts_anew(base, tmp_path):
    options = ["--base_model", base, "--dataset_options", '{"num_images": 6, "size": [32, 64]}', "--shots", "2"]
    command = ["demo", *options, "--allow_fewer", *QUICK, "--save_steps", "1", "--output_dir", str(tmp_path)]
    assert interrupted(command) == 130
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    assert interrupted(command, step=1) == 130
    assert checkpoints(tmp_path) == ["checkpoint-1"]
    assert main(command) == 0 and main(command) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["steps"] == 4


def test_examples_with_accelerate_and_two_processes(base, trained, tmp_path):
    options = ["--base_model", base, *SCENES, "--shots", "2", "--allow_fewer", "--output_dir", str(tmp_path), *QUICK]
    options[options.index("--per_device_train_batch_size") + 1] = "1"
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    run_python(*launch, EXAMPLES / "train.py", *options, ACCELERATE_USE_CPU="1")
    one, two = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (trained, tmp_path))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)
    assert not (tmp_path / "feature_cache").exists()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["evaluation_images"] == 6
    assert metrics["scores"]["zero_shot"] == json.loads((trained / "metrics.json").read_text())["scores"]["zero_shot"]


def test_examples_of_evaluation_and_prediction(trained, tmp_path):
    adapter = str(trained / "adapter")
    evaluate = ["--adapter", adapter, *SCENES, "--use_cpu", "--output_dir", str(tmp_path)]
    run_python(EXAMPLES / "evaluate.py", *evaluate)
    assert (tmp_path / "metrics.json").is_file()
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(tmp_path / "black.png")
    output = run_python(
        EXAMPLES / "predict.py", tmp_path / "black.png", "--adapter", adapter, "--output_dir", tmp_path / "out"
    )
    assert "black.png" in output.stdout and (tmp_path / "out" / "black.png").is_file()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--data_dir", "/nowhere"], "/nowhere: no such folder"),
        (["train"], "No data set given"),
        (["train", *SCENES, "--shots", "50"], "fewer images"),
        (["train", *SCENES, "--shots", "0"], "`shots` must be an integer of 1 or more"),
        (["train", *SCENES, "--method", "none"], "method is 'none'"),
        (["train", *SCENES, "--method", "vspl", "--spatial_source", "point_grid"], "vspl has no choice of spatial"),
        (["train", *SCENES, "--prompt_options", "{"], "which is no JSON"),
        (["train", *SCENES, "--prompt_options", '{"rank": 8}'], "'rank', which is no field"),
        (["train", *SCENES, "--method", "coop", "--prompt_options", '{"template": ""}'], "no field of CoOpConfig"),
        (["train", *SCENES, "--semantic_loss", "focal"], "semantic_loss is 'focal'"),
        (["train", *SCENES, "--image_size", "0"], "image_size is 0"),
        (["evaluate", *SCENES, "--adapter", "/nowhere"], "/nowhere"),
        (["predict", "/nowhere.png"], "nothing to look for"),
        (["info", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(base, command, message, capsys, tmp_path):
    if command[0] in ("train", "evaluate"):
        command = [*command, "--use_cpu", "--output_dir", str(tmp_path)]
    if command[0] in ("train", "predict"):
        command = [*command, "--base_model", base]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"ssprompt-hf {command[0]}: error:") and message in error


def test_an_adapter_for_other_classes_is_refused(trained, capsys, tmp_path):
    other = ["--dataset", "street-scenes/fog/custom", "--dataset_options", '{"num_images": 2, "size": [32, 64]}']
    options = ["--adapter", str(trained / "adapter"), *other, "--use_cpu", "--output_dir", str(tmp_path)]
    assert main(["evaluate", *options]) == 2
    assert "was made for the classes road" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "predict", "info", "explain"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) < 150
    assert ("--learning_rate" in text) == (command in ("demo", "train"))
