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
