"""The commands: mistakes take one line and exit code 2, a dry run trains nothing, Ctrl-C says how to go on."""

import numpy as np
import pytest
from PIL import Image
from tiny_training import interrupted, save_tiny_base
from transformers import TrainingArguments

from ssprompt_hf.cli.main import main
from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.few_shot import LabelStatistics, select_shots
from ssprompt_hf.data.image_inputs import image_sources, open_image
from ssprompt_hf.data.sources.folder import load_segmentation_folder
from ssprompt_hf.errors import LabelFormatError, MissingClassError, NoImagesError, SSPromptError, TooFewImagesError
from ssprompt_hf.segmentation.results import SegmentationResult
from ssprompt_hf.training import plan as plans
from ssprompt_hf.training import runs

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
        (["--prompt_options", '{"point_grid_size": "x"}'], "point_grid_size is 'x'; it must be a whole number"),
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
        assert "class_names is empty: name at least one class" in error_of(command, capsys)


# A dry run


def test_a_dry_run_tells_and_writes_nothing(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "train_adapter", lambda *_, **__: pytest.fail("trained all the same"))
    seen = []

    def plan(data, prompts, args):
        seen.append((data.base_model, prompts.shots, args.output_dir))
        return "the plan"

    output = str(tmp_path / "out")
    command = ["train", "--base_model", base, *SCENES, "--shots", "1", "--use_cpu", "--output_dir", output]
    with monkeypatch.context() as patch:
        patch.setattr(plans, "plan_training", plan)
        assert main([*command, "--dry_run"]) == 0
    assert seen == [(base, 1, output)] and capsys.readouterr().out == "the plan\n"
    assert main([*command, "--dry_run", "--allow_fewer"]) == 0 and capsys.readouterr().out.strip()
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()  # mistakes are found all the same
    assert "which is a file" in error_of([*command, "--dry_run"], capsys)


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
        with pytest.raises(SSPromptError, match=rf"{name}: ids are kept only by PNG"):
            result.save(tmp_path / name)
    assert not list(tmp_path.iterdir())
    for name in ("x.png", "y.PNG"):
        result.save(str(tmp_path / name))
        assert np.array_equal(np.asarray(Image.open(tmp_path / name)), ids)
