"""Labelled folders: layouts, lazy reading, and one error for each thing that can be wrong."""

import pickle

import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.data import (
    SegmentationClasses,
    label_statistics,
    load_segmentation_dataset,
    load_segmentation_folder,
)
from ssprompt_hf.data.dataset import check_disjoint
from ssprompt_hf.errors import (
    ClassListError,
    DatasetError,
    ImageSizeError,
    LabelFormatError,
    LabelIdError,
    MissingLabelError,
    NoImagesError,
    UnreadableFileError,
)


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_pair(root, stem, images="images", labels="annotations", value=1, size=(6, 8), ending=""):
    save(root / images / f"{stem}.jpg", np.full((*size, 3), 100, np.uint8))
    save(root / labels / f"{stem}{ending}.png", np.full(size, value, np.uint8))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "mine"
    for stem in ("b", "a"):
        write_pair(root, stem, "images/train", "annotations/train")
    write_pair(root, "c", "images/val", "annotations/val", value=0)
    (root / "classes.txt").write_text("road\ncar\n")
    return root


def test_split_folders(folder):
    dataset = load_segmentation_dataset(data_dir=folder)
    assert dataset.file_names == ["images/train/a.jpg", "images/train/b.jpg"]
    assert dataset.classes.names == ["road", "car"]
    example = dataset[0]
    assert example["image"].shape == (6, 8, 3) and example["image"].dtype == np.uint8
    assert example["label"].tolist() == np.ones((6, 8), int).tolist() and example["label"].dtype == np.uint8
    assert "instance" not in example
    assert (dataset.read_label(0) == example["label"]).all()
    assert len(load_segmentation_dataset(str(folder), split="validation")) == 1
    assert len(load_segmentation_folder(folder, None)) == 3


def test_columns_are_images_of_the_datasets_library(folder):
    table = load_segmentation_folder(folder, "train")
    assert table.column_names == ["image", "label", "file_name"]
    assert table[0]["image"].size == (8, 6)


@pytest.mark.parametrize(
    ("images", "labels", "ending"),
    [
        ("images", "labels", ""),
        ("Images", "masks", "_mask"),
        ("train/images", "train/labels", ""),
        ("training/images", "training/annotations", ""),
        ("images/training", "annotations/train", "_L"),
        ("images/town/street", "annotations/town/street", ""),
    ],
)
def test_other_layouts(tmp_path, images, labels, ending):
    write_pair(tmp_path, "x", images, labels, ending=ending)
    dataset = load_segmentation_dataset(data_dir=tmp_path, classes=_class_file(tmp_path))
    assert dataset.file_names == [f"{images}/x.jpg"]
    assert dataset[0]["label"].max() == 1


def _class_file(root):
    file = root / "names.txt"
    file.write_text("road\ncar\n")
    return file


def test_flat_folder_with_lists(tmp_path):
    for stem in "abc":
        write_pair(tmp_path, stem)
    with pytest.raises(NoImagesError, match="without splits"):
        load_segmentation_folder(tmp_path, "val")
    assert len(load_segmentation_folder(tmp_path, "train")) == 3
    (tmp_path / "val.txt").write_text("images/b.jpg\n")
    (tmp_path / "train.txt").write_text("a\nc\n")
    assert load_segmentation_folder(tmp_path, "val")["file_name"][:] == ["images/b.jpg"]
    assert len(load_segmentation_folder(tmp_path, "train")) == 2
    (tmp_path / "val.txt").write_text("z\n")
    with pytest.raises(NoImagesError, match="lists z"):
        load_segmentation_folder(tmp_path, "val")


