"""Which image an annotation file means by a name, and which it can never mean."""

import annotation_files as files
import pytest

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.sources.label_formats.labelled_folder import FolderView
from ssprompt_hf.errors import NoImagesError


@pytest.mark.parametrize("kind", ["../{}", "{root}/{}", "C:/../../../{}", "images/../../{}", "..\\{}", "%2e%2e/{}"])
def test_files_outside_the_folder_are_not_read(kind, tmp_path):
    files.write_image(tmp_path / "private.png")
    name = kind.format("private.png", root=tmp_path)
    folder = tmp_path / "data"
    files.write_image(folder / "other.png")
    files.write(folder / "coco.json", files.coco_document([name], files.flat_corners))
    assert FolderView(folder).image(name, [folder, folder / "images"]) is None
    with pytest.raises(NoImagesError, match=r"1 of 1 images that coco\.json names are not there"):
        load_segmentation_dataset(data_dir=folder)


def test_links_in_the_folder_may_lead_elsewhere(tmp_path):
    files.write_image(tmp_path / "store" / "0.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "1.png").symlink_to(tmp_path / "store" / "0.png")
    document = files.coco_document(["images/0.png", "1.png"], files.flat_corners)
    files.write(tmp_path / "data" / "coco.json", document)
    assert len(load_segmentation_dataset(data_dir=tmp_path / "data")) == 2


def test_outlines_of_yolo_outside_the_folder_are_not_read(tmp_path):
    """The folder itself may lie in one that is called images."""
    folder = tmp_path / "images" / "set"
    files.write_image(folder / "0.jpg")
    files.write(folder / "data.yaml", "train: .\nnames: [crack]\n")
    files.write(folder / "0.txt", files.yolo_line("crack", (2, 2, 9, 9)))
    files.write(tmp_path / "labels" / "set" / "0.txt", files.yolo_line("stone", (2, 2, 9, 9)))
    assert load_segmentation_dataset(data_dir=folder).classes.names[0] == "crack"


def test_names_that_are_no_paths(tmp_path):
    files.write_image(tmp_path / "0.png")
    view = FolderView(tmp_path)
    assert view.image("data:image/png;base64," + "A" * 5000) is None
    assert view.image("a\0.png") is None


@pytest.mark.parametrize(
    ("there", "name", "found"),
    [
        ("cam2/0001.jpg", "cam1/0001.jpg", False),
        ("cam2/0001.jpg", "/home/someone/cam1/0001.jpg", False),
        ("cam2/0001.jpg", "/data/local-files/?d=cam1/0001.jpg", False),
        ("cam1/0001.jpg", "images/cam1/0001.jpg", True),
        ("images/cam1/0001.jpg", "C:\\Users\\someone\\cam1\\0001.jpg", True),
        ("0001.jpg", "cam1/0001.jpg", True),
        ("photos/0001.jpg", "images/0001.jpg", True),
        ("walls/0001.jpg", "/data/upload/7/0a1b2c3d-0001.jpg", True),
        ("walls/0001.jpg", "s3://bucket/some/place/0001.jpg", True),
    ],
)
def test_folders_that_a_name_speaks_of(there, name, found, tmp_path):
    files.write_image(tmp_path / there)
    assert FolderView(tmp_path).image(name, [tmp_path]) == (tmp_path / there if found else None)


def test_folders_of_an_address_that_are_there(tmp_path):
    files.write_image(tmp_path / "cam1" / "0002.jpg")
    files.write_image(tmp_path / "cam2" / "0001.jpg")
    assert FolderView(tmp_path).image("s3://bucket/cam1/0001.jpg") is None


def test_images_of_another_split(tmp_path):
    """train/ holds the images of instances_val.json only where val/ is not beside it."""
    files.write_image(tmp_path / "train" / "0001.jpg")
    document = files.coco_document(["0001.jpg"], files.flat_corners)
    files.write(tmp_path / "annotations" / "instances_val.json", document)
    assert load_segmentation_dataset(data_dir=tmp_path, split="val").file_names == ["train/0001.jpg"]
    (tmp_path / "val").mkdir()
    with pytest.raises(NoImagesError, match=r"1 of 1 images that instances_val\.json names are not there"):
        load_segmentation_dataset(data_dir=tmp_path, split="val")


def test_names_of_images_are_not_splits(tmp_path):
    files.write_labelme(tmp_path)
    for number, name in enumerate(("test_bench", "train_station", "val")):
        for suffix in ("jpg", "json"):
            (tmp_path / f"{number}.{suffix}").rename(tmp_path / f"{name}.{suffix}")
        path = tmp_path / f"{name}.json"
        path.write_text(path.read_text().replace(f"{number}.jpg", f"{name}.jpg"))
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 3
