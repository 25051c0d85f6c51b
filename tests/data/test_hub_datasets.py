"""Data sets of the Hub, over HTTP, and tables that are damaged."""

import json

import datasets
import numpy as np
import pytest
from hub_server import LocalHub

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.errors import NoImagesError
from ssprompt_hf.utils import hub as hub_calls

PARQUET = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def table():
    rows = {
        "image": [np.full((8, 12, 3), value, np.uint8) for value in (50, 200)],
        "label": [np.full((8, 12), index, np.uint8) for index in (1, 2)],
    }
    return datasets.Dataset.from_dict(rows, datasets.Features(image=datasets.Image(), label=datasets.Image()))


@pytest.fixture
def streets(table, tmp_path, monkeypatch):
    table.to_parquet(tmp_path / "train.parquet")
    with LocalHub() as server:
        server.patch_client(monkeypatch, tmp_path / "home")
        monkeypatch.setattr("datasets.config.HF_ENDPOINT", server.endpoint)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "tables")
        monkeypatch.setattr(hub_calls, "WAITS", (0.01, 0.01))
        files = {PARQUET: tmp_path / "train.parquet", "classes.json": b'["road", "car", "sky"]'}
        server.add("me/streets", files, "dataset")
        yield server


def test_a_data_set_of_the_hub_with_its_class_list(streets):
    dataset = load_segmentation_dataset("me/streets")
    assert dataset.classes.names == ["road", "car", "sky"]
    assert [int(example["label"].max()) for example in dataset] == [1, 2]
    assert (dataset[1]["image"] == 200).all()


@pytest.mark.parametrize("fault", ["drop", "503"])
def test_a_broken_connection_is_tried_again(streets, fault):
    streets.disturb("me/streets", lambda request: request.drop() if fault == "drop" else request.reply(503), 1)
    assert len(load_segmentation_dataset("me/streets")) == 2


def test_a_connection_that_stays_broken(streets):
    streets.disturb("me/streets", lambda request: request.drop(), 1000)
    with pytest.raises(NoImagesError, match=r"me/streets: this data set cannot be read .*Check its name"):
        load_segmentation_dataset("me/streets")


@pytest.mark.parametrize("damage", ["state", "fields", "table", "gone"])
def test_a_damaged_folder_of_save_to_disk(damage, table, tmp_path):
    table.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "classes.json").write_text('["road", "car", "sky"]')
    state, arrow = tmp_path / "saved" / "state.json", next((tmp_path / "saved").glob("*.arrow"))
    if damage == "state":
        state.write_text(state.read_text()[:30])
    elif damage == "fields":
        state.write_text(json.dumps({"_split": None}))
    elif damage == "table":
        arrow.write_bytes(arrow.read_bytes()[:200])
    else:
        arrow.unlink()
    with pytest.raises(NoImagesError, match=r"saved: this data set cannot be read \(.*\)\. Check its files"):
        load_segmentation_dataset(data_dir=tmp_path / "saved")


def test_a_damaged_parquet_file(table, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "tables")
    path = tmp_path / "source" / PARQUET
    path.parent.mkdir(parents=True)
    table.to_parquet(path)
    (tmp_path / "source" / "classes.json").write_text('["road", "car", "sky"]')
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(NoImagesError, match=r"source: this data set cannot be read"):
        load_segmentation_dataset(data_dir=tmp_path / "source")