@pytest.mark.parametrize(
    "form", ["seqA/0001.jpg", "seqA/0001", "images/seqA/0001", "./Images/seqA/0001.jpg", "/x/images/seqA/0001.jpg"]
)
def test_lists_tell_images_of_one_name_apart(tmp_path, form):
    for place in ("seqA", "seqB", "town/seqC"):
        write_pair(tmp_path, "0001", f"images/{place}", f"annotations/{place}")
    write_pair(tmp_path, "0002", "images/town/seqC", "annotations/town/seqC")
    (tmp_path / "train.txt").write_text(form + "\n")
    (tmp_path / "val.txt").write_text(form.replace("seqA", "seqB") + "\r\n0002\nseqC/0001\n")
    assert load_segmentation_folder(tmp_path, "train")["file_name"][:] == ["images/seqA/0001.jpg"]
    names = ["images/seqB/0001.jpg", "images/town/seqC/0001.jpg", "images/town/seqC/0002.jpg"]
    assert load_segmentation_folder(tmp_path, "val")["file_name"][:] == names


def test_ambiguous_and_wrong_list_entries(tmp_path):
    for place in ("seqA", "seqB"):
        write_pair(tmp_path, "0001", f"images/{place}", f"annotations/{place}")
    (tmp_path / "validation.txt").write_text("0001\n")
    match = r"validation\.txt: '0001' could be seqA/0001\.jpg, seqB/0001\.jpg\. Write the path below images/"
    for split in ("val", "train"):
        with pytest.raises(NoImagesError, match=match):
            load_segmentation_folder(tmp_path, split)
    (tmp_path / "validation.txt").write_text("seqC/0001\n")
    with pytest.raises(NoImagesError, match="lists seqC/0001, which the image folder does not hold"):
        load_segmentation_folder(tmp_path, "val")
    write_pair(tmp_path, "0001")  # its name is its path
    (tmp_path / "validation.txt").write_text("0001.jpg\n")
    assert load_segmentation_folder(tmp_path, "val")["file_name"][:] == ["images/0001.jpg"]
    save(tmp_path / "images" / "0001.png", np.zeros((6, 8, 3), np.uint8))
    (tmp_path / "validation.txt").write_text("images/0001\n")
    with pytest.raises(NoImagesError, match=r"could be 0001\.jpg, 0001\.png"):
        load_segmentation_folder(tmp_path, "val")


def test_train_is_what_no_other_list_names(tmp_path):
    for stem in "abcd":
        write_pair(tmp_path, stem)
    (tmp_path / "val.txt").write_text("b\n")
    (tmp_path / "testing.txt").write_text("c\n")
    (tmp_path / "classes.txt").write_text("a\nd\n")
    for split in ("train", "training"):
        assert load_segmentation_folder(tmp_path, split)["file_name"][:] == ["images/a.jpg", "images/d.jpg"]
    assert len(load_segmentation_folder(tmp_path, None)) == 4
    (tmp_path / "val.txt").write_text("a\nb\nd\n")
    with pytest.raises(
        NoImagesError, match=r"leaves no image for 'train'\. List the images of 'train' in .*train\.txt"
    ):
        load_segmentation_folder(tmp_path, "train")
    (tmp_path / "train.txt").write_text("\n")
    with pytest.raises(NoImagesError, match=r"train\.txt: names no image"):
        load_segmentation_folder(tmp_path, "train")


def test_splits_that_share_images_are_told(folder, caplog):
    train, val = (load_segmentation_dataset(data_dir=folder, split=split) for split in ("train", "val"))
    assert check_disjoint(train, val) == 0 and not caplog.records
    (folder / "images/val/c.jpg").unlink()
    (folder / "images/val/c.jpg").symlink_to(folder / "images/train/b.jpg")
    assert check_disjoint(train, val) == 1
    assert "1 of the 2 images to learn from (mine)" in caplog.text and "the first is images/train/b.jpg" in caplog.text
    assert check_disjoint(train.select([0]), val) == 0 and check_disjoint(train.select([1, 0]), train) == 2


