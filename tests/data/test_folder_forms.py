"""Folders as people have them: flat ones, colours, masks of one class, tables of images, and what must not hang."""

import json
import os
import shutil

import annotation_files as files
import numpy as np
import pytest
from dataset_files import panoptic_json, segment, segment_png
from PIL import Image

from ssprompt_hf.data import SegmentationClasses, load_segmentation_dataset, load_segmentation_folder
from ssprompt_hf.data.image_inputs import image_sources
from ssprompt_hf.data.sources.folder import folder_splits
from ssprompt_hf.data.sources.hub import is_hub_folder
from ssprompt_hf.errors import ClassListError, LabelIdError, MissingLabelError, NoImagesError

COLORS = [(0, 0, 0), (128, 64, 0), (0, 60, 200)]
BACKGROUND = ["background", *files.NAMES]


def write_pairs(root, suffix=".jpg", ending=".png", count=3, value=None, **options):
    for number in range(count):
        files.write_image(root / f"photo{number}{suffix}", number)
        label = files.truth(number)[0] if value is None else value(number)
        if "palette" in options or "rgb" in options:
            files.save_colored(root / f"photo{number}{ending}", label, COLORS, next(iter(options)))
        else:
            Image.fromarray(label).save(root / f"photo{number}{ending}")


@pytest.mark.parametrize(
    ("suffix", "ending"), [(".jpg", ".png"), (".png", "_mask.png"), (".jpg", "_label.png"), (".PNG", "-mask.png")]
)
@pytest.mark.parametrize("part", ["", "train"])
def test_images_and_labels_side_by_side(suffix, ending, part, tmp_path):
    write_pairs(tmp_path / part, suffix, ending)
    files.write(tmp_path / "classes.txt", "\n".join(BACKGROUND))
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert [name.rpartition("/")[2] for name in dataset.file_names] == [f"photo{n}{suffix}" for n in range(3)]
    assert (dataset[1]["label"] == files.truth(1)[0]).all()
    assert folder_splits(tmp_path) == ([part] if part else [])


def test_instance_maps_side_by_side(tmp_path):
    write_pairs(tmp_path)
    for number in range(3):
        Image.fromarray(files.truth(number)[1].astype(np.uint8)).save(tmp_path / f"photo{number}_instance.png")
    files.write(tmp_path / "classes.txt", "\n".join(BACKGROUND))
    assert (load_segmentation_dataset(data_dir=tmp_path)[2]["instance"] == files.truth(2)[1]).all()
    (tmp_path / "photo1_instance.png").unlink()
    with pytest.raises(MissingLabelError, match=r"1 of 3 images in .* have no instance map beside them: photo1\.jpg"):
        load_segmentation_dataset(data_dir=tmp_path)


def test_an_image_without_label_beside_it(tmp_path):
    write_pairs(tmp_path)
    files.write(tmp_path / "classes.txt", "\n".join(BACKGROUND))
    (tmp_path / "photo1.png").unlink()
    with pytest.raises(MissingLabelError, match=r"1 of 3 images in .* have no label beside them: photo1\.jpg"):
        load_segmentation_dataset(data_dir=tmp_path)


CLASS_TABLES = {
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\ncrack,128,64,0\nstone,0,60,200\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:128,64,0::\nstone:0,60,200::\n",
    "classes.txt": "background,0,0,0\ncrack,128,64,0\nstone,0,60,200\n",
    "classes.json": json.dumps([{"name": name, "color": color} for name, color in zip(BACKGROUND, COLORS)]),
    "_classes.csv": "Pixel Value, Class\n0, background\n1, crack\n2, stone\n",
}


@pytest.mark.parametrize(
    ("table", "colors"),
    [(table, colors) for table in CLASS_TABLES for colors in ("rgb", "palette") if table[0] != "_" or colors != "rgb"],
)
def test_lists_of_colors(table, colors, tmp_path):
    write_pairs(tmp_path, **{colors: True})
    files.write(tmp_path / table, CLASS_TABLES[table])
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert dataset.classes.names == BACKGROUND
    assert (dataset[0]["label"] == files.truth(0)[0]).all()


