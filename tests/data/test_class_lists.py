"""Every class list against the published one. Where it is published stands with each test."""

import hashlib
import json

import numpy as np
import pytest

from ssprompt_hf.data import KNOWN_DATASETS, SegmentationClasses
from ssprompt_hf.data.datasets import acdc, ade20k, bdd100k, cityscapes, mapillary_vistas, pascal_context
from ssprompt_hf.data.sources.panoptic_files import classes_of_categories


def digest(lines) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def samples(shared_dir, name):
    folder = shared_dir / "data" / "samples" / name
    if not folder.is_dir():
        pytest.skip(f"no sample at {folder}")
    return folder


def test_cityscapes():
    """`cityscapesscripts/helpers/labels.py`, https://github.com/mcordts/cityscapesScripts."""
    published = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    counted = sorted((label for label in published if not label.ignoreInEval), key=lambda label: label.trainId)
    ours = [(info.name, info.id, info.thing, info.color) for info in cityscapes.CLASSES.classes]
    assert ours == [(label.name, label.id, label.hasInstances, label.color) for label in counted]
    assert [label.trainId for label in counted] == cityscapes.TRAIN_ID_CLASSES.ids
    ignored = {label.name: label.id if label.id >= 0 else None for label in published if label.ignoreInEval}
    assert ignored == cityscapes.IGNORED_IDS
    assert {i for i in ignored.values() if i is not None} | {255} == set(cityscapes.CLASSES.ignore_ids)


def test_cityscapes_literally():
    """Table 1 of https://www.cityscapes-dataset.com/dataset-overview, with the ids of `labels.py`."""
    ids = dict(zip(cityscapes.CLASSES.names, cityscapes.CLASSES.ids))
    assert ids == {
        "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
        "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
        "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
    }  # fmt: skip
    assert cityscapes.CLASSES.thing_indices == list(range(11, 19))


def test_bdd100k_and_acdc():
    """`bdd100k/label/label.py`, https://github.com/bdd100k/bdd100k: train ids "compatible with Cityscapes", of its
    colours; ACDC: section 3 of Sakaridis et al., 2021: "the 19 evaluation classes of Cityscapes"."""
    colors = {
        0: (128, 64, 128), 1: (244, 35, 232), 2: (70, 70, 70), 3: (102, 102, 156), 4: (190, 153, 153),
        5: (153, 153, 153), 6: (250, 170, 30), 7: (220, 220, 0), 8: (107, 142, 35), 9: (152, 251, 152),
        10: (70, 130, 180), 11: (220, 20, 60), 12: (255, 0, 0), 13: (0, 0, 142), 14: (0, 0, 70), 15: (0, 60, 100),
        16: (0, 80, 100), 17: (0, 0, 230), 18: (119, 11, 32),
    }  # fmt: skip
    assert dict(zip(bdd100k.CLASSES.ids, bdd100k.CLASSES.colors)) == colors
    assert bdd100k.CLASSES.names == acdc.CLASSES.names == cityscapes.CLASSES.names


@pytest.mark.parametrize("version, published", [("1.2", "50af12dfb69f2eb8"), ("2.0", "3f3e61c254faa789")])
def test_mapillary_vistas(version, published):
    """`config_v1.2.json` and `config_v2.0.json` of the data set: digests of their names and `instances`."""
    lines = [f"{info.name} {int(info.has_instances)}" for info in mapillary_vistas.VISTAS_CLASSES[version]]
    assert digest(lines) == published


@pytest.mark.parametrize("version", ["1.2", "2.0"])
def test_mapillary_vistas_configuration(shared_dir, version):
    """The same files, word for word."""
    config = json.loads((samples(shared_dir, "mapillary_vistas") / f"config_v{version}.json").read_text())
    ours = [(info.name, info.has_instances) for info in mapillary_vistas.VISTAS_CLASSES[version]]
    assert ours == [(label["name"], label["instances"]) for label in config["labels"]]