def test_statistics_are_counted_anew_with_other_colors(tmp_path):
    red, blue = (200, 0, 0), (0, 0, 200)
    save(tmp_path / "images/a.png", np.zeros((6, 8, 3), np.uint8))
    save(tmp_path / "annotations/a.png", np.full((6, 8, 3), red, np.uint8))
    for colors, expected in (((red, blue), [48, 0]), ((blue, red), [0, 48])):
        classes = SegmentationClasses.from_names(["road", "car"], colors=np.array(colors))
        dataset = load_segmentation_dataset(data_dir=tmp_path, classes=classes)
        assert label_statistics(dataset, tmp_path / "cache").pixel_counts.tolist() == [expected]
    ignoring = SegmentationClasses(classes.classes, ignore_color=(1, 1, 1))
    assert load_segmentation_dataset(data_dir=tmp_path, classes=ignoring).fingerprint != dataset.fingerprint


def test_instances(folder):
    for stem in "ab":
        save(folder / "instances" / "train" / f"{stem}.png", np.full((6, 8), 3000, np.uint16))
    instance = load_segmentation_dataset(data_dir=folder)[1]["instance"]
    assert instance.dtype == np.int32 and (instance == 3000).all()
    (folder / "instances" / "train" / "a.png").unlink()
    with pytest.raises(MissingLabelError, match="no instance map"):
        load_segmentation_dataset(data_dir=folder)


