"""`SegmentationDataset`: a PyTorch data set, its parts, its way into loader workers and into `datasets`."""

import pickle

import datasets
import numpy as np
import pytest
import torch
from dataset_files import write_acdc
from torch.utils.data import DataLoader, Dataset

from ssprompt_hf.data import (
    SegmentationClasses,
    SegmentationDataset,
    load_segmentation_dataset,
    load_street_scenes,
)
from ssprompt_hf.errors import NoImagesError

CLASSES = SegmentationClasses.from_names(["road", "car", "sign"], [1])


class CountingSource:
    """Random examples that are the same at every read; remembers what was read."""

    def __init__(self, num_rows=6, instances=True):
        self.file_names = [f"{row}.png" for row in range(num_rows)]
        self.instances, self.reads = instances, []

    def _example(self, row):
        generator = np.random.default_rng(row)
        size = (3 + row, 5)
        example = {
            "image": generator.integers(0, 256, (*size, 3)).astype(np.uint8),
            "label": generator.choice(np.array([0, 1, 2, 255], np.uint8), size),
        }
        return example | ({"instance": generator.integers(0, 4, size).astype(np.int32)} if self.instances else {})

    def read(self, row):
        self.reads.append(("example", row))
        return self._example(row)

    def read_label(self, row):
        self.reads.append(("label", row))
        return self._example(row)["label"]

    def fingerprint(self):
        return "fixed"


def counting(rows=None, **options):
    return SegmentationDataset(CLASSES, CountingSource(**options), "counted", rows)


def assert_same(first, second):
    """Two examples agree in keys, types, shapes and bits."""
    assert first.keys() == second.keys()
    for key, value in first.items():
        if isinstance(value, str):
            assert value == second[key]
        else:
            assert value.dtype == second[key].dtype and np.array_equal(value, second[key])


def test_rows():
    dataset = counting()
    assert isinstance(dataset, Dataset) and not isinstance(dataset, datasets.Dataset)
    assert len(dataset) == 6 and list(dataset[2]) == ["image", "label", "instance", "file_name"]
    for index in (-1, np.int64(5), torch.tensor(5)):
        assert_same(dataset[index], dataset[5])
    assert [example["file_name"] for example in dataset] == dataset.file_names
    for batch in (dataset.__getitems__([4, 1]), dataset.__getitems__(np.array([4, 1]))):
        assert [example["file_name"] for example in batch] == ["4.png", "1.png"]


def test_slices_are_dicts_of_lists():
    dataset = counting()
    part = dataset[1:6:2]
    assert part["file_name"] == ["1.png", "3.png", "5.png"]
    assert [image.shape for image in part["image"]] == [(4, 5, 3), (6, 5, 3), (8, 5, 3)]
    assert dataset[-1:]["file_name"] == ["5.png"] and dataset[6:] == {}


def test_select():
    dataset = counting(rows=[5, 3, 1])
    part = dataset.select(np.array([2, 0, -1]))
    assert type(part) is SegmentationDataset and part.file_names == ["1.png", "5.png", "1.png"]
    assert part.classes is dataset.classes and part.source is dataset.source and part.name == dataset.name
    assert (part.read_label(1) == dataset[0]["label"]).all()
    assert part.fingerprint == counting(rows=[1, 5, 1]).fingerprint != dataset.fingerprint


def test_errors_name_the_image():
    dataset = counting(rows=[1, 2])
    for read in (dataset.__getitem__, dataset.read_label, lambda index: dataset.select([index])):
        for index in (2, -3):
            with pytest.raises(IndexError, match=f"image {index} of counted, which has 2 images"):
                read(index)
    for key in ("label", [0, 1], 1.0):
        with pytest.raises(TypeError, match=r"counted: an image is chosen by its index.*select\(indices\)"):
            dataset[key]
    for rows in ([], range(0)):
        with pytest.raises(NoImagesError, match="counted: no images"):
            counting(rows=rows)


