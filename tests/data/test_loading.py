"""Data sets by name: `datasets` tables with an image and a label column, saved folders, street scenes."""

import datasets
import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from ssprompt_hf.data import SegmentationClasses, load_segmentation_dataset, wrap_dataset
from ssprompt_hf.data.dataset import check_disjoint
from ssprompt_hf.errors import ClassListError, DatasetError, LabelIdError, NoImagesError

CLASSES = SegmentationClasses.from_names(["road", "car"])


def picture(value, channels=None):
    shape = (4, 6) if channels is None else (4, 6, channels)
    return Image.fromarray(np.full(shape, value, np.uint8))


def table(label="annotation", **more):
    data = {"image": [picture(9, 3)] * 2, label: [picture(1), picture(255)]} | more
    return datasets.Dataset.from_dict(data, features=datasets.Dataset.from_dict(data).features)


@pytest.mark.parametrize("label", ["annotation", "label", "semantic_mask", "something"])
def test_columns_are_found(label):
    dataset = wrap_dataset(table(label), CLASSES)
    assert len(dataset) == 2 and dataset.file_names == ["row[0]", "row[1]"]
    assert dataset[0]["image"].shape == (4, 6, 3)
    assert (dataset[0]["label"] == 1).all() and (dataset.read_label(1) == 255).all()


def test_ambiguous_and_wrong_columns():
    two = table("one", two=[picture(0)] * 2)
    with pytest.raises(DatasetError, match=r"which column is the label.*one, two"):
        wrap_dataset(two, CLASSES)
    one, other = (wrap_dataset(two, CLASSES, label_column=column) for column in ("one", "two"))
    assert (other[0]["label"] == 0).all() and one.fingerprint != other.fingerprint
    with pytest.raises(DatasetError, match="'three' cannot be the label"):
        wrap_dataset(two, CLASSES, label_column="three")
    with pytest.raises(DatasetError, match=r"which column is the image.*none"):
        wrap_dataset(datasets.Dataset.from_dict({"text": ["a"]}), CLASSES)


def test_instances_and_file_names():
    dataset = wrap_dataset(table(instance=[picture(7)] * 2, file_name=["x.png", "y.png"]), CLASSES)
    assert (dataset[1]["instance"] == 7).all()
    assert dataset[1]["file_name"] == "y.png"


def test_class_names_from_a_map_of_class_labels():
    features = Features({"image": ImageFeature(), "label": List(List(ClassLabel(names=["road", "car"])))})
    data = datasets.Dataset.from_dict({"image": [picture(9, 3)], "label": [[[0] * 6, [1] * 6] * 2]}, features=features)
    dataset = wrap_dataset(data)
    assert dataset.classes == CLASSES
    assert dataset[0]["label"][:2, 0].tolist() == [0, 1]


def test_class_names_beside_array_labels():
    features = Features(
        {
            "image": ImageFeature(),
            "label": Array2D((4, 6), "uint8"),
            "present": List(ClassLabel(names=["road", "car"])),
        }
    )
    data = {"image": [picture(9, 3)], "label": [np.ones((4, 6), np.uint8)], "present": [[1]]}
    dataset = wrap_dataset(datasets.Dataset.from_dict(data, features=features))
    assert dataset.classes == CLASSES and (dataset[0]["label"] == 1).all()
    assert dataset.fingerprint == dataset.fingerprint


def test_no_class_names():
    features = Features(
        {"image": ImageFeature(), "label": ImageFeature(), "scene": ClassLabel(names=["day", "night"])}
    )
    data = datasets.Dataset.from_dict(
        {"image": [picture(9, 3)], "label": [picture(1)], "scene": [0]}, features=features
    )
    with pytest.raises(ClassListError, match="does not name its classes"):
        wrap_dataset(data)


def test_errors_name_the_row():
    with pytest.raises(LabelIdError, match=r"annotation of row\[0\]: label id 1"):
        wrap_dataset(table(), SegmentationClasses.from_names(["road"]))[0]


