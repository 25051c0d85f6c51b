"""A few images in one folder: divided, or not, without a word from the user; and data sets in memory."""

import json

import annotation_files as files
import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_training import save_tiny_base

from ssprompt_hf.cli.main import main
from ssprompt_hf.errors import DatasetError, SSPromptError, TooFewImagesError
from ssprompt_hf.training.arguments import SSPromptTrainingArguments
from ssprompt_hf.training.data_choice import choose_data
from ssprompt_hf.training.runs import evaluate_adapter, train_adapter
from ssprompt_hf.training.settings import DataArguments, PromptArguments
from ssprompt_hf.tuners import SSPromptConfig

QUICK = {"max_steps": 2, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none", "save_strategy": "no"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten images in one folder, labels beside them; `stone` only in the first."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(10):
        files.write_image(folder / f"{number}.jpg", number)
        label = files.truth(number)[0]
        Image.fromarray(label if number == 0 else np.minimum(label, 1)).save(folder / f"{number}.png")
    files.write(folder / "classes.txt", "wall\ncrack\nstone\n")
    return folder


def arguments(folder="out", **options):
    return SSPromptTrainingArguments(output_dir=str(folder), **(QUICK | options))


def choose(photos, args=None, **prompts):
    return choose_data(DataArguments(data_dir=photos), PromptArguments(**prompts), args or arguments())


def test_a_fifth_is_held_out(photos):
    choice = choose(photos)
    assert len(choice.chosen) == 8 and len(choice.evaluation) == 2 and choice.selection is None
    assert "0.jpg" in choice.chosen.file_names  # nothing else shows this class
    assert not {*choice.chosen.file_names} & {*choice.evaluation.file_names}
    assert choice.note == (
        f"{photos.name} has no split to evaluate on: 8 images to learn from, 2 others to evaluate on "
        "(--eval_strategy no learns from all)"
    )
    assert choose(photos, arguments(seed=3)).evaluation.file_names == choice.evaluation.file_names


def test_all_images_without_evaluation(photos):
    choice = choose(photos, arguments(eval_strategy="no"))
    assert len(choice.chosen) == 10 and choice.evaluation is None


def test_as_many_shots_as_images(photos):
    choice = choose(photos, shots=10)
    assert sorted(choice.chosen.file_names) == [f"{number}.jpg" for number in range(10)]
    assert choice.evaluation is None and "nothing is kept apart" in choice.note
    with pytest.raises(TooFewImagesError, match="no image left for it, but eval_strategy is steps"):
        choose(photos, arguments(eval_strategy="steps"), shots=10)


def test_what_is_not_chosen_is_scored_on(photos):
    choice = choose(photos, shots=4, shot_mode="total")
    assert len(choice.chosen) == 4 and len(choice.evaluation) == 6


def test_very_few_images(tmp_path):
    files.write_labelme(tmp_path)
    choice = choose(tmp_path)
    assert len(choice.chosen) == 3 and choice.evaluation is None


def test_own_splits_stay(tmp_path):
    files.write_yolo(tmp_path)
    choice = choose(tmp_path)
    assert (len(choice.chosen), len(choice.evaluation), choice.note) == (2, 1, "")
    assert choose(tmp_path, arguments(eval_strategy="no")).evaluation is None


def test_from_a_folder_to_an_adapter_and_back(base, photos, tmp_path, capsys):
    options = ["--max_steps", "2", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    assert main(["train", "--base_model", base, "--data_dir", str(photos), *options]) == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["training_images"] == 8 and metrics["evaluation_images"] == 2
    assert (tmp_path / "out" / "picture.png").is_file()
    output = capsys.readouterr()
    assert "--learning_rate 0.1 may be better" in output.out
    assert "0/2 [" not in output.err  # no bar of steps without a terminal
    scored = evaluate_adapter(
        DataArguments(data_dir=photos), str(tmp_path / "out" / "adapter"), arguments(tmp_path / "scores")
    )
    assert scored["evaluation_images"] == 2 and scored["ssprompt_miou"] == metrics["ssprompt_miou"]


def test_training_without_evaluation(base, photos, tmp_path):
    metrics = train_adapter(
        DataArguments(base_model=base, data_dir=photos), PromptArguments(), arguments(tmp_path, eval_strategy="no")
    )
    assert metrics["training_images"] == 10 and metrics["evaluation_images"] == 0 and metrics["scores"] == {}
    assert "ssprompt_miou" not in metrics
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(config["chosen_images"]) == 10 and not config["metrics"]
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.width > 900


def table(count=5):
    rows = [files.truth(number)[0] for number in range(count)]
    images = [Image.fromarray(np.full((*files.SIZE, 3), 40 * number, np.uint8)) for number in range(count)]
    columns = {"image": images, "label": [Image.fromarray(row) for row in rows]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("divided", [False, True])
def test_data_sets_in_memory(divided, base, tmp_path):
    names = files.write(tmp_path / "names.txt", "wall\ncrack\nstone\n")
    dataset = datasets.DatasetDict(train=table(), validation=table(2)) if divided else table()
    metrics = train_adapter(
        DataArguments(base_model=base, dataset=dataset, classes=names), PromptArguments(), arguments(tmp_path / "out")
    )
    assert (metrics["training_images"], metrics["evaluation_images"]) == ((5, 2) if divided else (4, 1))
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text())["settings"]["data"]
    assert "Dataset" in settings["dataset"] and settings["classes"] == str(names)
    if divided:
        with pytest.raises(DatasetError, match="the DatasetDict has no split 'test'; there are train, validation"):
            DataArguments(dataset=dataset, classes=names).load("test")


def test_instances_need_things(photos):
    with pytest.raises(DatasetError, match=r'no class is a thing.*"name": "wall", "thing": true'):
        choose(photos, arguments(task="instance"))


def test_early_stopping(base, photos, tmp_path):
    args = arguments(tmp_path, max_steps=6, early_stopping_patience=1, save_strategy="steps", save_steps=1)
    assert args.eval_strategy == "steps" and args.eval_steps == 1 and args.load_best_model_at_end
    args.learning_rate = 1e-12  # nothing improves
    metrics = train_adapter(DataArguments(base_model=base, data_dir=photos), PromptArguments(), args)
    assert metrics["steps"] == 2
    with pytest.raises(SSPromptError, match="early_stopping_patience needs scores, but eval_strategy is no"):
        arguments(early_stopping_patience=2, eval_strategy="no")
    with pytest.raises(SSPromptError, match="early_stopping_patience is 0; it must be at least 1"):
        arguments(early_stopping_patience=0)


@pytest.mark.parametrize(("chosen", "left"), [([0, 1], 8), ([0, 20], 10), (range(10), 10)])
def test_images_that_were_learned_from_are_left_out(chosen, left, photos, caplog):
    """Unless the adapter names images that are not there: then its data set is another one of the same name."""
    data = DataArguments(data_dir=photos)
    names = dict(enumerate(data.load("train").file_names))
    adapter = SSPromptConfig(
        dataset=data.load("train").name, chosen_images=[names.get(n, "other.png") for n in chosen]
    )
    assert len(data.load_evaluation(adapter=adapter)) == left
    told = {2: "2 of the 10 images" if left == 8 else "1 of the 2 images", 10: "trained on all images"}
    assert told[len(chosen)] in caplog.text