def test_no_images(tmp_path, folder):
    with pytest.raises(NoImagesError, match="no such folder"):
        load_segmentation_dataset(data_dir=tmp_path / "nowhere")
    with pytest.raises(NoImagesError, match="no split 'test'; there are train, val"):
        load_segmentation_dataset(data_dir=folder, split="test")
    for file in (folder / "images" / "val").iterdir():
        file.unlink()
    with pytest.raises(NoImagesError, match=r"no images\. .*found nothing"):
        load_segmentation_dataset(data_dir=folder, split="val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="found nothing"):
        load_segmentation_dataset(data_dir=tmp_path / "empty")


def test_missing_labels(folder):
    (folder / "annotations" / "train" / "b.png").unlink()
    with pytest.raises(MissingLabelError, match=r"1 of 2 images .* have no label .*: b\."):
        load_segmentation_dataset(data_dir=folder)
    save(folder / "annotations" / "train" / "b.jpg", np.zeros((6, 8), np.uint8))
    with pytest.raises(LabelFormatError, match="JPEG"):
        load_segmentation_dataset(data_dir=folder)
    (folder / "annotations").rename(folder / "else")
    with pytest.raises(MissingLabelError, match=r"no folder of labels.*else/"):
        load_segmentation_dataset(data_dir=folder)


def test_missing_class_file(folder):
    (folder / "classes.txt").unlink()
    with pytest.raises(ClassListError, match="no class file"):
        load_segmentation_dataset(data_dir=folder)


def test_different_sizes(folder):
    save(folder / "annotations" / "train" / "a.png", np.ones((6, 9), np.uint8))
    dataset = load_segmentation_dataset(data_dir=folder)
    for read in (dataset.__getitem__, dataset.read_label):
        with pytest.raises(ImageSizeError, match=r"a\.png: 9x6 pixels, but the image images/train/a\.jpg has 8x6"):
            read(0)


def test_unknown_label_id(folder):
    save(folder / "annotations" / "train" / "a.png", np.full((6, 8), 42, np.uint8))
    dataset = load_segmentation_dataset(data_dir=folder)
    with pytest.raises(LabelIdError, match=r"a\.png: label id 42 \(48 pixels\) is outside the class list \(ids 0-1"):
        dataset[0]


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "gone"])
@pytest.mark.parametrize("file", ["images/train/a.jpg", "annotations/train/a.png"])
def test_unreadable_files(folder, file, damage):
    rng = np.random.default_rng(0)
    save(folder / "images/train/a.jpg", rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    save(folder / "annotations/train/a.png", rng.integers(0, 2, (64, 64), dtype=np.uint8))
    dataset = load_segmentation_dataset(data_dir=folder)
    content = (folder / file).read_bytes()
    if damage == "gone":
        (folder / file).unlink()
    else:
        (folder / file).write_bytes({"empty": b"", "text": b"not an image", "truncated": content[:-300]}[damage])
    with pytest.raises(UnreadableFileError, match=file.rsplit("/", 1)[1]):
        dataset[0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cut_off_png_is_told_in_one_line_whoever_reads_it(folder, num_workers, tmp_path):
    (folder / "images/train/a.jpg").unlink()
    path = folder / "images/train/a.png"
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    save(folder / "annotations/train/a.png", np.zeros((64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-300])
    dataset = load_segmentation_dataset(data_dir=folder)
    with pytest.raises(UnreadableFileError, match=r"images/train/a\.png: cannot be read as an image") as caught:
        label_statistics(dataset, tmp_path / "counts", num_workers)
    assert "\n" not in str(caught.value)


def test_exif_orientation(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "images/train/a.jpg", np.zeros((8, 6, 3), np.uint8), exif=exif)
    dataset = load_segmentation_dataset(data_dir=folder)
    assert dataset[0]["image"].shape == (6, 8, 3)
    assert dataset.read_label(0).shape == (6, 8)


def test_a_label_of_the_image_as_it_is_stored(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(folder / "images/train/a.jpg", np.zeros((6, 8, 3), np.uint8), exif=exif)
    dataset = load_segmentation_dataset(data_dir=folder)
    message = r"a\.png: 8x6 pixels, but the image images/train/a\.jpg has 6x8\. .*EXIF orientation.* Rotate the label"
    for read in (dataset.__getitem__, dataset.read_label):
        with pytest.raises(ImageSizeError, match=message):
            read(0)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_image_modes_become_rgb(folder, mode):
    image = Image.fromarray(np.full((6, 8), 51, np.uint8))
    image = Image.fromarray(np.full((6, 8), 51 * 257, np.uint16)) if mode == "I;16" else image.convert(mode)
    (folder / "images/train/a.jpg").unlink()
    image.save(folder / "images/train/a.png")
    assert (load_segmentation_dataset(data_dir=folder)[0]["image"] == 51).all()


def test_palette_labels_give_indices(folder):
    label = Image.fromarray(np.ones((6, 8), np.uint8))
    label.putpalette([0, 0, 0, 200, 10, 10])
    label.save(folder / "annotations/train/a.png")
    assert (load_segmentation_dataset(data_dir=folder)[0]["label"] == 1).all()


def test_select_fingerprint_and_pickle(folder):
    dataset = load_segmentation_dataset(data_dir=folder)
    second = dataset.select([1])
    assert second.file_names == [dataset.file_names[1]] and second[0]["file_name"] == "images/train/b.jpg"
    assert pickle.loads(pickle.dumps(second))[0]["label"].shape == (6, 8)
    assert dataset.fingerprint == load_segmentation_dataset(data_dir=folder).fingerprint != second.fingerprint
    save(folder / "annotations/train/a.png", np.arange(2, dtype=np.uint8).repeat(24).reshape(6, 8))
    assert dataset.fingerprint != load_segmentation_dataset(data_dir=folder, split="val").fingerprint
    with pytest.raises(IndexError):
        dataset[2]
    with pytest.raises(NoImagesError):
        dataset.select([])


def test_bad_arguments(folder, tmp_path):
    with pytest.raises(DatasetError, match="No data set given"):
        load_segmentation_dataset()
    with pytest.raises(DatasetError, match="takes no option"):
        load_segmentation_dataset(data_dir=folder, size=3)
    with pytest.raises(NoImagesError, match="no such folder"):
        load_segmentation_dataset(str(tmp_path / "nowhere"))


def test_camvid(shared_dir):
    if not (shared_dir / "data" / "camvid").is_dir():
        pytest.skip("no CamVid images")
    train = load_segmentation_dataset(data_dir=shared_dir / "data" / "camvid", split="train")
    val = load_segmentation_dataset(data_dir=shared_dir / "data" / "camvid", split="val")
    assert (len(train), len(val), len(train.classes)) == (120, 101, 11)
    example = val[50]
    assert example["image"].shape == (360, 480, 3)
    assert set(np.unique(example["label"])) <= {*range(11), 255}
