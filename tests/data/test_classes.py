"""Class lists: every accepted form, and a clear error for every malformed one."""

import json

import numpy as np
import pytest

from ssprompt_hf.data.classes import ClassInfo, SegmentationClasses, default_palette
from ssprompt_hf.errors import ClassListError, LabelFormatError, LabelIdError, SSPromptError


def write(tmp_path, data, name="classes.json"):
    file = tmp_path / name
    file.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
    return file


FULL = {
    "classes": [
        {"id": 7, "name": "road", "color": [128, 64, 128]},
        {"id": 26, "name": "car", "thing": True, "color": [0, 0, 142]},
    ],
    "ignore_id": [0, 255],
    "ignore_color": [0, 0, 0],
    "source": "left alone",
}


def test_full_json(tmp_path):
    classes = SegmentationClasses.from_file(write(tmp_path, FULL))
    assert classes.names == ["road", "car"]
    assert classes.ids == [7, 26]
    assert classes.thing_indices == [1]
    assert classes.colors == [(128, 64, 128), (0, 0, 142)]
    assert classes.ignore_ids == (0, 255)
    assert SegmentationClasses.from_file(classes.save(tmp_path / "again.json")) == classes


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (["road", "car"], "classes.json"),
        ({"0": "road", "1": "car"}, "id2label.json"),
        ({"classes": ["road", {"name": "car"}]}, "classes.json"),
        ("road\n\n  car  \n", "classes.txt"),
        ("\ufeffroad\ncar", "classes.txt"),
        ("0: road\n1:car\n", "classes.txt"),
        ([{"name": "road", "isthing": 0}, {"name": "car"}], "classes.json"),
    ],
)
def test_short_forms_mean_the_same(tmp_path, data, name):
    write(tmp_path, data, name)
    assert SegmentationClasses.from_folder(tmp_path) == SegmentationClasses.from_names(["road", "car"])


def test_ignore_id_forms():
    assert SegmentationClasses.from_dict({"classes": ["a"], "ignore_id": 11}).ignore_ids == (11,)
    assert SegmentationClasses.from_dict({"classes": ["a"], "ignore_index": 3}).ignore_ids == (3,)
    assert SegmentationClasses.from_dict({"classes": ["a"], "ignore_id": None}).ignore_ids == ()
    assert SegmentationClasses.from_dict({"classes": ["a"]}).ignore_ids == (255,)
    assert SegmentationClasses.from_dict([{"id": 255, "name": "a"}]).ignore_ids == ()


@pytest.mark.parametrize("options", [{}, {"ignore_id": 254}, {"ignore_id": None}])
def test_255_as_a_class(tmp_path, options):
    entries = [{"id": 0, "name": "wall"}, {"id": 255, "name": "crack"}]
    classes = SegmentationClasses.from_file(write(tmp_path, {"classes": entries} | options))
    assert classes.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    if options.get("ignore_id"):
        assert classes.encode(np.array([[254]], np.uint8)).tolist() == [[255]]
    assert SegmentationClasses.from_file(write(tmp_path, "0: wall\n255: crack\n", "classes.txt")).ids == [0, 255]


