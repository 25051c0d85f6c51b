"""Data sets known by name: small files in the official layouts, and real samples where they are there."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from dataset_files import (
    SIZE,
    panoptic_json,
    segment,
    segment_png,
    two_halves,
    write_acdc,
    write_cityscapes,
    write_image,
    write_map,
)
from PIL import Image

from ssprompt_hf.data import KNOWN_DATASETS, label_statistics, load_segmentation_dataset
from ssprompt_hf.data.datasets import describe_dataset, file_index, find_known_dataset, pascal_context
from ssprompt_hf.errors import DatasetError, LabelFormatError, LabelIdError, MissingLabelError, NoImagesError


@pytest.fixture
def load(tmp_path):
    def load(name, data_dir, split="train", **options):
        return load_segmentation_dataset(name, data_dir, split, cache_dir=tmp_path / "cache", **options)

    return load


def same_partition(first, second) -> bool:
    """Whether two instance maps tell the same objects apart."""
    pairs = np.unique(np.stack([first.ravel(), second.ravel()]), axis=1)
    return all(len(np.unique(row)) == pairs.shape[1] for row in pairs) and ((first > 0) == (second > 0)).all()


# Cityscapes


@pytest.fixture(scope="session")
def cityscapes_dir(tmp_path_factory):
    """All label files that the official tools make from the polygons."""
    json2label = pytest.importorskip("cityscapesscripts.preparation.json2labelImg").json2labelImg
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage

    root = write_cityscapes(tmp_path_factory.mktemp("data") / "cityscapes")
    write_cityscapes(root, "zurich", (122,))
    for file in root.glob("gtFine/train/*/*_polygons.json"):
        stem = str(file)[: -len("polygons.json")]
        json2label(str(file), stem + "labelIds.png")
        json2label(str(file), stem + "labelTrainIds.png", "trainIds")
        annotation = Annotation()
        annotation.fromJsonFile(str(file))
        # their json2instanceImg saves Pillow's mode "I" as PNG, which newer versions of Pillow refuse
        instances = np.asarray(createInstanceImage(annotation, "ids")).astype(np.uint16)
        write_map(Path(stem + "instanceIds.png"), instances)
    convert2panoptic(str(root / "gtFine"), str(root / "gtFine"), False, ["train"])
    convert2panoptic(str(root / "gtFine"), str(root / "gtFine"), True, ["train"])
    return root


def test_cityscapes_label_files_agree(cityscapes_dir, load):
    kinds = ("labelIds", "labelTrainIds", "instanceIds", "polygons")
    reference = load("cityscapes", cityscapes_dir)
    assert len(reference) == 3 and len(reference.classes) == 19
    assert reference.file_names[0] == "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
    assert "instance" not in reference[0] and reference[0]["image"].shape == (*SIZE, 3)
    for kind in kinds:
        dataset = load("cityscapes", cityscapes_dir, labels=kind)
        assert all((dataset.read_label(i) == reference[i]["label"]).all() for i in range(3)), kind
    found = {reference.classes.names[i] for i in np.unique(reference[0]["label"]) if i != 255}
    assert found == {"road", "sky", "car", "person", "rider"}
    raw = np.asarray(Image.open(next(cityscapes_dir.glob("gtFine/train/aachen/*000000*_labelIds.png"))))
    assert ((reference[0]["label"] == 255) == np.isin(raw, [0, 1, 18, 29])).all()


@pytest.mark.parametrize("task", ["instance", "panoptic"])
def test_cityscapes_instances_agree(cityscapes_dir, load, task):
    reference = load("cityscapes", cityscapes_dir, task=task, labels="instanceIds")
    semantic = load("cityscapes", cityscapes_dir)
    for kind in ("panoptic", "panoptic_trainId", "polygons"):
        dataset = load("cityscapes", cityscapes_dir, task=task, labels=kind)
        for i in range(3):
            row = dataset[i]
            assert (row["label"] == semantic[i]["label"]).all(), kind
            # panoptic files do not know the objects of ignored classes
            known = slice(None) if kind == "polygons" else row["label"] != 255
            assert row["instance"].dtype == np.int32
            assert same_partition(row["instance"][known], reference[i]["instance"][known])
    row = reference[0]
    by_name = {name: row["label"] == index for index, name in enumerate(reference.classes.names)}
    assert len(np.unique(row["instance"][by_name["car"]])) == 3  # two cars, and the group, which is no object
    assert len(np.unique(row["instance"][by_name["person"]])) == 1 and row["instance"][by_name["person"]].all()
    assert not row["instance"][by_name["rider"]].any()  # a group
    ignored = np.unique(row["instance"][row["label"] == 255])
    assert len(ignored) == 2 and ignored[0] == 0  # void, and a caravan
    assert not row["instance"][by_name["road"]].any()


def test_cityscapes_without_official_tools(tmp_path, load):
    root = write_cityscapes(tmp_path / "city")
    row = load("cityscapes", root, task="panoptic")[0]
    assert set(np.unique(row["label"])) == {0, 10, 11, 12, 13, 255}
    assert (load("cityscapes", root)[0]["label"] == row["label"]).all()
    name = root / "gtFine/train/aachen/aachen_000000_000019_gtFine_polygons.json"
    name.write_text(name.read_text().replace('"sky"', '"heaven"'))
    with pytest.raises(LabelIdError, match="polygon 2 has the label 'heaven'"):
        load("cityscapes", root)[0]
    name.write_text("[]")
    with pytest.raises(LabelFormatError, match="not a Cityscapes polygon file"):
        load("cityscapes", root)[0]


# ACDC


def test_acdc_conditions(tmp_path, load):
    root = write_acdc(tmp_path / "acdc")
    for condition in ("fog", "night", "rain", "snow"):
        dataset = load("acdc", root, "val", condition=condition)
        place = f"rgb_anon/{condition}/val/GOPR0475/GOPR0475_{condition}_val_frame_000041_rgb_anon.png"
        assert dataset.file_names == [place] and dataset.name == f"acdc/{condition}"
        assert (load(f"acdc/{condition}", root, "val")[0]["label"] == two_halves(0, 13)).all()
    assert len(load("acdc", root)) == len(load("acdc", root, condition="all")) == 4
    for kind in ("labelIds", "labelTrainIds"):
        assert (load("acdc", root, labels=kind)[3]["label"] == two_halves(0, 13)).all()
    with pytest.raises(DatasetError, match="one of fog, night, rain, snow, all, not 'hail'"):
        load("acdc", root, condition="hail")
    with pytest.raises(DatasetError, match="not divided by condition"):
        load("cityscapes", root, condition="fog")


def test_acdc_panoptic(tmp_path, load):
    root = write_acdc(tmp_path / "data" / "ACDC")
    # the tree may begin in a folder of its name
    row = load("acdc", root.parent, task="panoptic", condition="night")[0]
    assert (row["label"] == two_halves(0, 13)).all() and (row["instance"] == two_halves(0, 26001, np.int32)).all()
    rows = load("acdc", root, "val", task="instance")
    assert len(rows) == 4 and rows.coco_image_ids is None  # each condition's file counts from 0
    assert load("acdc/fog", root, "val", task="instance").coco_image_ids == [0]
    assert rows.semantic_ids == list(range(19)) != rows.classes.ids  # as its server numbers them


def test_acdc_as_its_readme_describes_it(tmp_path, load):
    """One JSON file for all conditions with paths in it, normal-condition images, and further kinds of label files."""
    root = write_acdc(tmp_path / "acdc")
    whole = {"images": [], "annotations": [], "categories": []}
    for number, path in enumerate(sorted(root.glob("gt_panoptic/*/*_val_gt_panoptic.json"))):
        data, condition = json.loads(path.read_text()), path.parent.name
        path.unlink()
        (image,), (annotation,) = data["images"], data["annotations"]
        image["id"] = annotation["image_id"] = number
        for entry, top in ((image, "rgb_anon"), (annotation, "gt_panoptic")):
            (file,) = root.glob(f"{top}/{condition}/val/*/{entry['file_name']}")
            entry["file_name"] = file.relative_to(root / top).as_posix()
        whole["images"].append(image)
        whole["annotations"].append(annotation)
        whole["categories"] = data["categories"]
    (root / "gt_panoptic/val_gt_panoptic.json").write_text(json.dumps(whole))
    for condition in ("fog", "snow"):
        stem = f"GOPR0475_{condition}_val_frame_000041"
        write_image(root / f"gt/{condition}/val/GOPR0475/{stem}_gt_labelColor.png")
        write_map(root / f"gt/{condition}/val/GOPR0475/{stem}_gt_invGray.png", two_halves(0, 255))
        ref = f"{condition}/val_ref/GOPR0475/{stem}"
        write_image(root / f"rgb_anon/{ref}_rgb_ref_anon.png")
        write_map(root / f"gt/{ref}_gt_ref_labelTrainIds.png", two_halves(1, 2))
        segment_png(root / f"gt_panoptic/{ref}_gt_ref_panoptic.png", two_halves(8, 9, np.int32))
    (root / "gt/test_ref_image_list.txt").write_text("fog/test_ref/GOPR0478/GOPR0478_frame_000001_rgb_ref_anon.png\n")
    for task in ("semantic", "panoptic"):
        rows = load("acdc", root, "val", task=task, condition="all")
        assert len(rows) == 4 and all((rows[i]["label"] == two_halves(0, 13)).all() for i in range(4))
    assert rows.coco_image_ids == [0, 1, 2, 3] and rows.select([2, 1]).coco_image_ids == [2, 1]
    assert (load("acdc/snow", root, "val", task="instance")[0]["instance"] == two_halves(0, 26001, np.int32)).all()


def test_frames_of_the_same_name_stay_apart(tmp_path, load):
    root = tmp_path / "acdc"
    for value, condition in enumerate(("fog", "night", "rain", "snow")):
        write_image(root / f"rgb_anon/{condition}/val/GOPR0475/GOPR0475_frame_000041_rgb_anon.png", value)
        label = root / f"gt/{condition}/val/GOPR0475/GOPR0475_frame_000041_gt_labelTrainIds.png"
        write_map(label, two_halves(value, 255))
    rows = load("acdc", root, "val")
    assert [(int(row["image"].max()), int(row["label"].min())) for row in rows] == [(k, k) for k in range(4)]


def test_archives_unpacked_into_folders_of_their_own(tmp_path, load):
    root = write_acdc(tmp_path / "acdc")
    with pytest.raises(NoImagesError, match="rgb_anon_trainvaltest, gt_trainval"):
        load("acdc", tmp_path / "acdc" / "gt", "val")
    for top, archive in (("rgb_anon", "rgb_anon_trainvaltest"), ("gt", "gt_trainval"), ("gt_panoptic",) * 2):
        (root / top).rename(root / f"{top}.moved")
        (root / archive).mkdir(exist_ok=True)
        (root / f"{top}.moved").rename(root / archive / top)
    (root / "gt_panoptic").rename(root / "gt_panoptic_trainval")
    assert len(load("acdc", root, "val")) == len(load("acdc", root, "val", task="panoptic")) == 4
    root = write_cityscapes(tmp_path / "cityscapes")
    for top in ("leftImg8bit", "gtFine"):
        (root / top).rename(root / "moved")
        (root / f"{top}_trainvaltest").mkdir()
        (root / "moved").rename(root / f"{top}_trainvaltest" / top)
    rows = load("cityscapes", tmp_path, task="instance")
    assert rows.file_names[0].startswith("leftImg8bit_trainvaltest/leftImg8bit/train/")


# BDD100K


def test_bdd100k_kinds_agree(tmp_path, load):
    label = two_halves(13, 255)
    colors = np.where((label == 13)[..., None], np.array([0, 0, 142]), 0).astype(np.uint8)
    palette = Image.fromarray(two_halves(1, 0))
    palette.putpalette([0, 0, 0, 0, 0, 142])
    for name, picture in (("a", Image.fromarray(colors)), ("b", palette)):
        write_image(tmp_path / f"images/10k/train/{name}.jpg")
        write_map(tmp_path / f"labels/sem_seg/masks/train/{name}.png", label)
        path = tmp_path / f"labels/sem_seg/colormaps/train/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    for kind in ("masks", "colormaps"):
        dataset = load("bdd100k", tmp_path, labels=kind)
        assert all((dataset[i]["label"] == label).all() for i in range(2)), kind
    palette.putpalette([0, 0, 0, 0, 0, 143])
    palette.save(tmp_path / "labels/sem_seg/colormaps/train/b.png")
    with pytest.raises(LabelIdError, match=r"palette entry 1 has the colour \(0, 0, 143\)"):
        load("bdd100k", tmp_path, labels="colormaps")[1]
    with pytest.raises(DatasetError, match="no labels for task='panoptic'"):
        load("bdd100k", tmp_path, task="panoptic")
    with pytest.raises(DatasetError, match="one of masks, colormaps, not 'polygons'"):
        load("bdd100k", tmp_path, labels="polygons")


# Mapillary Vistas


def test_mapillary_versions(tmp_path, load):
    write_image(tmp_path / "training/images/x.jpg")
    ids = {"1.2": (55, 1), "2.0": (108, 31)}  # a car, and an animal or a group of persons
    for version, (car, other) in ids.items():
        folder = tmp_path / f"training/v{version}"
        write_map(folder / "labels/x.png", two_halves(car, other))
        packed = two_halves(car * 256, other * 256, np.uint16)
        packed[:4, :4] += 1
        write_map(folder / "instances/x.png", packed)
    old, new = (load("mapillary_vistas", tmp_path, version=version, task="panoptic")[0] for version in ids)
    assert (old["label"] == two_halves(13, 255)).all() and (new["label"] == two_halves(13, 11)).all()
    for row in (old, new):
        # the first object is number 0 in the file; groups of persons are not told apart
        assert (row["instance"] > 0).sum() == SIZE[0] * SIZE[1] // 2 and len(np.unique(row["instance"])) == 3
    for version, row in zip(ids, (old, new)):
        assert (load("mapillary_vistas", tmp_path, version=version)[0]["label"] == row["label"]).all()
    with pytest.raises(
        DatasetError, match=r"(?s)version 2\.0 \(.*v2\.0/.* and in version 1\.2 \(.*v1\.2/.*--dataset_op"
    ):
        load("mapillary-vistas", tmp_path)
    write_map(tmp_path / "training/v1.2/labels/x.png", two_halves(55, 41))  # a car, and a manhole
    for mapping, other in (("cityscapes", 0), ("robustnet", 0), ("openseg", 255)):
        labels = load("mapillary_vistas", tmp_path, version="1.2", class_mapping=mapping)
        assert (labels[0]["label"] == two_halves(13, other)).all()
    assert (load("mapillary_vistas", tmp_path, class_mapping="openseg")[0]["label"] == two_halves(13, 255)).all()
    with pytest.raises(DatasetError, match=r"'robustnet' is of the classes of version 1\.2, not 2\.0"):
        load("mapillary_vistas", tmp_path, version="2.0", class_mapping="robustnet")
    shutil.move(tmp_path / "training/v1.2", tmp_path / "v1.2")
    assert (load("mapillary_vistas", tmp_path)[0]["label"] == new["label"]).all()
    shutil.move(tmp_path / "v1.2", tmp_path / "training/v1.2")  # the kept list of files does not hide it
    with pytest.raises(DatasetError, match="in version 2"):
        load("mapillary_vistas", tmp_path)
    with pytest.raises(DatasetError, match=r"version: 2\.0, 1\.2"):
        load("mapillary_vistas", tmp_path, version="3")


# ADE20K


def test_ade20k_tasks(tmp_path, load):
    root = tmp_path / "ADEChallengeData2016"
    write_image(root / "images/validation/ADE_val_00000001.jpg")
    label = two_halves(3, 13)  # sky and persons
    label[0] = 0
    instances = np.zeros((*SIZE, 3), np.uint8)
    instances[4:8, 20:24] = (4, 1, 0)  # two of the persons
    instances[10:14, 20:24] = (4, 2, 0)
    instances[10:12, 2:4] = (100, 3, 0)  # a flag, drawn over the sky
    write_map(root / "annotations/validation/ADE_val_00000001.png", label)
    write_map(root / "annotations_instance/validation/ADE_val_00000001.png", instances)
    semantic = load("ade20k", tmp_path, "val")[0]["label"]
    assert (semantic == np.where(label == 0, 255, label.astype(int) - 1)).all()
    dataset = load("ade20k", tmp_path, "val", task="instance")
    assert len(dataset.classes) == 100
    row = dataset[0]
    assert set(np.unique(row["label"])) == {3, 99, 255} and set(np.unique(row["instance"])) == {0, 1, 2, 3}
    assert dataset.classes.names[3] == "person" and dataset.classes.names[99] == "flag"
    dataset = load("ade20k", tmp_path, "val", task="panoptic")
    assert len(dataset.classes) == 150 and len(dataset.classes.thing_indices) == 100
    row = dataset[0]
    assert {dataset.classes.names[i] for i in np.unique(row["label"]) if i != 255} == {"sky", "person", "flag"}
    # the other persons' pixels belong to no object, and are ignored
    assert ((row["label"] == 12) == (instances[..., 0] == 4)).all() and (row["label"][9, 20:] == 255).all()
    # Mask2Former's panoptic files say the same
    numbers = np.where(label == 3, 3, 0) + 0
    numbers = np.where(instances[..., 1] > 0, 70000 + instances[..., 1].astype(int), numbers)
    segment_png(root / "ade20k_panoptic_val/ADE_val_00000001.png", numbers)
    categories = [{"id": n, "name": str(n), "isthing": 0, "color": [0, 0, 0]} for n in range(150)]
    segments = [segment(3, 2), segment(70001, 12), segment(70002, 12), segment(70003, 149)]
    panoptic_json(
        root / "ade20k_panoptic_val.json", categories, [("ADE_val_00000001.jpg", "ADE_val_00000001.png", segments)]
    )
    other = load("ade20k", tmp_path, "val", task="panoptic", labels="panoptic")[0]
    assert (other["label"] == row["label"]).all() and same_partition(other["instance"], row["instance"])


# PASCAL Context


def write_pascal(root, folders):
    names = ["2008_000001", "2008_000002"]
    full = two_halves(9, 23, np.uint16)  # bag and bicycle among the 459
    full[0] = 1  # accordion, none of the 59
    for name in names:
        write_image(root / f"JPEGImages/{name}.jpg")
        if "trainval" in folders:
            (root / "trainval").mkdir(exist_ok=True)
            scipy.io.savemat(root / f"trainval/{name}.mat", {"LabelMap": full})
        for folder, (bag, bicycle) in (("59_context_labels", (21, 2)), ("SegmentationClassContext", (2, 6))):
            if folder in folders:
                label = two_halves(bag, bicycle)
                label[0] = 0
                write_map(root / f"{folder}/{name}.png", label)
    write_image(root / "JPEGImages/2008_000003.jpg")  # one of VOC's many images without such labels
    expected = two_halves(pascal_context.CLASSES.names.index("bag"), pascal_context.CLASSES.names.index("bicycle"))
    expected[0] = 255
    return expected


@pytest.mark.parametrize("folder", ["trainval", "59_context_labels", "SegmentationClassContext"])
def test_pascal_context_orders(tmp_path, load, folder):
    root = tmp_path / "VOCdevkit" / "VOC2010"
    expected = write_pascal(root, [folder])
    dataset = load("pascal_context", tmp_path)
    assert len(dataset) == 2 and (dataset[1]["label"] == expected).all()
    with pytest.raises(NoImagesError, match=r"ImageSets/SegmentationContext/val\.txt"):
        load("pascal_context", tmp_path, "val")
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("2008_000001\n")
    (root / "ImageSets/Main/val.txt").write_text("2008_000002\n")
    assert load("pascal_context", tmp_path, "val").file_names == ["JPEGImages/2008_000002.jpg"]
    assert load("pascal_context", tmp_path).file_names == ["JPEGImages/2008_000001.jpg"]
    assert len(load("pascal_context", tmp_path, "trainval")) == 2


def test_pascal_context_order_is_told(tmp_path, load):
    expected = write_pascal(tmp_path, ["SegmentationClassContext"])
    (tmp_path / "SegmentationClassContext").rename(tmp_path / "59_context_labels")
    assert (load("pascal_context", tmp_path, class_order="alphabetical")[0]["label"] == expected).all()
    assert (load("pascal_context", tmp_path)[0]["label"] != expected).any()  # nothing tells but the folder's name
    names = ["background", *pascal_context.ALPHABETICAL_CLASSES.names]
    names = [names[0]] + sorted(names[1:], key=pascal_context.LABEL_IDS.get)
    (tmp_path / "59_labels.txt").write_text("\n".join(f"{n}: {name}" for n, name in enumerate(names)))
    assert (load("pascal_context", tmp_path)[0]["label"] == expected).all()


# COCO panoptic


def test_coco_panoptic(tmp_path, load):
    categories = [
        {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
        {"id": 187, "name": "sky-other-merged", "isthing": 0, "color": [70, 130, 180]},
    ]
    numbers = two_halves(300, 70000, np.int32)
    numbers[:4] = 0
    numbers[4:8, 20:] = 65793
    write_image(tmp_path / "val2017/000000000139.jpg")
    segment_png(tmp_path / "annotations/panoptic_val2017/000000000139.png", numbers)
    file = tmp_path / "annotations/panoptic_val2017.json"
    segments = [segment(300, 187), segment(70000, 1), segment(65793, 1, crowd=1)]
    panoptic_json(file, categories, [("000000000139.jpg", "000000000139.png", segments)])
    dataset = load("coco_panoptic", tmp_path, "val", task="panoptic")
    assert dataset.classes.names == ["person", "sky"] and dataset.classes.thing_indices == [0]
    assert dataset.coco_image_ids == [0]  # of the JSON file, not of the image's name
    row = dataset[0]
    assert (row["label"][:4] == 255).all() and (row["label"][8:] == two_halves(1, 0)[8:]).all()
    assert set(np.unique(row["instance"])) == {0, 70000}  # a crowd and stuff are no objects
    before = dataset.fingerprint
    panoptic_json(file, categories, [("000000000139.jpg", "000000000139.png", segments[:2])])
    changed = load("coco_panoptic", tmp_path, "val", task="panoptic")
    assert changed.fingerprint != before
    with pytest.raises(LabelIdError, match="segment 65793 is not in the JSON file"):
        changed[0]
    file.write_text("{}")
    with pytest.raises(LabelFormatError, match="not a panoptic JSON file"):
        load("coco_panoptic", tmp_path, "val")


# What is said of wrong folders


def test_wrong_folder(tmp_path, load):
    (tmp_path / "leftImg8bit" / "test").mkdir(parents=True)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NoImagesError) as error:
        load("cityscapes", tmp_path)
    message = str(error.value)
    assert "not Cityscapes" in message and "gtFine/train/**/*_gtFine_labelIds.png" in message
    assert "found leftImg8bit/, notes.txt" in message and "leftImg8bit found test/" in message
    with pytest.raises(NoImagesError, match=r"no such folder\. Cityscapes can be had at"):
        load("cityscapes", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"(?s)needs `data_dir`.*gtFine"):
        load_segmentation_dataset("cityscapes")
    with pytest.raises(DatasetError, match="no labelled split 'test', but train, val"):
        load("cityscapes", tmp_path, "test")
    with pytest.raises(DatasetError, match="`task` must be one of"):
        load("cityscapes", tmp_path, task="depth")


def test_missing_labels(tmp_path, load):
    root = write_cityscapes(tmp_path)
    write_image(root / "leftImg8bit/train/aachen/aachen_000007_000019_leftImg8bit.png")
    with pytest.raises(MissingLabelError, match=r"1 of 3 images have no label file.*aachen_000007_000019_left"):
        load("cityscapes", root)


# Index, statistics, other forms


def test_index_is_kept_until_the_folder_changes(tmp_path, load, monkeypatch):
    root = write_cityscapes(tmp_path / "city")
    first = load("cityscapes", root)
    with monkeypatch.context() as patch:
        patch.setattr(file_index, "_make_index", lambda *_: pytest.fail("the kept index should do"))
        again = load("cityscapes", root)
        assert again.file_names == first.file_names and again.fingerprint == first.fingerprint
        assert (again[0]["label"] == first[0]["label"]).all()
    write_cityscapes(root, "bochum", (3,))
    assert len(load("cityscapes", root)) == 3
    next((tmp_path / "cache").glob("index-*")).write_bytes(b"damaged")
    assert len(load("cityscapes", root)) == 3


def test_statistics_open_labels_once(tmp_path, load, monkeypatch):
    root = write_cityscapes(tmp_path / "city", numbers=tuple(range(5)))
    dataset = load("cityscapes", root)
    first = label_statistics(dataset, tmp_path / "cache", num_workers=2)
    assert first.file_names == dataset.file_names
    alone = label_statistics(dataset, tmp_path / "other", num_workers=0)
    assert (first.pixel_counts == alone.pixel_counts).all()
    monkeypatch.setattr(type(dataset.source), "read_label", lambda *_: pytest.fail("the labels are known"))
    again = label_statistics(load("cityscapes", root), tmp_path / "cache")
    assert (again.pixel_counts == first.pixel_counts).all()


def test_in_the_form_of_the_datasets_library(tmp_path, load):
    dataset = load("acdc", write_acdc(tmp_path))
    table = dataset.to_hf_dataset()
    assert table.column_names == ["image", "label", "file_name"] and table.num_rows == 4
    assert table["file_name"][:] == [row["file_name"] for row in table] == dataset.file_names
    assert [label.shape for label in table[1:3]["label"]] == [SIZE] * 2
    assert (table.shuffle(seed=3)[0]["label"] == two_halves(0, 13)).all()
    fog = table.filter(lambda name: "/fog/" in name, input_columns="file_name")
    assert len(fog) == 1 and fog[0]["image"].shape == (*SIZE, 3)
    panoptic = load("acdc", tmp_path, task="panoptic").to_hf_dataset()
    assert (panoptic[0]["instance"] == two_halves(0, 26001, np.int32)).all()


def test_a_folder_may_have_the_name_of_a_data_set(tmp_path, load, monkeypatch):
    write_acdc(tmp_path / "acdc")
    monkeypatch.chdir(tmp_path)
    assert len(load("acdc", "acdc")) == 4


def test_pickling(tmp_path, load):
    for task in ("semantic", "panoptic"):
        dataset = load("acdc", write_acdc(tmp_path), task=task).select([1])
        again = pickle.loads(pickle.dumps(dataset))
        assert (again[0]["label"] == dataset[0]["label"]).all() and again.fingerprint == dataset.fingerprint


def test_catalog():
    names = ["cityscapes", "bdd100k", "mapillary_vistas", "ade20k", "pascal_context", "acdc", "coco_panoptic"]
    assert sorted(KNOWN_DATASETS) == sorted(names)
    for name, info in KNOWN_DATASETS.items():
        text = describe_dataset(info)
        assert text.startswith(f"{name}: ") and info.licence in text and info.url in text
    assert "gtFine/{train,val}" in describe_dataset(KNOWN_DATASETS["cityscapes"])
    assert find_known_dataset("ACDC/fog") == (KNOWN_DATASETS["acdc"], "fog")
    assert find_known_dataset("coco-panoptic") == (KNOWN_DATASETS["coco_panoptic"], None)
    assert find_known_dataset("kitti") is find_known_dataset("acdc/fog/night") is None


def test_command(capsys):
    from ssprompt_hf.cli.main import main

    assert main(["datasets"]) == 0
    text = capsys.readouterr().out
    for name in ("cityscapes", "bdd100k", "mapillary_vistas", "ade20k", "pascal_context", "acdc", "coco_panoptic"):
        assert f"{name}: " in text
    assert "licence" in text and "gtFine/{train,val}" in text
    assert main(["datasets", "acdc"]) == 0 and "cityscapes:" not in capsys.readouterr().out
    assert main(["datasets", "kitti"]) == 2 and "'kitti' is none of the known" in capsys.readouterr().err


def test_links_that_cross(tmp_path):
    for folder, other in (("a", "b"), ("b", "a")):
        write_image(tmp_path / folder / f"{folder}.png")
        for number in range(3):
            (tmp_path / folder / f"link{number}").symlink_to(tmp_path / other)
    found = file_index._FileLists().below(tmp_path / "a")
    assert len(found) == 4 and all(len(Path(path).relative_to(tmp_path).parts) <= 3 for path in found)
