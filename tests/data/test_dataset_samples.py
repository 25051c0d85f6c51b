"""Data sets known by name: the real samples, where they are there."""

import json

import numpy as np
import pytest

from ssprompt_hf.data import load_segmentation_dataset


@pytest.fixture
def load(tmp_path):
    def load(name, data_dir, split="train", **options):
        return load_segmentation_dataset(name, data_dir, split, cache_dir=tmp_path / "cache", **options)

    return load


@pytest.mark.parametrize(
    "name, folder, split, options, count",
    [
        ("bdd100k", "bdd100k", "train", {}, 16),
        ("bdd100k", "bdd100k", "val", {"labels": "colormaps"}, 8),
        ("coco_panoptic", "coco_panoptic", "val", {"task": "panoptic"}, 2),
        ("ade20k", "ade20k_sceneparse150", "train", {}, 1),
        ("ade20k", "ade20k_sceneparse150", "val", {}, 3),
        ("mapillary_vistas", "mapillary_vistas/datumaro_toy", "train", {"version": "1.2"}, 1),
        ("mapillary_vistas", "mapillary_vistas/datumaro_toy", "val", {"version": "2.0", "task": "instance"}, 2),
        ("pascal_context", "pascal_context_formattrue", "train", {}, 3),
        ("pascal_context", "pascal_context_formattrue", "trainval", {"labels": "59_context_labels"}, 3),
    ],
)
def test_samples(shared_dir, load, name, folder, split, options, count):
    root = shared_dir / "data" / "samples" / folder
    if not root.is_dir():
        pytest.skip(f"no sample at {root}")
    dataset = load(name, root, split, **options)
    assert len(dataset) == count
    for index in range(count):
        row = dataset[index]
        assert row["image"].shape[:2] == row["label"].shape
        known = row["label"][row["label"] != 255]
        assert (known < len(dataset.classes)).all() and (known.size > 0 or name == "mapillary_vistas")


def test_bdd100k_sample_kinds_agree(shared_dir, load):
    root = shared_dir / "data" / "samples" / "bdd100k"
    masks, colors = (load("bdd100k", root, "val", labels=kind) for kind in ("masks", "colormaps"))
    assert all((masks.read_label(i) == colors.read_label(i)).all() for i in range(8))


def test_pascal_sample_kinds_agree(shared_dir, load):
    root = shared_dir / "data" / "samples" / "pascal_context_formattrue"
    full, short = (load("pascal_context", root, labels=kind) for kind in ("trainval", "59_context_labels"))
    assert all((full.read_label(i) == short.read_label(i)).all() for i in range(3))


def test_coco_sample_agrees_with_the_segments(shared_dir, load):
    """The class map of panopticapi's two-channel format, where 255 is the category of no segment."""
    root = shared_dir / "data" / "samples" / "coco_panoptic"
    dataset = load("coco_panoptic", root, "val", task="panoptic")
    annotations = json.loads((root / "annotations/panoptic_val2017.json").read_text())["annotations"]
    for row in dataset:
        name = row["file_name"].split("/")[-1].replace("jpg", "png")
        entry = next(entry for entry in annotations if entry["file_name"] == name)
        areas: dict[int, int] = {}
        for part in entry["segments_info"]:
            areas[part["category_id"]] = areas.get(part["category_id"], 0) + part["area"]
        found = {
            dataset.classes.ids[index]: int(count)
            for index, count in zip(*np.unique(row["label"], return_counts=True))
            if index != 255
        }
        assert found == areas
        thing_ids = [dataset.classes.ids[index] for index in dataset.classes.thing_indices]
        objects = [p for p in entry["segments_info"] if p["category_id"] in thing_ids and not p["iscrowd"]]
        assert len(np.unique(row["instance"])) - 1 == len(objects)
