"""The drawn street scenes: reproducible, disjoint, consistently labelled, any size."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ssprompt_hf.data.street_scenes.source as street_scenes
from ssprompt_hf.data.street_scenes.classes import LABEL_SETS, Part
from ssprompt_hf.data.street_scenes.source import (
    CUSTOM_CLASSES,
    STREET_CLASSES,
    STREET_CONDITIONS,
    STREET_SPLITS,
    STREET_SYNONYMS,
    STREET_THINGS,
    StreetScenes,
)

SMALL = (48, 96)


def digest(item):
    return hashlib.sha256(b"".join(item[name].tobytes() for name in ("image", "label", "instance"))).hexdigest()


def test_item_shapes_and_types():
    item = StreetScenes(size=(64, 96), num_images=3)[1]
    assert item["image"].shape == (64, 96, 3) and item["image"].dtype == np.uint8
    assert item["label"].shape == (64, 96) and item["label"].dtype == np.uint8
    assert item["instance"].shape == (64, 96) and item["instance"].dtype == np.int32


@pytest.mark.parametrize("condition", STREET_CONDITIONS)
def test_scene_depends_on_seed_and_index_alone(condition):
    scenes = StreetScenes(condition=condition, num_images=5, size=SMALL)
    first = digest(scenes[3])
    scenes[0]
    assert digest(scenes[3]) == first == digest(scenes[-2])
    assert digest(StreetScenes(condition=condition, num_images=4, size=SMALL)[3]) == first
    assert digest(StreetScenes(condition=condition, num_images=4, size=SMALL, seed=1)[3]) != first


def test_another_process_draws_the_same():
    code = (
        "import hashlib; from ssprompt_hf.data.street_scenes.source import *\n"
        "for c in STREET_CONDITIONS:\n"
        "    item = StreetScenes(condition=c, num_images=8, size=(48, 96))[7]\n"
        "    parts = b''.join(item[name].tobytes() for name in ('image', 'label', 'instance'))\n"
        "    print(hashlib.sha256(parts).hexdigest())\n"
    )
    root = Path(street_scenes.__file__).parents[3]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.split() == [
        digest(StreetScenes(condition=c, num_images=8, size=SMALL)[7]) for c in STREET_CONDITIONS
    ]


def test_splits_share_no_scene():
    scenes = [StreetScenes(split=split, num_images=6, size=SMALL) for split in STREET_SPLITS]
    digests = {digest(one[i]) for one in scenes for i in range(6)}
    assert len(digests) == 18


def test_conditions_show_the_same_street():
    items = [StreetScenes(split="test", condition=condition)[11] for condition in STREET_CONDITIONS]
    for item in items[1:]:
        np.testing.assert_array_equal(item["label"], items[0]["label"])
        np.testing.assert_array_equal(item["instance"], items[0]["instance"])
        assert np.abs(item["image"].astype(int) - items[0]["image"]).mean() > 5


def test_weather_reads_as_weather():
    conditions = ("clear", "fog", "night", "rain")
    images = {c: [StreetScenes(condition=c, size=SMALL)[i]["image"] for i in range(8)] for c in conditions}
    means = {c: np.mean([image.mean() for image in images[c]]) for c in conditions}
    assert means["night"] < 0.5 * means["clear"]
    spread = {c: np.mean([image.std() for image in images[c]]) for c in conditions}
    assert spread["fog"] < spread["clear"] and spread["rain"] < spread["clear"]


@pytest.mark.parametrize("label_set", ["base", "custom"])
def test_labels_and_instances_fit_the_label_set(label_set):
    scenes = StreetScenes(label_set=label_set, num_images=30, size=(64, 96))
    seen = set()
    for i in range(len(scenes)):
        item = scenes[i]
        label, instance = item["label"], item["instance"]
        seen |= set(np.unique(label).tolist())
        assert not instance[~np.isin(label, scenes.thing_ids)].any()
        assert instance[np.isin(label, scenes.thing_ids)].all()
        for number in np.unique(instance[instance > 0]):
            assert len(np.unique(label[instance == number])) == 1
    assert seen - {255} == set(range(len(scenes.classes)))
    assert len(scenes.colors) == len(scenes.classes)


def test_label_sets_refine_the_same_parts():
    base, custom = (StreetScenes(label_set=name, num_images=5, size=SMALL) for name in ("base", "custom"))
    for i in range(5):
        a, b = base[i], custom[i]
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(
            a["label"] == STREET_CLASSES.index("sky"), b["label"] == CUSTOM_CLASSES.index("firmament")
        )
        np.testing.assert_array_equal(a["label"] == 255, b["label"] == 255)
    for labels in LABEL_SETS.values():
        parts = [part for parts in labels.parts for part in parts]
        assert len(parts) == len(set(parts)) and set(Part) - set(parts) == {Part.OTHER}


@pytest.mark.parametrize("size", [(64, 96), (97, 131), (16, 16), (180, 240)])
def test_any_size(size):
    for i in range(2):
        item = StreetScenes(size=size, condition=STREET_CONDITIONS[i])[i]
        assert item["image"].shape == (*size, 3) and item["label"].shape == size and item["instance"].shape == size


def test_names():
    assert tuple(STREET_CLASSES.index(name) for name in ("sign", "car", "person", "rider")) == STREET_THINGS
    assert set(STREET_SYNONYMS) == set(STREET_CLASSES)
    names = [name for synonyms in STREET_SYNONYMS.values() for name in synonyms]
    assert len(names) == len(set(names))
    words = {word for name in names for word in name.lower().split()}
    assert not words & {word for name in CUSTOM_CLASSES for word in name.split()}
    assert not {name.lower() for name in names} & set(CUSTOM_CLASSES)


def test_synonyms_hold_the_camvid_names(shared_dir):
    import json

    classes = json.loads((shared_dir / "data/camvid/classes.json").read_text())["classes"]
    assert {entry["name"] for entry in classes} <= {name for names in STREET_SYNONYMS.values() for name in names}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "Unknown split 'val'; choose one of 'train', 'validation', 'test'"),
        ({"condition": "hail"}, "Unknown condition 'hail'; choose one of 'clear', 'fog', 'night', 'rain', 'snow'"),
        ({"label_set": "cityscapes"}, "Unknown label set 'cityscapes'; choose one of 'base', 'custom'"),
        ({"size": (8, 64)}, r"size is \(8, 64\)"),
        ({"num_images": 0}, "num_images is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreetScenes(**arguments)


def test_index_outside():
    with pytest.raises(IndexError, match="index 3 is outside a dataset of 3 scenes"):
        StreetScenes(num_images=3)[3]


def test_ground_stays_below_the_horizon():
    """A ground polygon that reaches behind the camera must not wrap into the sky."""
    ground = [STREET_CLASSES.index("road"), STREET_CLASSES.index("pavement")]
    for size in (SMALL, (120, 80)):
        scenes = StreetScenes(size=size, num_images=60)
        for i in range(60):
            assert not np.isin(scenes[i]["label"][: size[0] // 6], ground).any(), i
