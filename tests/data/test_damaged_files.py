"""What is kept between runs is looked at before it is believed; text files may be Windows' own."""

import numpy as np
import pytest
from dataset_files import SIZE, write_cityscapes, write_image, write_map
from faults import flip_bit, full_disk

from ssprompt_hf.data import SegmentationClasses, label_statistics, load_segmentation_dataset
from ssprompt_hf.errors import ClassListError, UnreadableFileError

DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_bytes(b"damaged"),
    "a bit near the beginning": lambda path: flip_bit(path, 8 * 150),
    "a bit in the middle": lambda path: flip_bit(path, 4 * path.stat().st_size),
    "a bit near the end": lambda path: flip_bit(path, 8 * path.stat().st_size - 60),
    "other counts": lambda path: np.savez(path, pixel_counts=np.ones((2, 3)), ignored_counts=np.ones(2)),
}


@pytest.fixture
def city(tmp_path):
    return write_cityscapes(tmp_path / "city", numbers=(1, 2, 3))


def load(root, tmp_path):
    return load_segmentation_dataset("cityscapes", root, "train", cache_dir=tmp_path / "cache")


def test_damaged_statistics_are_counted_again(city, tmp_path, caplog):
    dataset = load(city, tmp_path)
    expected = label_statistics(dataset, tmp_path / "cache").pixel_counts
    (path,) = (tmp_path / "cache").glob("label-statistics-*.npz")
    for damage in DAMAGES.values():
        damage(path)
        caplog.clear()
        assert (label_statistics(dataset, tmp_path / "cache").pixel_counts == expected).all()
        assert f"{path} is damaged" in caplog.text and "counted again" in caplog.text
        caplog.clear()
        label_statistics(dataset, tmp_path / "cache")
        assert not caplog.text
    path.unlink()
    with full_disk(100):
        assert (label_statistics(dataset, tmp_path / "cache").pixel_counts == expected).all()
    assert "there is no room for it" in caplog.text and not path.exists()


def test_a_damaged_index_is_made_again(city, tmp_path, caplog):
    expected = load(city, tmp_path).file_names
    (path,) = (tmp_path / "cache").glob("index-*.arrow")
    good = path.read_bytes()
    for name, damage in DAMAGES.items():
        if name == "other counts":
            continue
        damage(path)
        caplog.clear()
        assert load(city, tmp_path).file_names == expected and f"{path} is damaged" in caplog.text
        assert path.read_bytes() == good
    caplog.clear()
    assert load(city, tmp_path).file_names == expected and not caplog.text
    path.write_bytes(good.replace(b"_000001_", b"_000009_"))  # a name that is a name
    assert load(city, tmp_path).file_names == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_and_class_files_of_windows(tmp_path, encoding):
    for name in "abc":
        write_image(tmp_path / "images" / f"{name}.png")
        write_map(tmp_path / "labels" / f"{name}.png", np.zeros(SIZE, np.uint8))
    (tmp_path / "classes.txt").write_text("straße\ncar\n", encoding=encoding)
    (tmp_path / "val.txt").write_text("a\r\nb\r\n", encoding=encoding)
    dataset = load_segmentation_dataset(str(tmp_path), split="val")
    assert dataset.file_names == ["images/a.png", "images/b.png"] and dataset.classes.names == ["straße", "car"]


def test_lists_that_are_no_text(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_map(tmp_path / "labels" / "a.png", np.zeros(SIZE, np.uint8))
    (tmp_path / "classes.txt").write_text("road\n")
    (tmp_path / "val.txt").write_bytes(b"\xff\xfea\x00b")  # UTF-16, cut in the middle of a letter
    with pytest.raises(UnreadableFileError, match=r"val.txt is no text in utf-16 .* save it as UTF-8"):
        load_segmentation_dataset(str(tmp_path), split="val")
    (tmp_path / "classes.txt").write_bytes(b"stra\xdfe\n")
    with pytest.raises(ClassListError, match=r"classes.txt is no text in utf-8"):
        SegmentationClasses.from_file(tmp_path / "classes.txt")