def test_the_palette_may_be_in_any_order(tmp_path):
    """A list of colours tells the classes of palette images by their colours, one of numbers by their numbers."""
    files.write_image(tmp_path / "a.jpg")
    files.save_colored(tmp_path / "a.png", files.truth(0)[0], [COLORS[2], COLORS[0], COLORS[1]], "palette")
    files.write(tmp_path / "class_dict.csv", CLASS_TABLES["class_dict.csv"])
    assert (load_segmentation_dataset(data_dir=tmp_path)[0]["label"] == np.array([2, 0, 1])[files.truth(0)[0]]).all()
    files.write(tmp_path / "classes.json", CLASS_TABLES["classes.json"])
    assert (load_segmentation_dataset(data_dir=tmp_path)[0]["label"] == files.truth(0)[0]).all()


def test_void_is_no_class(tmp_path):
    write_pairs(tmp_path, rgb=True)
    files.write(tmp_path / "class_dict.csv", "name,r,g,b\ncrack,128,64,0\nstone,0,60,200\nVoid,0,0,0\n")
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert dataset.classes.names == files.NAMES
    assert (dataset[0]["label"] == np.array([255, 0, 1])[files.truth(0)[0]]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0.5 0.5 0.1 0.2\n", "'0 0.5 0.5 0.1 0.2' is no class name"),
        ("Idx\tRatio\tName\n1\t0.2\twall\n", "is no class name"),
        ("Tree,128,128,0,1\n", "is no class name"),
        ("r,g,b,name\n1,2,x,tree\n", "has the line '1,2,x,tree', which is no name with r, g and b"),
        ("# nothing\n\n", "holds no class"),
        ("sky " * 40, "has lines as long as"),
    ],
)
def test_texts_that_are_no_class_list(text, message, tmp_path):
    with pytest.raises(ClassListError, match=message):
        SegmentationClasses.from_file(files.write(tmp_path / "classes.txt", text))


def half(number, value):
    mask = np.zeros(files.SIZE, np.uint8)
    mask[:, : 10 + number] = value
    return mask


@pytest.mark.parametrize("marked", [255, 1])
@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_masks_of_one_class(marked, mode, tmp_path):
    """0 is not the class, and 255 is not ignored."""
    write_pairs(tmp_path, value=lambda number: half(number, marked))
    for path in tmp_path.glob("*.png"):
        mask = Image.open(path)
        converted = mask.convert("RGB") if mode == "RGB" else mask
        if mode == "P":
            converted = Image.fromarray(np.asarray(mask), "P")
            converted.putpalette([n for n in range(256) for _ in range(3)])
        converted.save(path)
    files.write(tmp_path / "classes.txt", "crack\n")
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert [(info.name, info.id) for info in dataset.classes.classes] == [("crack", marked), ("background", 0)]
    assert (dataset[1]["label"] == (half(1, 1) == 0)).all()


def test_all_splits_say_which_number_is_the_class(tmp_path, caplog):
    for split, marked in (("train", 1), ("val", 0)):
        write_pairs(tmp_path / split, value=lambda number, marked=marked: half(number, marked))
    files.write(tmp_path / "classes.txt", "crack\n")
    for split in ("train", "val"):
        assert load_segmentation_dataset(data_dir=tmp_path, split=split).classes.ids == [1, 0]
    shutil.rmtree(tmp_path / "train")
    dataset = load_segmentation_dataset(data_dir=tmp_path, split="val")
    assert dataset.classes.names == ["crack"] and not dataset[0]["label"].any()


def test_one_class_by_its_number(tmp_path):
    """Whoever writes which number is ignored means it; and masks of other numbers are not of one class."""
    write_pairs(tmp_path, value=lambda number: half(number, 255))
    files.write(tmp_path / "classes.json", {"classes": ["road"], "ignore_id": 255})
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert dataset.classes.names == ["road"] and set(np.unique(dataset[0]["label"])) == {0, 255}
    files.write(tmp_path / "classes.json", ["road"])
    Image.fromarray(half(0, 7)).save(tmp_path / "photo0.png")
    with pytest.raises(LabelIdError, match="label id 7"):
        load_segmentation_dataset(data_dir=tmp_path)[0]