def test_mapillary_vistas_mapping():
    """v1.2: the ids that https://github.com/shachoi/RobustNet (`datasets/mapillary.py`) and
    https://github.com/tue-mps/benchmark-vfm-ss (`datasets/mappings.py`) map and, named apart, those of Cityscapes'
    definitions and of https://github.com/openseg-group/openseg.pytorch beyond these; v2.0 agrees wherever a name is in
    both versions."""
    published = {
        13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9, 27: 10, 19: 11,
        20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18,
    }  # fmt: skip
    ours = {7: 0, 8: 0, 14: 0, 23: 0, 43: 0, 9: 1, 11: 1, 26: 9}
    openseg = {7: 0, 8: 0, 10: 0, 14: 0, 23: 0, 9: 1, 11: 1, 44: 5, 46: 7, 49: 7}
    tables = {mapping: mapillary_vistas.ID_TABLES["1.2", mapping] for mapping in mapillary_vistas.MAPPINGS}
    assert tables["robustnet"].index_of_id == published
    assert tables["cityscapes"].index_of_id == published | ours
    assert tables["openseg"].index_of_id == {n: index for n, index in published.items() if n != 41} | openseg
    names = {version: [info.name for info in infos] for version, infos in mapillary_vistas.VISTAS_CLASSES.items()}
    both = set(names["1.2"]) & set(names["2.0"])
    assert len(both) == 61
    for name in both:
        targets = [
            next(info.target for info in infos if info.name == name)
            for infos in mapillary_vistas.VISTAS_CLASSES.values()
        ]
        assert targets[0] == targets[1], name
    for version, infos in mapillary_vistas.VISTAS_CLASSES.items():
        table = mapillary_vistas.ID_TABLES[version, "cityscapes"]
        assert set(table.index_of_id.values()) == set(range(19))
        assert set(table.index_of_id) | set(table.ignore_ids) == {*range(len(infos)), 255}


ADE_THINGS = [
    8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38, 39, 40, 42, 43, 44, 45, 46, 48, 50,
    51, 54, 56, 57, 58, 59, 63, 65, 66, 67, 68, 70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83, 84, 86, 87, 88, 89, 90,
    91, 93, 94, 96, 98, 99, 103, 104, 105, 108, 109, 111, 112, 113, 116, 117, 119, 120, 121, 122, 124, 125, 126, 127,
    128, 130, 131, 133, 134, 135, 136, 137, 138, 139, 140, 143, 144, 145, 147, 148, 149, 150,
]  # fmt: skip


def test_ade20k():
    """`objectInfo150.txt` and `color150.mat`, https://github.com/CSAILVision/sceneparsing (digests); things:
    `instancesegmentation/categoryMapping.txt`, https://github.com/CSAILVision/placeschallenge."""
    classes = ade20k.CLASSES
    assert len(classes) == 150 and classes.ids == list(range(1, 151))
    assert digest(classes.names) == "ffd47f2fcbad6c48"
    assert digest(" ".join(map(str, color)) for color in classes.colors) == "7d6ac2551a6c668d"
    assert [index + 1 for index in classes.thing_indices] == ADE_THINGS
    assert ade20k.INSTANCE_CLASSES.names == [classes.names[index - 1] for index in ADE_THINGS]
    assert ade20k.INSTANCE_CLASSES.ids == list(range(1, 101))


def test_ade20k_files(shared_dir):
    """The same files, word for word."""
    scipy_io = pytest.importorskip("scipy.io")
    folder = samples(shared_dir, "ade20k_sceneparse150") / "ADEChallengeData2016"
    rows = [line.split("\t") for line in (folder / "objectInfo150.txt").read_text().splitlines()[1:]]
    assert [(int(row[0]), row[4].split(",")[0].strip()) for row in rows] == list(
        zip(ade20k.CLASSES.ids, ade20k.CLASSES.names)
    )
    assert np.array_equal(scipy_io.loadmat(folder / "color150.mat")["colors"], np.array(ade20k.CLASSES.colors))