@pytest.mark.parametrize("form", ["parquet", "disk", "disk dict"])
def test_saved_folders(tmp_path, monkeypatch, form):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    if form == "parquet":
        for split in ("train", "validation"):
            table(file_name=["x", "y"]).to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")
    elif form == "disk":
        table(file_name=["x", "y"]).save_to_disk(root)
    else:
        datasets.DatasetDict(train=table(file_name=["x", "y"]), validation=table()).save_to_disk(root)
    CLASSES.save(root / "classes.json")
    dataset = load_segmentation_dataset(str(root), split="val")
    assert dataset.classes == CLASSES and (dataset[0]["label"] == 1).all()
    # a saved data set without splits is read whole, whatever the split
    assert check_disjoint(load_segmentation_dataset(str(root)), dataset) == (2 if form == "disk" else 0)
    if form != "disk":
        with pytest.raises(NoImagesError, match="no split 'test'; there are train, validation"):
            load_segmentation_dataset(str(root), split="test")


def test_dataset_object():
    opened = load_segmentation_dataset(table(), classes=CLASSES)
    assert opened[0]["label"].max() == 1
    assert load_segmentation_dataset(datasets.DatasetDict(train=table()), classes=CLASSES)[0]["label"].max() == 1
    for unfit in (opened, table().to_iterable_dataset()):
        with pytest.raises(
            DatasetError, match=rf"`datasets\.Dataset`, found {type(unfit).__name__}\. Choose one split"
        ):
            load_segmentation_dataset(unfit, classes=CLASSES)


def test_street_scenes():
    fog = load_segmentation_dataset("street-scenes/fog", split="val", num_images=3, size=(32, 48))
    example = fog[2]
    assert example["image"].shape == (32, 48, 3) and example["label"].shape == (32, 48)
    assert (example["instance"] > 0).any() and example["file_name"] == "validation/fog/base/seed-0/000002"
    assert (fog.read_label(2) == example["label"]).all()
    assert fog.classes.names[0] == "road" and len(fog.classes.thing_indices) == 4
    custom = load_segmentation_dataset("street-scenes/clear/custom", num_images=1, size=(32, 48))
    assert "lane marking" in custom.classes.names
    assert fog.fingerprint != load_segmentation_dataset("street-scenes/fog", num_images=3, size=(32, 48)).fingerprint


def test_shared_street_scenes(caplog):
    train, val, fog = (
        load_segmentation_dataset(f"street-scenes/{condition}", split=split, num_images=number)
        for condition, split, number in (("clear", "train", 3), ("clear", "val", 4), ("fog", "train", 3))
    )
    assert check_disjoint(train, val) == check_disjoint(train, fog) == 0 and not caplog.records
    assert check_disjoint(train, train.select([1])) == 1
    assert "the first is train/clear/base/seed-0/000001" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("street-scenes/hail", {}, "'hail'"),
        ("street-scenes/fog/mine", {}, "'mine'"),
        ("street-scenes/fog/base/more", {}, "the form is"),
        ("street-scenes/fog", {"split": "holdout"}, "'holdout'"),
        ("street-scenes/fog", {"num_images": 0}, "num_images"),
        ("street-scenes/fog", {"classes": CLASSES}, "have their own classes"),
    ],
)
def test_street_scene_errors(name, options, message):
    with pytest.raises(DatasetError, match=message):
        load_segmentation_dataset(name, **options)


def test_labels_are_read_without_their_images(monkeypatch):
    from ssprompt_hf.data.sources import columns

    def fail(*args):
        raise AssertionError("image decoded")

    dataset = wrap_dataset(table(text=[Value("string").dtype] * 2), CLASSES)
    monkeypatch.setattr(columns, "read_image", fail)
    assert dataset.read_label(0).shape == (4, 6)
