"""The command line: mistakes take one line and exit code 2, --help tells the truth, Ctrl-C says how to go on."""

import dataclasses
import errno
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_training import interrupted, save_tiny_base
from transformers import TrainingArguments

from ssprompt_hf.adapters.info import adapter_info, describe_adapter
from ssprompt_hf.cli import main as cli
from ssprompt_hf.cli.main import main
from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.few_shot import LabelStatistics, select_shots
from ssprompt_hf.data.image_inputs import image_sources, open_image
from ssprompt_hf.data.sources.folder import load_segmentation_folder
from ssprompt_hf.errors import LabelFormatError, MissingClassError, NoImagesError, SSPromptError, TooFewImagesError
from ssprompt_hf.segmentation.results import SegmentationResult
from ssprompt_hf.training import runs
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.tuners.ssprompt import SSPromptConfig

SCENES = ["--dataset", "street-scenes/fog", "--dataset_options", '{"num_images": 3, "size": [32, 64]}']
FOG = ["--dataset", "street-scenes/fog"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


def image_file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(path)
    return path


def error_of(command, capsys) -> str:
    """The message of a command that fails as it should: the last line, with nothing like a traceback before it."""
    assert main([str(word) for word in command]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    beginning = f"ssprompt-hf {command[0]}: error: "
    last = text.strip().splitlines()[-1]
    assert last.startswith(beginning)
    return last.removeprefix(beginning)


# Mistakes


@pytest.mark.parametrize("command", ["train", "demo", "evaluate", "predict", "explain"])
@pytest.mark.parametrize("below", [False, True])
def test_a_file_is_no_output_folder(base, command, below, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "prepare_training", lambda *_, **__: pytest.fail("found too late"))
    (tmp_path / "file").write_text("of the user")
    output = tmp_path / "file" / "out" if below else tmp_path / "file"
    options = {
        "train": [*SCENES, "--use_cpu"],
        "demo": ["--use_cpu"],
        "evaluate": [*SCENES, "--use_cpu"],
        "predict": [image_file(tmp_path / "a.png"), "--class_names", "sky"],
        "explain": [tmp_path],
    }[command]
    error = error_of([command, *options, "--base_model", base, "--output_dir", output], capsys)
    assert error.startswith(f"--output_dir is '{output}', which is ") and "a file: give a folder" in error
    assert (tmp_path / "file").read_text() == "of the user"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optim", "foo"], "optim is 'foo'; it must be one of adamw_torch, "),
        (["--lr_scheduler_type", "foo"], "lr_scheduler_type is 'foo'; it must be one of linear, "),
        (["--save_strategy", "foo"], "save_strategy is 'foo'; it must be one of no, steps"),
        (["--lr_scheduler_kwargs", "{"], "a training argument is '{', which is no JSON"),
        (["--logging_steps", "0"], "these training arguments cannot be used: logging strategy"),
        (["--report_to", "foo"], "foo is not supported, only "),
        (["--learning_rate", "-1"], "learning_rate is -1.0; it must be positive"),
        (["--learning_rate", "nan"], "learning_rate is nan; it must be positive"),
        (["--weight_decay", "nan"], "weight_decay is nan; it must be 0 or more"),
        (["--feature_cache_gb", "nan"], "feature_cache_gb is nan; it must be positive"),
        (["--per_device_eval_batch_size", "0"], "per_device_eval_batch_size is 0; it must be at least 1"),
        (["--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0; it must be at least 1"),
        (["--gradient_accumulation_steps", "0"], "gradient_accumulation_steps is 0; it must be at least 1"),
        (["--dataloader_num_workers", "-1"], "dataloader_num_workers is -1; it must be at least 0"),
        (["--seed", "-1"], "seed is -1; it must be at least 0"),
        ([*FOG, "--dataset_options", '{"foo": 3}'], "street-scenes/fog takes no option 'foo'; its options are num_"),
        ([*FOG, "--dataset_options", '{"num_images": "x"}'], "num_images is 'x'; it must be a whole number"),
        ([*FOG, "--dataset_options", '{"seed": 1.5}'], "seed is 1.5; it must be a whole number"),
        ([*FOG, "--dataset_options", '{"size": 3}'], "size is 3; it must be [height, width]"),
        ([*FOG, "--dataset_options", '{"size": ["a", 3]}'], "size is ['a', 3]; it must be [height, width]"),
        ([*FOG, "--dataset_options", '{"split": "val"}'], "'split', which is given by itself, as --train_split or"),
        (["--dataset", "me/nope", "--dataset_options", '{"foo": 3}'], "me/nope takes no option 'foo'"),
        (["--prompt_options", '{"point_grid_size": "x"}'], 'prompt_options is \'{"point_grid_size": "x"}\', which'),
        (["--shots", "1", "--shot_mode", "each"], "`mode` (--shot_mode) must be 'per_class' or 'total'"),
    ],
)
def test_mistakes_in_the_options_of_training(base, options, message, tmp_path, capsys):
    command = ["train", "--base_model", base, "--use_cpu", "--output_dir", tmp_path, *SCENES, *options]
    assert message in error_of(command, capsys)


def test_what_this_machine_cannot_do(tmp_path, capsys, monkeypatch):
    def refuse(self):
        raise ValueError("Your setup doesn't support bf16/gpu. You need to assign use_cpu")

    monkeypatch.setattr(TrainingArguments, "__post_init__", refuse)
    error = error_of(["train", *SCENES, "--bf16", "--output_dir", tmp_path], capsys)
    assert error.startswith("these training arguments cannot be used: Your setup doesn't support bf16")


def test_a_tracker_that_is_not_installed(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: False)
    command = ["train", "--base_model", base, *SCENES, "--use_cpu", "--output_dir", tmp_path]
    assert "requires tensorboard to be installed" in error_of([*command, "--report_to", "tensorboard"], capsys)


def test_a_cache_in_a_file(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    command = ["train", *SCENES, "--use_cpu", "--output_dir", tmp_path / "out"]
    command += ["--feature_cache", "disk", "--feature_cache_dir", tmp_path / "file"]
    assert error_of(command, capsys).startswith(f"--feature_cache_dir is '{tmp_path / 'file'}', which is a file")


@pytest.mark.parametrize(
    "problem",
    [ConnectionError("Couldn't reach 'me/nope' on the Hub\n(timeout)"), ValueError("Config name is missing.")],
)
def test_a_data_set_of_the_hub_that_cannot_be_had(base, problem, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise problem

    monkeypatch.setattr("datasets.get_dataset_split_names", fail)
    command = ["train", "--base_model", base, "--dataset", "me/nope", "--use_cpu", "--output_dir", tmp_path]
    error = error_of(command, capsys)
    text = " ".join(str(problem).split()).rstrip(".")
    assert error.startswith(f"me/nope: this data set cannot be read ({text}). Check its name and the connection")


def test_the_class_file_of_a_data_set_of_the_hub_that_cannot_be_had(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("offline mode")

    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_, **__: ["train"])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(NoImagesError, match="offline mode"):
        load_segmentation_dataset("me/nope")


def test_no_class_names(base, tmp_path, capsys):
    image = image_file(tmp_path / "a.png")
    for name in ("", " "):
        command = ["predict", image, "--base_model", base, "--output_dir", tmp_path / "out", "--class_names", name]
        assert "which is no name" in error_of(command, capsys)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "out/metrics.json"),
            "out/metrics.json: Permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ImportError("You need to install `bitsandbytes`:\n`pip install bitsandbytes`"), "You need to install `bits"),
    ],
)
def test_errors_of_the_machine(error, message, capsys, monkeypatch):
    raise_from_datasets(monkeypatch, error)
    assert error_of(["datasets"], capsys).startswith(message)


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), RuntimeError("a bug"), OSError("a bug")])
def test_bugs_are_not_hidden(error, monkeypatch):
    raise_from_datasets(monkeypatch, error)
    with pytest.raises(type(error), match="a bug"):
        main(["datasets"])


def raise_from_datasets(monkeypatch, error: Exception):
    def fail(options):
        raise error

    monkeypatch.setattr(cli, "run_datasets", fail)


# Help


def help_of(command, capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    return " ".join(capsys.readouterr().out.replace("street-\n", "street-").split()).replace("street- ", "street-")


def test_help_of_training(capsys):
    text = help_of("train", capsys)
    assert "cityscapes, ... (see ssprompt-hf datasets), street-scenes/fog, a folder, or a Hub id --" in text
    assert "number of training steps (default: 200, or as --num_train_epochs says if given)" in text
    assert "The batch size per device for training (default: 4)" in text
    assert "--shots SHOTS choose images so that each class is seen in so many (default: all images)" in text
    assert "folder to write to (default: out)" in text


def test_help_of_the_demo_shows_its_own_defaults(capsys):
    text = help_of("demo", capsys)
    assert "or a Hub id (default: street-scenes/fog/custom)" in text
    assert "each class is seen in so many (default: 16)" in text
    assert "split to evaluate on (default: test)" in text and "folder to write to (default: out/demo)" in text


def test_help_of_evaluation_leaves_out_what_is_for_training(capsys):
    text = help_of("evaluate", capsys)
    assert "folder to write to (default: out/evaluation)" in text and "--per_device_eval_batch_size" in text
    assert "semantic, instance or panoptic (default: the adapter's, or semantic)" in text
    for name in ("learning_rate", "max_steps", "optim", "save_steps", "shrinkage", "semantic_loss", "train_split"):
        assert f"--{name}" not in text
    for name in ("adapter", "dataset", "eval_split", "bf16", "use_cpu"):
        assert f"--{name} " in text


def test_evaluation_takes_all_arguments_of_training():
    words = ["--learning_rate", "0.5", "--train_split", "x", "--shrinkage", "0", "--warmup_steps", "3"]
    options = cli.build_parser().parse_args(["evaluate", *words])
    assert (options.learning_rate, options.train_split, options.shrinkage) == (0.5, "x", 0)
    assert {field.name for field in dataclasses.fields(SSPromptTrainingArguments) if field.init} <= vars(
        options
    ).keys()


# Ctrl-C


def test_an_interrupted_training_says_how_to_go_on(base, tmp_path, capsys):
    command = ["train", "--base_model", base, *SCENES, "--max_steps", "3", "--save_steps", "1", "--use_cpu"]
    command += ["--disable_tqdm", "True", "--output_dir", str(tmp_path)]
    assert interrupted(command, 0) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == "ssprompt-hf train: interrupted"  # nothing saved yet
    assert interrupted(command, 1) == 130
    told = "ssprompt-hf train: interrupted; --resume goes on from the last checkpoint"
    assert capsys.readouterr().err.strip().splitlines()[-1] == told
    assert interrupted([*command, "--resume"], 1) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1] == told


# Files and arrays


def test_messages_name_the_options():
    statistics = LabelStatistics(["a", "b"], np.array([[9, 0], [9, 0]]))
    with pytest.raises(MissingClassError, match=r"allow_fewer=True \(--allow_fewer\)"):
        select_shots(statistics, ["road", "sky"], 1)
    with pytest.raises(TooFewImagesError, match=r"allow_fewer=True \(--allow_fewer\)"):
        select_shots(LabelStatistics(["a"], np.array([[9, 9]])), ["road", "sky"], 2)
    with pytest.raises(TooFewImagesError, match=r"`shots` \(--shots\).*allow_fewer=True \(--allow_fewer\)"):
        select_shots(statistics, ["road", "sky"], 3, mode="total")
    with pytest.raises(SSPromptError, match=r"\(--data_dir\).*\(--dataset\)"):
        load_segmentation_dataset()


@pytest.mark.parametrize("name", ["b.jpg", "b.JPG", "b.jpeg", "b.JPEG", "b_mask.Jpeg"])
def test_labels_in_jpeg_files(name, tmp_path):
    for image in ("a.png", "b.png"):
        image_file(tmp_path / "images" / image)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / name).touch()
    with pytest.raises(LabelFormatError, match="annotations: b has a JPEG as label"):
        load_segmentation_folder(tmp_path)


def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch, capsys):
    image_file(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for images in ("", ["a.png", ""]):
        with pytest.raises(NoImagesError, match="one of the paths is empty"):
            image_sources(images)
    assert image_sources(".") == (["a.png"], False)
    assert "one of the paths is empty" in error_of(["predict", "", "--class_names", "sky"], capsys)


@pytest.mark.parametrize("dtype", ["uint8", "int64"])
def test_an_array_with_one_channel_is_grey(dtype):
    array = np.arange(20).reshape(4, 5, 1).astype(dtype)
    found = np.asarray(open_image(array))
    assert found.shape == (4, 5, 3) and np.array_equal(found, np.asarray(open_image(array[..., 0])))
    with pytest.raises(SSPromptError, match="float64"):
        open_image(array / 255)


def test_class_ids_are_saved_only_as_png(tmp_path):
    ids = np.arange(20, dtype=np.uint8).reshape(4, 5)
    image = Image.fromarray(np.zeros((4, 5, 3), np.uint8))
    result = SegmentationResult("semantic", ids, ids.astype(np.int32), [], [], [], image)
    for name in ("x.jpg", "x.tif", "x"):
        with pytest.raises(SSPromptError, match=rf"{name}: class ids are kept only by PNG"):
            result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    for name in ("x.png", "y.PNG"):
        result.save(str(tmp_path / name))
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), ids)


@pytest.mark.parametrize("metrics", [[1, 2], "good", {"SSPrompt": 3}, {"SSPrompt": {"mean_iou": "high"}}])
def test_info_about_an_adapter_of_another_program(metrics, tmp_path, capsys):
    SSPromptConfig(class_names=["road", "sky"]).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    foreign = {"metrics": metrics, "chosen_images": 16, "training": ["sgd"], "dataset": 3}
    file.write_text(json.dumps(json.loads(file.read_text()) | foreign))
    tensors = {"base_model.model.class_embeddings.ssprompt_weight": torch.zeros(1), "ssprompt_weight": torch.zeros(0)}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    text = describe_adapter(adapter_info(tmp_path))
    assert "images       16\n" in text and "0 road" in text
    assert main(["info", str(tmp_path)]) == 0 and main(["info", str(tmp_path), "--json"]) == 0