@pytest.fixture
def opened(tmp_path):
    """Data sets of every kind of source, as (name, data set)."""
    return {
        "arrays": counting(rows=[4, 0, 2]),
        "without instances": counting(instances=False),
        "files": load_segmentation_dataset("acdc", write_acdc(tmp_path), task="panoptic", cache_dir=tmp_path / "c"),
        "drawn": load_street_scenes("street-scenes/fog", num_images=3, size=(32, 48)),
    }


KINDS = ("arrays", "without instances", "files", "drawn")


@pytest.mark.parametrize("kind", KINDS)
def test_workers_read_what_the_process_reads(opened, kind):
    dataset = opened[kind]
    again = pickle.loads(pickle.dumps(dataset))
    assert again.fingerprint == dataset.fingerprint and again.file_names == dataset.file_names
    loader = DataLoader(dataset, batch_size=2, num_workers=2, collate_fn=list)
    for index, example in enumerate(example for batch in loader for example in batch):
        assert_same(example, dataset[index])
        assert_same(example, again[index])


def test_workers_that_share_nothing_with_the_process(opened):
    loader = DataLoader(opened["files"], num_workers=1, collate_fn=list, multiprocessing_context="spawn")
    for (example,), expected in zip(loader, opened["files"], strict=True):
        assert_same(example, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_to_hf_dataset_gives_the_same_rows(opened, kind):
    dataset = opened[kind]
    table = dataset.to_hf_dataset()
    assert type(table) is datasets.Dataset and table.column_names == list(dataset[0])
    assert len(table) == len(dataset) and table["file_name"][:] == dataset.file_names
    for first, second in zip(table, dataset, strict=True):
        assert_same(first, second)
    for index, example in enumerate(table.__getitems__([1, 0])):
        assert_same(example, dataset[1 - index])
    for column, values in table[1:3].items():
        assert all(np.array_equal(a, b) for a, b in zip(values, dataset[1:3][column], strict=True))
    loader = DataLoader(pickle.loads(pickle.dumps(table)), batch_size=2, num_workers=1, collate_fn=list)
    assert_same(next(iter(loader))[1], dataset[1])


def test_to_hf_dataset_reads_when_asked():
    dataset = counting()
    table, reads = dataset.to_hf_dataset(), dataset.source.reads
    assert reads == [("example", 0)]  # tells the columns
    reads.clear()
    parts = table.shuffle(seed=0).train_test_split(2, seed=0)
    fives = table.filter(lambda name: name == "5.png", input_columns="file_name")
    assert table.select_columns("file_name")["file_name"][:] == dataset.file_names
    assert len(parts["test"]) == 2 and not reads
    assert (table.select_columns("label")[4]["label"] == dataset.read_label(4)).all()
    assert reads == [("label", 4)] * 2
    assert_same(fives[0], dataset[5])
    assert reads[2:] == [("example", 5)] * 2  # once for all columns, and once for the comparison


def test_transforms_of_the_datasets_library():
    dataset = counting()
    table = dataset.to_hf_dataset()
    shares = table.map(lambda row: {"share": float((row["label"] == 1).mean())})
    assert shares[2]["share"] == (dataset[2]["label"] == 1).mean()
    assert_same({key: value for key, value in shares[2].items() if key != "share"}, dataset[2])
    both = datasets.concatenate_datasets([shares, shares]).sort("share").select([0])
    assert both[0]["share"] == min(shares["share"][:])
    renamed = table.rename_column("label", "labels").remove_columns("instance")
    assert list(renamed[1]) == ["image", "labels", "file_name"]
    assert (renamed[1]["labels"] == dataset[1]["label"]).all()
    replaced = table.map(lambda row: {"label": row["label"][:2].tolist()}, features=None)
    assert replaced[3]["label"] == dataset[3]["label"][:2].tolist()
    assert (replaced[3]["image"] == dataset[3]["image"]).all()
    assert table.with_format(None)[3]["label"] == {"field": "label", "row": 3}