@pytest.mark.parametrize("place", ["annotations/panoptic_val", "masks"])
def test_coco_panoptic_without_its_name(place, tmp_path):
    """As in the official archive, and as tools export it."""
    numbers = np.ones((24, 32), np.int64)
    numbers[:, 16:] = 300
    for name in ("a", "b"):
        files.write_image(tmp_path / "val" / f"{name}.jpg")
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / "val" / f"{name}.jpg")
        segment_png(tmp_path / place / f"{name}.png", numbers)
    categories = [{"id": 3, "name": "sky", "isthing": 0}, {"id": 9, "name": "car", "isthing": 1}]
    segments = [segment(1, 3), segment(300, 9)]
    entries = [(f"{name}.jpg", f"{name}.png", segments) for name in ("a", "b")]
    panoptic_json(tmp_path / "annotations" / "panoptic_val.json", categories, entries)
    dataset = load_segmentation_dataset(data_dir=tmp_path, split="val")
    example = dataset[1]
    assert dataset.classes.names == ["sky", "car"] and len(dataset) == 2
    assert example["label"][0].tolist() == [0] * 16 + [1] * 16
    assert example["instance"][0].tolist() == [0] * 16 + [300] * 16


def test_a_table_of_images(tmp_path):
    """`imagefolder` of the datasets library: a column `label_file_name` makes an image column `label`."""
    write_pairs(tmp_path / "train", ending="_truth.png")
    lines = [{"file_name": f"photo{n}.jpg", "label_file_name": f"photo{n}_truth.png"} for n in range(3)]
    files.write(tmp_path / "train" / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    files.write(tmp_path / "classes.txt", "\n".join(BACKGROUND))
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert (dataset[2]["label"] == files.truth(2)[0]).all()


def test_links_that_lead_back_and_pipes(tmp_path, caplog):
    write_pairs(tmp_path / "images", ending="_L.png")
    for name in ("again", "once_more"):
        os.symlink(".", tmp_path / "images" / name)
    os.mkfifo(tmp_path / "images" / "pipe.png")
    found, _ = image_sources(str(tmp_path))
    assert len(found) == 6 and all("again" not in path for path in found)
    for number in range(3):
        (tmp_path / "images" / f"photo{number}_L.png").rename(
            files.write(tmp_path / "masks" / f"photo{number}.png", "")
        )
    assert len(load_segmentation_folder(tmp_path, "train")) == 3
    with pytest.raises(NoImagesError, match="no such file or folder"):
        image_sources(str(tmp_path / "images" / "pipe.png"))


def test_a_linked_folder_is_followed(tmp_path):
    write_pairs(tmp_path / "elsewhere", ending="_L.png")
    (tmp_path / "photos").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "linked")
    assert len(image_sources(str(tmp_path / "photos"))[0]) == 6


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("column", ["weather", "file_name"])
def test_a_table_that_tells_something_else_of_images(name, column, tmp_path):
    for number in range(3):
        files.write_image(tmp_path / "images" / f"{number}.jpg", number)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        Image.fromarray(files.truth(number)[0]).save(tmp_path / "annotations" / f"{number}.png")
    lines = [f"{column},hour", "0.jpg,7"] if name.endswith("csv") else [json.dumps({column: "0.jpg", "hour": 7})]
    files.write(tmp_path / "images" / name, "\n".join(lines))
    files.write(tmp_path / "classes.txt", "\n".join(BACKGROUND))
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 3
    assert is_hub_folder(tmp_path) is False
    (tmp_path / "classes.txt").unlink()
    assert is_hub_folder(tmp_path) is (column == "file_name")
    assert is_hub_folder(tmp_path, BACKGROUND) is False