# the 59 ids among the 459 labels, as https://github.com/zhanghang1989/PyTorch-Encoding and MMSegmentation's
# tools/dataset_converters/pascal_context.py list them
PASCAL_IDS = [
    2, 259, 260, 415, 324, 9, 258, 144, 18, 19, 22, 23, 397, 25, 284, 158, 159, 416, 33, 162, 420, 454, 295, 296, 427,
    44, 45, 46, 308, 59, 440, 445, 31, 232, 65, 354, 424, 68, 326, 72, 458, 34, 207, 80, 355, 85, 347, 220, 349, 360,
    98, 187, 104, 105, 366, 189, 368, 113, 115,
]  # fmt: skip
# mmseg/datasets/pascal_context.py, https://github.com/open-mmlab/mmsegmentation
PASCAL_ALPHABETICAL = [
    "aeroplane",
    "bag",
    "bed",
    "bedclothes",
    "bench",
    "bicycle",
    "bird",
    "boat",
    "book",
    "bottle",
    "building",
    "bus",
    "cabinet",
    "car",
    "cat",
    "ceiling",
    "chair",
    "cloth",
    "computer",
    "cow",
    "cup",
    "curtain",
    "dog",
    "door",
    "fence",
    "floor",
    "flower",
    "food",
    "grass",
    "ground",
    "horse",
    "keyboard",
    "light",
    "motorbike",
    "mountain",
    "mouse",
    "person",
    "plate",
    "platform",
    "pottedplant",
    "road",
    "rock",
    "sheep",
    "shelves",
    "sidewalk",
    "sign",
    "sky",
    "snow",
    "sofa",
    "table",
    "track",
    "train",
    "tree",
    "truck",
    "tvmonitor",
    "wall",
    "water",
    "window",
    "wood",
]
PASCAL_SYNONYMS = {
    "dining table": "table", "clothes": "cloth", "potted plant": "pottedplant", "tv monitor": "tvmonitor"
}  # fmt: skip


def test_pascal_context():
    assert sorted(pascal_context.LABEL_IDS.values()) == sorted(PASCAL_IDS)
    names = [PASCAL_SYNONYMS.get(name, name) for name in pascal_context.CLASSES.names]
    by_order = dict(zip(pascal_context.ALPHABETICAL_CLASSES.ids, names))
    assert [by_order[number] for number in range(1, 60)] == PASCAL_ALPHABETICAL
    voc = "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant"
    assert names[:20] == (voc + " sheep sofa train tvmonitor").split()  # the 20 of PASCAL VOC, in its order
    assert names[20:41] == sorted(names[20:41]) and pascal_context.CLASSES.ids == list(range(1, 60))


def test_pascal_context_files(shared_dir):
    """`59_labels.txt` and `labels.txt` of https://cs.stanford.edu/~roozbeh/pascal-context, word for word."""
    folder = samples(shared_dir, "pascal_context_formattrue")
    short = [line.split(": ")[1].strip() for line in (folder / "classes-59.txt").read_text().splitlines()][1:]
    spelled = [name.replace(" ", "") for name in pascal_context.CLASSES.names]
    assert spelled == [{"bedcloth": "bedclothes"}.get(name, name) for name in short]
    full = dict(line.split(": ")[::-1] for line in (folder / "classes-400.txt").read_text().splitlines())
    for name, number in pascal_context.LABEL_IDS.items():
        assert int(full[PASCAL_SYNONYMS.get(name, name)]) == number


def test_coco_categories(shared_dir):
    """`panoptic_coco_categories.json`, https://github.com/cocodataset/panopticapi."""
    entries = json.loads((samples(shared_dir, "coco_panoptic") / "panoptic_coco_categories.json").read_text())
    classes = classes_of_categories(entries)
    assert len(classes) == 133 and len(classes.thing_indices) == 80
    assert classes.ids == [entry["id"] for entry in entries]
    assert classes.colors == [tuple(entry["color"]) for entry in entries]
    names = dict(zip(classes.ids, classes.names))
    assert names[184] == "tree" and names[187] == "sky" and names[112] == "door" and names[171] == "wall brick"


def test_category_names_that_would_be_the_same_stay():
    entries = [{"id": n, "name": name, "isthing": 0} for n, name in enumerate(["wall", "wall-other", "a-b"], start=1)]
    assert classes_of_categories(entries).names == ["wall", "wall-other", "a b"]


def test_all_are_described():
    for name, info in KNOWN_DATASETS.items():
        assert info.name == name and info.licence and info.tree and "http" in info.url
    for module in (ade20k, bdd100k, cityscapes, pascal_context):
        assert isinstance(module.CLASSES, SegmentationClasses)
