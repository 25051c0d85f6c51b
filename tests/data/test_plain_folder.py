"""`ssprompt-hf data`: what a folder holds, and the same as a plain folder."""

import json

import annotation_files as files
import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.cli.main import main
from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.folder_report import open_splits, report_folder
from ssprompt_hf.data.plain_folder import write_plain_folder


@pytest.mark.parametrize("write", [files.write_labelme, files.write_roboflow, files.write_voc, files.write_cvat])
def test_a_converted_folder_holds_the_same(write, tmp_path):
    write(tmp_path / "own")
    splits = open_splits(tmp_path / "own")
    assert write_plain_folder(splits, tmp_path / "plain") == 3
    plain = open_splits(tmp_path / "plain")
    assert list(plain) == (["all"] if list(splits) == ["all"] else list(splits))
    for split, dataset in splits.items():
        assert plain[split].classes.names == dataset.classes.names
        assert plain[split].classes.ids == dataset.classes.ids
        assert plain[split].classes.thing_indices == dataset.classes.thing_indices
        for before, after in zip(dataset, plain[split]):
            assert (before["image"] == after["image"]).all() and (before["label"] == after["label"]).all()
            assert len(np.unique(before["instance"])) == len(np.unique(after["instance"])) == 4
            assert ((before["instance"] > 0) == (after["instance"] > 0)).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["own", "plain"]


def test_what_is_told(tmp_path, capsys):
    files.write_labelme(tmp_path)
    files.write_image(tmp_path / "bare.jpg")
    assert main(["data", str(tmp_path), "--convert", str(tmp_path / "plain")]) == 0
    text = capsys.readouterr().out
    assert "LabelMe (0.json)\nsplits   not divided: 3 images\nsizes    30x20 (3)\n" in text
    assert "class          id  kind   pixels  images  instances\n" in text
    assert "crack           1  thing  25.3 %       3          6\n" in text
    assert "stone           2  thing   8.0 %       3          3\n" in text
    assert "background      0  stuff  66.7 %       3\n" in text
    assert "problems\n  1 images have no JSON file and are left out, the first is bare.jpg\n" in text
    assert "wrote 3 images with their labels to" in text
    assert main(["data", str(tmp_path / "plain"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "images and label images" and report["problems"] == []
    assert report["splits"]["all"]["instances"] == {"crack": 6, "stone": 3}
    assert main(["data", str(tmp_path), "--convert", str(tmp_path / "plain")]) == 2
    assert "plain is there already" in capsys.readouterr().err


def test_problems(tmp_path):
    for split in ("train", "val"):
        for number in range(2):
            files.write_image(tmp_path / "images" / split / f"{split}{number}.png", number)
            label = tmp_path / "annotations" / split / f"{split}{number}.png"
            label.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(files.truth(number)[0]).save(label)
    (tmp_path / "images" / "val" / "val0.png").unlink()
    (tmp_path / "images" / "val" / "val0.png").symlink_to(tmp_path / "images" / "train" / "train0.png")
    (tmp_path / "images" / "val" / "val1.png").write_bytes(b"no image")
    Image.fromarray(np.full(files.SIZE, 9, np.uint8)).save(tmp_path / "annotations" / "train" / "train1.png")
    files.write(tmp_path / "classes.txt", "sky\ncrack\nstone\nsea\n")
    problems = report_folder(tmp_path, open_splits(tmp_path)).problems
    assert len(problems) == 4
    assert "label id 9" in problems[0] and "val1.png: cannot be read as an image" in problems[1]
    assert problems[2] == "no label shows the class 'sea'"
    assert problems[3].startswith("images/val/val0.png is in train and in val")


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path, capsys):
    files.write_labelme(tmp_path / "own")
    (tmp_path / "own" / "1.jpg").write_bytes(b"no image")
    assert main(["data", str(tmp_path / "own"), "--convert", str(tmp_path / "plain")]) == 2
    assert "1.jpg: cannot be read as an image" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["own"]


def test_what_is_ignored_stays_so(tmp_path):
    files.write_coco(tmp_path / "own")
    splits = open_splits(tmp_path / "own", unlabelled="ignore")
    write_plain_folder(splits, tmp_path / "plain")
    assert (load_segmentation_dataset(data_dir=tmp_path / "plain")[0]["label"] == splits["all"][0]["label"]).all()


def test_names_of_splits_stay_in_the_new_folder(tmp_path):
    files.write_labelme(tmp_path / "own")
    whole = load_segmentation_dataset(data_dir=tmp_path / "own")
    splits = {"train": whole, "../../other": whole, str(tmp_path / "third"): whole}
    write_plain_folder(splits, tmp_path / "plain")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "plain"]
    parts = [path.name for path in (tmp_path / "plain" / "images").iterdir()]
    assert len(parts) == 3 and {"train", ".._.._other"} < set(parts)


def test_names_in_a_folder_cannot_change_the_screen(tmp_path, capsys):
    files.write_labelme(tmp_path)
    path = tmp_path / "0.json"
    path.write_text(path.read_text().replace('"crack"', '"\\u001b[2Jcra\\nck"'))
    assert main(["data", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\ncck" not in text and "\\x1b[2Jcra\\nck " in text
