"""Files of annotation tools with something else where numbers, lists and names should be: the entry is named."""

import base64
import json
import zlib

import annotation_files as files
import pytest

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.errors import ClassListError, DatasetError, LabelFormatError


def changed(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


DAMAGE = [
    (files.write_coco, "annotations/instances_default.json", '"height": 20', '"height": "six"', "image 0 .*'six'"),
    (
        files.write_coco,
        "annotations/instances_default.json",
        '"height": 20',
        '"height": -4',
        "image 0 .*30 x -4 pixels",
    ),
    (files.write_coco, "annotations/instances_default.json", '"width": 30', '"width": 1e400', "image 0 .*infinity"),
    (
        files.write_coco,
        "annotations/instances_default.json",
        '"annotations": [',
        '"annotations": [5, ',
        "annotation 0 is not as COCO",
    ),
    (files.write_labelme, "1.json", '"imageHeight": 20', '"imageHeight": "six"', r"1\.json: imageHeight .*'six'"),
    (files.write_labelme, "1.json", '"imageWidth": 30', '"imageWidth": [30]', r"1\.json: imageHeight .*list"),
    (files.write_cvat, "annotations.xml", 'width="30"', 'width="8px"', r"annotations\.xml: the size of 0\.jpg .*8px"),
    (files.write_label_studio, "project-7.json", '"result": [', '"result": ["x", ', r"project-7\.json: task 1 is not"),
    (files.write_label_studio, "project-7.json", '["crack"]', '"crack"', r"task 1 .*without a list of labels"),
    (files.write_label_studio, "project-7.json", '["crack"]', "[[1]]", r"task 1 .*without a list of labels"),
    (
        files.write_label_studio,
        "project-7.json",
        '"original_width": 30',
        '"original_width": 1e999',
        "task 0 is not as",
    ),
]


@pytest.mark.parametrize(("write", "file", "old", "new", "message"), DAMAGE)
def test_damaged_entries(write, file, old, new, message, tmp_path):
    write(tmp_path)
    changed(tmp_path / file, old, new)
    with pytest.raises(LabelFormatError, match=message):
        load_segmentation_dataset(data_dir=tmp_path)


def test_labelme_without_width(tmp_path):
    files.write_labelme(tmp_path)
    changed(tmp_path / "0.json", ', "imageWidth": 30', "")
    assert load_segmentation_dataset(data_dir=tmp_path)[0]["label"].shape == files.SIZE


def png(width, height, more=b""):
    """A PNG of ones and zeros whose header tells this size, and whose pixels end after the first few."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(16))[:3]) + more


@pytest.mark.parametrize("mask", [png(40000, 40000), png(8, 8, bytes(3) + b"\x08\xff\xff\xff\xff" + bytes(12)), b""])
def test_damaged_masks_of_labelme(mask, tmp_path):
    files.write_labelme(tmp_path, "mask")
    document = json.loads((tmp_path / "0.json").read_text())
    document["shapes"][0]["mask"] = base64.b64encode(mask).decode()
    files.write(tmp_path / "0.json", document)
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    with pytest.raises(LabelFormatError, match=r"0\.jpg: shape 1 of 3 cannot be drawn"):
        dataset[0]


@pytest.mark.parametrize("text", ["- names\n", "names\n", "5\n", ""])
def test_a_data_yaml_without_entries(text, tmp_path):
    files.write_yolo(tmp_path)
    files.write(tmp_path / "data.yaml", text)
    with pytest.raises(ClassListError, match=r"no data\.yaml and no classes\.txt"):
        load_segmentation_dataset(data_dir=tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("[crack, [stone]]", "name of class 1 must be text, not list"),
        ("[crack, yes]", "name of class 1 must be text, not bool"),
        ("{0: crack, 1: }", "name of class 1 must be text, not NoneType"),
        ("{0: crack, 1: 2024-99-99}", "not valid YAML"),
    ],
)
def test_names_of_yolo_that_are_no_text(names, message, tmp_path):
    files.write_yolo(tmp_path)
    files.write(tmp_path / "data.yaml", f"train: images/train\nnames: {names}\n")
    with pytest.raises(DatasetError, match=message):
        load_segmentation_dataset(data_dir=tmp_path)


def test_lists_of_yaml_that_would_never_end_as_text(tmp_path):
    files.write_yolo(tmp_path)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    lines += ["train: images/train", "path: *a11", "names: [crack, stone]"]
    files.write(tmp_path / "data.yaml", "\n".join(lines))
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 2
    files.write(tmp_path / "data.yaml", "\n".join([*lines[:-1], "names: [crack, *a11]"]))
    with pytest.raises(ClassListError, match="name of class 1 must be text, not list"):
        load_segmentation_dataset(data_dir=tmp_path)


def test_damaged_json_files_that_are_no_annotations(tmp_path, caplog):
    """They are told of where nothing else is found; else the folder is read without them."""
    comments = '{\n  // options of a compiler\n  "compilerOptions": {}\n}\n'
    files.write_image(tmp_path / "masks" / "images" / "0.png")
    files.write(tmp_path / "masks" / "tsconfig.json", comments)
    with pytest.raises(LabelFormatError, match=r"tsconfig\.json: not valid JSON"):
        load_segmentation_dataset(data_dir=tmp_path / "masks")
    files.write_image(tmp_path / "masks" / "labels" / "0.png")
    with pytest.raises(ClassListError, match=r"classes\.json"):
        load_segmentation_dataset(data_dir=tmp_path / "masks")
    for write in (files.write_coco, files.write_labelme):
        folder = tmp_path / write.__name__
        write(folder)
        files.write(folder / "tsconfig.json", comments)
        assert len(load_segmentation_dataset(data_dir=folder)) == 3
    assert "tsconfig.json: not valid JSON; it does not look like annotations" in caplog.text
    files.write(tmp_path / "write_labelme" / "2.json", "")
    with pytest.raises(LabelFormatError, match=r"2\.json: not valid JSON"):
        load_segmentation_dataset(data_dir=tmp_path / "write_labelme")
    files.write(tmp_path / "write_coco" / "cut.json", '{"images": [')
    with pytest.raises(LabelFormatError, match=r"cut\.json: not valid JSON"):
        load_segmentation_dataset(data_dir=tmp_path / "write_coco")


def test_yaml_files_of_other_programs(tmp_path):
    files.write_coco(tmp_path / "coco")
    files.write_yolo(tmp_path / "yolo")
    (tmp_path / "yolo" / "data.yaml").rename(tmp_path / "yolo" / "walls.yaml")
    for name, count in (("coco", 3), ("yolo", 2)):
        files.write(tmp_path / name / "mkdocs.yml", "format: !!python/name:somewhere.fence\n")
        assert len(load_segmentation_dataset(data_dir=tmp_path / name)) == count
    files.write(tmp_path / "yolo" / "walls.yaml", "names: [crack\n")
    with pytest.raises(LabelFormatError, match=r"walls\.yaml: not valid YAML"):
        load_segmentation_dataset(data_dir=tmp_path / "yolo")
