"""Tables from the command line, on a tiny base model and a few small scenes."""

import json
import re
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_clip import save_tiny_clip
from tiny_sam import tiny_sam
from tiny_training import SCRIPT, run_python, save_tiny_base

from ssprompt_hf.cli.main import main
from ssprompt_hf.data.sources import columns

EXAMPLES = SCRIPT.parents[2] / "examples"
OPTIONS = '{"num_images": 4, "size": [32, 64]}'
QUICK = ["--shots", "1", "--max_steps", "2", "--per_device_train_batch_size", "2", "--use_cpu"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def arguments(base, tmp_path):
    """Of a small run into `tmp_path`."""
    scenes = ["--preset", "embedded", "--dataset_options", OPTIONS, "--columns", "both"]
    return [*scenes, "--base_models", base, *QUICK, "--seeds", "0", "1", "--output_dir", str(tmp_path)]


def cells(folder: Path) -> dict[str, int]:
    """Names of the finished cells and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "embedded" / "cells").iterdir()}


def table(folder: Path, name: str, preset: str = "embedded") -> dict:
    return json.loads((folder / preset / name / "results.json").read_text())


def values(folder: Path, name: str) -> dict:
    numbers = table(folder, name)["numbers"]
    return {(one["row"], one["column"]): [value["value"] for value in one["values"]] for one in numbers}


def test_a_table_from_end_to_end(arguments, base, tmp_path, capsys):
    methods = ["--methods", "zero_shot", "coop", "ssprompt", "--table", "8"]
    assert main(["reproduce", *arguments, *methods]) == 0
    found = table(tmp_path, "table-8")
    assert found["complete"] and found["rows"] == ["zero-shot", "CoOp", "SSPrompt"] and found["seeds"] == [0, 1]
    assert [len(one["values"]) for one in found["numbers"]] == [1, 2, 2]
    assert all(one["paper"] is None for one in found["numbers"])
    assert found["numbers"][2]["ours"]["ci95"] is not None and found["numbers"][1]["difference"]["n"] == 2
    record = next(one for one in found["cells"] if one["row"] == "SSPrompt" and one["seed"] == 1)
    learned = record["settings"]["adapter"]
    assert learned["training"]["max_steps"] == 2 and learned["training"]["seed"] == 1 and learned["shots"] == 1
    assert learned["prompts"]["weight_range"] == "unit" and "-" in record["settings"]["base_model"]["fingerprint"]
    assert record["versions"]["torch"] and record["evaluation_images"] == 4 and record["steps"] == 2
    assert record["class_weights"][0]["name"] and record["shots"]["file_names"]
    text = (tmp_path / "embedded" / "table-8" / "table.md").read_text()
    assert "| SSPrompt | " in text and "± " in text and "ours / paper" in text and "row minus SSPrompt" in text
    assert text in capsys.readouterr().out
    with Image.open(tmp_path / "embedded" / "table-8" / "plot.png") as picture:
        assert picture.width > 300

    # what the table says is what `evaluate` and `train` say
    adapter = tmp_path / "embedded" / record["adapter"]
    scenes = ["--dataset", "street-scenes/fog/custom", "--dataset_options", OPTIONS, "--eval_split", "test"]
    assert (
        main(["evaluate", "--adapter", str(adapter), *scenes, "--use_cpu", "--output_dir", str(tmp_path / "e")]) == 0
    )
    scores = json.loads((tmp_path / "e" / "metrics.json").read_text())["scores"]
    assert scores["adapted"] == record["scores"]
    zero_shot = next(one for one in found["cells"] if one["row"] == "zero-shot")
    assert scores["zero_shot"] == zero_shot["scores"] and zero_shot["seed"] is None
    train = ["train", "--base_model", base, *scenes, *QUICK, "--allow_fewer", "--seed", "1", "--recipe", "paper"]
    assert main([*train, "--output_dir", str(tmp_path / "t")]) == 0
    assert json.loads((tmp_path / "t" / "metrics.json").read_text())["scores"]["adapted"] == record["scores"]
    weights = [folder / "adapter_model.safetensors" for folder in (adapter, tmp_path / "t" / "adapter")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    # where a cell is gone and its adapter is not, a dry run plans an evaluation alone
    next((tmp_path / "embedded" / "cells").glob("*-ssprompt-*seed1*")).unlink()
    capsys.readouterr()
    assert main(["reproduce", *arguments, *methods, "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"5 cells, 4 of them done", told) and re.search(r"trainings +0\n", told), told
    assert re.search(r"evaluations +4 of an image, in 1 passes", told), told


def test_a_dry_run_says_what_would_be_done(arguments, base, tmp_path, capsys):
    start = arguments.index("--base_models") + 1
    several = [*arguments[:start], base, "seem-l", "sam3", *arguments[start + 1 :]]
    command = ["--methods", "zero_shot", "ssprompt", "--table", "3", "--columns", "fog", "--dry_run"]
    assert main(["reproduce", *several, *command]) == 0
    told = capsys.readouterr().out
    for line in (
        r"tables +3: 9 cells, 0 of them done",
        r"left out: seem-l, which cannot be had\. no file is published",
        r"data +fog: 4 images to choose from, 4 images to be scored on; the first is 32x64 pixels",
        r"trainings +4\n",
        r"evaluations +24 of an image, in 2 passes over data sets: .* runs for 8 images",
        r"download +sam3: about 3\.\d+ GiB",
        rf"time +{re.escape(base)} about \d+ s for one process on cpu: an image takes .* s to read",
        r"time +sam3 was not measured: that would take longer than a minute on cpu",
        r"nothing was learned or written",
    ):
        assert re.search(line, told), (line, told)
    assert not list(tmp_path.iterdir())


def test_a_base_model_that_cannot_be_had_leaves_out_its_rows(arguments, base, tmp_path, capsys):
    start = arguments.index("--base_models") + 1
    several = [*arguments[:start], base, "seem-l", *arguments[start + 1 :]]
    assert main(["reproduce", *several, "--methods", "zero_shot", "--table", "3", "--columns", "fog"]) == 0
    assert "Left out: seem-l, which cannot be had. no file is published for 'seem-l'" in capsys.readouterr().out
    found = table(tmp_path, "table-3")
    assert found["complete"] and next(row for row, _ in values(tmp_path, "table-3")) == "zero-shot"
    assert any("seem-l" in note for note in found["notes"])
    alone = [*arguments[:start], "seem-l", *arguments[start + 1 :]]
    assert main(["reproduce", *alone, "--table", "3", "--columns", "fog"]) == 2
    assert "no file is published for 'seem-l'" in capsys.readouterr().err
    mistyped = [*arguments[:start], base, "seem_l", *arguments[start + 1 :]]
    assert main(["reproduce", *mistyped, "--table", "3", "--columns", "fog"]) == 2
    assert "did you mean 'seem-l'?" in capsys.readouterr().err


def test_finished_cells_stay_and_changed_ones_run_anew(arguments, tmp_path, capsys):
    table_6 = ["--table", "8", "--methods", "zero_shot", "semprompt"]
    assert main(["reproduce", *arguments, *table_6]) == 0
    first = cells(tmp_path)
    assert len(first) == 3
    assert main(["reproduce", *arguments, *table_6]) == 0
    assert cells(tmp_path) == first and "3 cells, of which 3 are done" in capsys.readouterr().out
    # another seed is added, another table shares what there is
    seeds = [*arguments, "--seeds", "0", "1", "2"]
    assert main(["reproduce", *seeds, "--table", "5", "--methods", "zero_shot", "semprompt"]) == 0
    second = cells(tmp_path)
    assert len(second) == 4 and first.items() <= second.items()
    # whoever writes a table writes what others have found for it, too
    assert table(tmp_path, "table-8")["seeds"] == [0, 1]
    assert main(["reproduce", *arguments, "--seeds", "2", *table_6]) == 0
    both = table(tmp_path, "table-8")
    assert cells(tmp_path) == second and both["seeds"] == [0, 1, 2] and both["complete"]
    assert [len(one["values"]) for one in both["numbers"]] == [1, 3]
    assert main(["reproduce", *arguments, *table_6]) == 0
    assert table(tmp_path, "table-8") == both
    text = (tmp_path / "embedded" / "table-8" / "table.md").read_text()
    assert "over seeds 0, 1, 2" in text and "--seeds 2" in text and "--seeds 0 1" in text
    # training otherwise: zero-shot stays
    assert main(["reproduce", *arguments, *table_6, "--learning_rate", "0.5"]) == 0
    assert table(tmp_path, "table-8")["seeds"] == [0, 1]
    third = cells(tmp_path)
    assert len(third) == 6 and second.items() <= third.items()
    # other images to be scored on: adapters stay
    adapters = sorted(path.name for path in (tmp_path / "embedded" / "adapters").iterdir())
    assert main(["reproduce", *arguments, *table_6, "--max_eval_images", "2"]) == 0
    assert len(cells(tmp_path)) == 9
    assert sorted(path.name for path in (tmp_path / "embedded" / "adapters").iterdir()) == adapters
    # a damaged cell is made anew
    damaged = next(name for name in first if "zero_shot" in name)
    (tmp_path / "embedded" / "cells" / damaged).write_text("{")
    assert main(["reproduce", *arguments, *table_6]) == 0
    fourth = cells(tmp_path)
    assert {name for name in first if fourth[name] != first[name]} == {damaged}
    assert table(tmp_path, "table-8")["complete"]


def test_a_killed_run_goes_on_without_loss(arguments, tmp_path):
    command = [*arguments, "--table", "8", "--methods", "zero_shot", "ssprompt"]
    killed = run_python(Path(__file__).with_name("killed_run.py"), *command, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "embedded" / "cells").exists() and not table(tmp_path, "table-8")["complete"]
    assert "0 of 3 cells are done" in (tmp_path / "embedded" / "table-8" / "table.md").read_text()
    [learned] = tmp_path.glob("embedded/adapters/*/training.json")
    before = learned.stat().st_mtime_ns
    assert main(["reproduce", *command]) == 0
    assert len(cells(tmp_path)) == 3 and learned.stat().st_mtime_ns == before
    whole = tmp_path / "whole"
    assert main(["reproduce", *command, "--output_dir", str(whole)]) == 0
    assert values(whole, "table-8") == values(tmp_path, "table-8")


def test_tasks_transfer_prompts_and_weights(arguments, tmp_path):
    one_seed = [*arguments, "--seeds", "0"]
    assert main(["reproduce", *one_seed, "--table", "4", "--methods", "ssprompt"]) == 0
    assert table(tmp_path, "table-4")["columns"] == [f"own classes in fog {name}" for name in ("mIoU", "AP", "PQ")]
    assert all(0 <= number <= 100 for [number] in values(tmp_path, "table-4").values())

    transfer = ["--table", "transfer", "--figure", "3", "--columns", "taxonomy", "both"]
    assert main(["reproduce", *one_seed, *transfer]) == 0
    found = values(tmp_path, "table-transfer")
    assert len(found) == 6 and all(len(numbers) == 1 for numbers in found.values())
    weights = values(tmp_path, "figure-3")
    assert all(0 < number < 1 for numbers in weights.values() for number in numbers)
    foreground = [
        numbers[0] for (row, column), numbers in weights.items() if "(foreground)" in row and "fog" in column
    ]
    assert weights["foreground, mean", "own classes in fog"][0] == pytest.approx(np.mean(foreground))
    assert len(cells(tmp_path)) == 3 + 4 + 2 - 1  # the adapter of table 4 for semantic segmentation is used again

    assert main(["reproduce", *one_seed, "--table", "prompts", "--max_eval_images", "1"]) == 0
    numbers = values(tmp_path, "table-prompts")
    assert len(numbers) == 7 and all(len(one) == 1 for one in numbers.values())


def test_cost_of_a_step(arguments, tmp_path):
    command = [*arguments[:2], *arguments[6:], "--table", "7", "--image_size", "32", "--methods", "coop", "ssprompt"]
    assert main(["reproduce", *command]) == 0
    found = table(tmp_path, "table-7")
    assert found["complete"] and len(cells(tmp_path)) == 2 * 2 * 2
    assert all(one["ours"]["mean"] > 0 and one["ours"]["n"] == 2 for one in found["numbers"])
    paper = {(one["row"], one["column"]): one["paper"] for one in found["numbers"]}
    assert paper["CoOp", "ms/image"] == 87.5 and paper["SSPrompt", "GB, cached"] is None
    text = (tmp_path / "embedded" / "table-7" / "table.md").read_text()
    assert "/ 87.5" in text and "/ 1.56" in text and "32x64 pixels, 150 classes" in text


def test_sam_beside_seem(tmp_path):
    """Table 9 on a tiny SAM, which borrows a tiny text encoder."""
    clip = save_tiny_clip(tmp_path / "clip")
    tiny_sam(None, text_encoder=clip).save_pretrained(tmp_path / "sam")
    command = ["--preset", "embedded", "--dataset_options", OPTIONS, "--columns", "fog", *QUICK, "--seeds", "0"]
    command += ["--base_models", str(tmp_path / "sam"), "--table", "9", "--output_dir", str(tmp_path)]
    command += ["--image_size", "64", "--max_eval_images", "1"]
    assert main(["reproduce", *command]) == 0
    found = table(tmp_path, "table-9")
    methods = ["zero-shot", "CoOp", "LOCN", "SSPrompt"]
    assert found["complete"] and found["columns"] == ["fog"]
    assert found["rows"] == [f"{base}, {method}" for base in ("sam", "seem-lite") for method in methods]
    assert all(len(one["values"]) == 1 for one in found["numbers"])
    record = next(one for one in found["cells"] if one["row"] == "sam, CoOp")
    assert record["settings"]["base_model"]["text_encoder"] == clip and record["trainable_parameters"] == 16 * 16
    config = json.loads((tmp_path / "embedded" / record["adapter"] / "adapter_config.json").read_text())
    assert config["text_encoder"] == clip
    text = (tmp_path / "embedded" / "table-9" / "table.md").read_text()
    assert "| sam, CoOp | " in text and "This is our reading" in text


def write_photographs(data: Path) -> Path:
    """Two images to learn from and one to be scored on, as CamVid has them."""
    for split, count in (("train", 2), ("val", 1)):
        for number in range(count):
            for kind, array in (("images", np.full((32, 48, 3), 90 + number)), ("annotations", np.eye(32, 48))):
                path = data / kind / split / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(path)
    (data / "classes.txt").write_text("road\ncar\n")
    return data


def test_photographs_with_the_example_script(base, tmp_path):
    data = write_photographs(tmp_path / "data")
    command = [
        "--table",
        "6",
        "--figure",
        "3",
        "--preset",
        "camvid",
        "--data_dir",
        data,
        "--base_models",
        base,
        *QUICK,
    ]
    out = run_python(EXAMPLES / "reproduce.py", *command, "--seeds", "3", "--output_dir", tmp_path).stdout
    assert "| 16 shots | " in out
    found = table(tmp_path, "table-6", "camvid")
    assert found["complete"] and found["columns"] == ["CamVid"] and len(found["rows"]) == 4
    # a list of names alone does not say what is countable
    weights = {one["row"]: one["ours"] for one in table(tmp_path, "figure-3", "camvid")["numbers"]}
    assert list(weights)[2:] == ["road", "car"] and weights["foreground, mean"] is None


@pytest.mark.parametrize("cache", ["auto", "none"])
def test_images_are_decoded_once(base, tmp_path, monkeypatch, cache):
    data, decoded = write_photographs(tmp_path / "data"), Counter()
    read = columns.read_image

    def counted(value, source, *others):
        decoded[Path(source).relative_to(data).as_posix()] += 1
        return read(value, source, *others)

    monkeypatch.setattr(columns, "read_image", counted)
    command = ["reproduce", "--table", "2", "--preset", "camvid", "--data_dir", str(data), "--base_models", base]
    command += [*QUICK, "--shots", "2", "--seeds", "0", "1", "--methods", "zero_shot", "ssprompt"]
    assert main([*command, "--feature_cache", cache, "--output_dir", str(tmp_path)]) == 0
    assert decoded == {f"images/{name}.png": 1 for name in ("train/0", "train/1", "val/0")}


def test_known_data_sets(base, tmp_path):
    data = tmp_path / "acdc"
    for split in ("train", "val"):
        place, name = f"fog/{split}/GOPR0475", f"GOPR0475_frame_{split}"
        labels = np.zeros((32, 48))
        labels[:, 24:] = 13
        for kind, ending, array in (
            ("rgb_anon", "rgb_anon", np.full((32, 48, 3), 90)),
            ("gt", "gt_labelTrainIds", labels),
        ):
            path = data / kind / place / f"{name}_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(path)
    command = ["--table", "3", "--preset", "full", "--data_dir", f"acdc={data}", "--base_models", base, *QUICK]
    command += [
        "--image_size",
        "32",
        "--seeds",
        "0",
        "--methods",
        "zero_shot",
        "ssprompt",
        "--output_dir",
        str(tmp_path),
    ]
    assert main(["reproduce", *command, "--columns", "fog"]) == 0
    found = table(tmp_path, "table-3", "full")
    assert found["complete"] and found["columns"] == ["ACDC fog", "mean"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ([], "nothing to do: give --table"),
        (["--figure", "2"], "figure is '2'"),
        (["--table", "3", "--preset", "full", "--data_dir", "acdc=/nowhere"], "there is no folder '/nowhere'"),
        (["--table", "3", "--preset", "full", "--data_dir", "acdc=."], "ACDC"),
        (["--table", "2", "--semantic_loss", "focal"], "semantic_loss is 'focal'"),
        (["--table", "2", "--base_models", "/nowhere"], "/nowhere"),
        # data are looked at before base models are
        (["--table", "3", "--preset", "full", "--data_dir", "acdc=.", "--base_models", "/nowhere"], "not ACDC"),
    ],
)
def test_mistakes_are_told_in_one_line(base, command, message, capsys, tmp_path):
    given = [] if "--base_models" in command else ["--base_models", base]
    assert main(["reproduce", *command, *given, "--use_cpu", "--output_dir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "ssprompt-hf reproduce: error:" in error and message in error
    assert not list(tmp_path.glob("*/cells"))