def test_whether_the_ignored_id_was_written():
    assumed = [["a"], {"0": "a"}, {"classes": ["a"]}]
    written = [{"classes": ["a"], "ignore_id": 255}, {"classes": ["a"], "ignore_index": 255}]
    written += [[{"id": 255, "name": "a"}], {"classes": ["a"], "ignore_color": [0, 0, 0]}]
    for expected, forms in ((True, assumed), (False, written)):
        assert [SegmentationClasses.from_dict(form).ignore_is_assumed for form in forms] == [expected] * len(forms)
    assert SegmentationClasses.from_names(["a"]).ignore_is_assumed
    assert not SegmentationClasses.from_names(["a"], ignore_ids=(255,)).ignore_is_assumed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "empty"),
        (["a", "a"], "Two classes are named 'a'"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "Id 1 is given to both 'a' and 'b'"),
        ([{"id": "1", "name": "a"}], "the id must be an integer"),
        ([{"id": True, "name": "a"}], "the id must be an integer"),
        ([{"id": -1, "name": "a"}], "the id must be an integer"),
        ([{"id": 70000, "name": "a"}], "the id must be an integer"),
        ([{"id": 1}], "Class 0 must be a name"),
        ([3], "Class 0 must be a name"),
        (["  "], "non-empty"),
        ([{"name": "a", "thing": "yes"}], "true or false"),
        ([{"name": "a", "color": [0, 0, 256]}], "three integers"),
        ([{"name": "a", "color": "red"}], "three integers"),
        ({"classes": ["a"], "ignore_id": 0}, "both ignored and the id of class 'a'"),
        ({"classes": ["a"], "ignore_id": "void"}, "ignore_id"),
        ({"classes": {"a": 0}}, "JSON list"),
        ("[1,", "not valid JSON"),
        ([f"class {i}" for i in range(256)], "at most 255"),
    ],
)
def test_malformed(tmp_path, data, message):
    file = write(tmp_path, data)
    with pytest.raises(ClassListError, match=message) as error:
        SegmentationClasses.from_file(file)
    assert str(error.value).startswith(str(file))
    assert isinstance(error.value, SSPromptError)


def test_missing_or_binary_file(tmp_path):
    with pytest.raises(ClassListError, match="no such class file"):
        SegmentationClasses.from_file(tmp_path / "none.json")
    with pytest.raises(ClassListError, match=r"classes\.txt"):
        SegmentationClasses.from_folder(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ClassListError, match="UTF-8"):
        SegmentationClasses.from_folder(tmp_path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_encode_ids(dtype):
    classes = SegmentationClasses.from_dict(FULL)
    encoded = classes.encode(np.array([[7, 26], [0, 255]], dtype))
    assert encoded.dtype == np.uint8
    assert encoded.tolist() == [[0, 1], [255, 255]]


def test_encode_names_the_unknown_ids_and_the_file():
    classes = SegmentationClasses.from_dict(FULL)
    with pytest.raises(LabelIdError, match=r"a\.png: label id 8 \(1 pixels\), 9 \(2 pixels\) are outside .*ids 7, 26"):
        classes.encode(np.array([[7, 8], [9, 9]], np.uint8), "a.png")
    for value, dtype in ((-1, np.int32), (70000, np.int32), (65535, np.uint16)):
        with pytest.raises(LabelIdError, match=f"label id {value} "):
            classes.encode(np.array([[7, value]], dtype))


def test_encode_colors():
    classes = SegmentationClasses.from_dict(FULL)
    colors = np.array([[[128, 64, 128], [0, 0, 142], [0, 0, 0]]], np.uint8)
    assert classes.encode(colors).tolist() == [[0, 1, 255]]
    with pytest.raises(LabelIdError, match=r"colour \(1, 2, 3\)"):
        classes.encode(np.array([[[1, 2, 3]]], np.uint8))
    with pytest.raises(LabelFormatError, match="not every class has a colour"):
        SegmentationClasses.from_names(["a"]).encode(colors)
    grey = np.repeat(np.array([[7, 26]], np.uint8)[..., None], 3, axis=2)
    assert classes.encode(grey).tolist() == [[0, 1]]


def test_encode_rejects_floats():
    with pytest.raises(LabelFormatError, match="float32"):
        SegmentationClasses.from_names(["a"]).encode(np.zeros((2, 2), np.float32))


def test_colors_are_distinct_and_default_where_not_given():
    assert len(set(default_palette(150))) == 150
    classes = SegmentationClasses((ClassInfo("a", 0), ClassInfo("b", 1, color=(1, 2, 3))))
    assert classes.colors == [default_palette(2)[0], (1, 2, 3)]


def test_from_names_checks_its_lists():
    with pytest.raises(ClassListError, match="colours"):
        SegmentationClasses.from_names(["a"], colors=[])
    with pytest.raises(ClassListError, match="Thing ids"):
        SegmentationClasses.from_names(["a"], things=[1])
