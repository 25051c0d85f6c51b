"""The formats of annotation tools: recognised, read to the masks they were written from, and refused when damaged."""

import json
import shutil

import annotation_files as files
import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.loading import dataset_splits
from ssprompt_hf.data.sources.label_formats.catalog import find_format
from ssprompt_hf.data.sources.label_formats.labelled_folder import FolderView
from ssprompt_hf.data.sources.polygons import coco_polygon
from ssprompt_hf.errors import ClassListError, DatasetError, LabelFormatError, MissingLabelError, NoImagesError
from ssprompt_hf.utils.run_length import coco_rle


def compressed(box):
    return coco_rle(files.box_mask(box))


FORMATS = {
    "COCO, polygons": ("COCO instances", files.write_coco, {}),
    "COCO, runs": ("COCO instances", files.write_coco, {"segmentation": files.coco_runs}),
    "COCO, compressed": ("COCO instances", files.write_coco, {"segmentation": compressed}),
    "Roboflow": ("COCO instances", files.write_roboflow, {}),
    "LabelMe, polygons": ("LabelMe", files.write_labelme, {}),
    "LabelMe, rectangles": ("LabelMe", files.write_labelme, {"kind": "rectangle"}),
    "LabelMe, masks": ("LabelMe", files.write_labelme, {"kind": "mask"}),
    "YOLO": ("YOLO segmentation", files.write_yolo, {}),
    "VOC, palette": ("Pascal VOC", files.write_voc, {}),
    "VOC, colours": ("Pascal VOC", files.write_voc, {"colors": "rgb"}),
    "CVAT, masks": ("CVAT for images", files.write_cvat, {}),
    "CVAT, polygons": ("CVAT for images", files.write_cvat, {"kind": "polygon"}),
    "Label Studio, brush": ("Label Studio", files.write_label_studio, {}),
    "Label Studio, polygons": ("Label Studio", files.write_label_studio, {"kind": "polygon"}),
    "Label Studio, short": ("Label Studio", files.write_label_studio, {"short": True}),
}


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two maps of object numbers tell the same objects apart, and have 0 in the same places."""
    pairs = set(zip(first.ravel().tolist(), second.ravel().tolist()))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and (0, 0) in pairs


@pytest.mark.parametrize("name", FORMATS)
def test_masks_are_those_that_were_written(name, tmp_path):
    title, write, options = FORMATS[name]
    write(tmp_path, **options)
    assert title == find_format(FolderView(tmp_path))[0].NAME
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert sorted(dataset.classes.names) == ["background", "crack", "stone"]
    assert {dataset.classes.names[index] for index in dataset.classes.thing_indices} == set(files.NAMES)
    for example in dataset:
        number = int(example["file_name"].rpartition("/")[2].partition(".")[0])
        label, instance = files.truth(number)
        found = np.array(dataset.classes.names)[example["label"]]
        assert (found == np.array(["background", *files.NAMES])[label]).all()
        assert same_partition(example["instance"], instance)
        assert example["image"].shape == (*files.SIZE, 3)
    assert (dataset.read_label(0) == dataset[0]["label"]).all()


@pytest.mark.parametrize(
    ("write", "train", "other"),
    [
        (files.write_roboflow, 2, ("val", 1)),
        (files.write_yolo, 2, ("validation", 1)),
        (files.write_voc, 2, ("val", 1)),
    ],
)
def test_splits(write, train, other, tmp_path):
    write(tmp_path)
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == train
    assert len(load_segmentation_dataset(data_dir=tmp_path, split=other[0])) == other[1]
    with pytest.raises(NoImagesError, match=r"no split 'test' .*there are train, val"):
        load_segmentation_dataset(data_dir=tmp_path, split="test")


def test_what_is_not_divided_is_read_whole(tmp_path):
    files.write_labelme(tmp_path)
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 3
    with pytest.raises(NoImagesError, match=r"no split 'val' \(LabelMe\); there are no splits"):
        load_segmentation_dataset(data_dir=tmp_path, split="val")


def test_outlines_are_filled_as_pycocotools_fills_them():
    masks = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for trial in range(60):
        height, width = random.integers(3, 50, 2).tolist()
        count = int(random.integers(3, 10))
        points = (random.random(2 * count) * 1.3 - 0.15) * np.tile([width, height], count)
        points = (np.round(points) if trial % 3 == 0 else points).tolist()
        expected = masks.decode(masks.frPyObjects([points], height, width))[..., 0]
        assert (coco_polygon(points, (height, width)) == expected).all()


@pytest.mark.parametrize(("orientation", "stored"), [(6, False), (6, True), (8, True), (5, True)])
def test_turned_photographs(orientation, stored, tmp_path):
    """Shapes lie in the image as it is shown, or as it is stored where the recorded size says so."""
    files.write_labelme(tmp_path)
    height, width = files.SIZE
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = np.zeros((height, width, 3), np.uint8)
    turned = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE}[orientation]
    if stored:
        Image.fromarray(shown).save(tmp_path / "0.jpg", exif=exif)
    else:
        Image.fromarray(shown).transpose(turned).save(tmp_path / "0.jpg", exif=exif)
    label, _ = files.truth(0)
    if stored:
        back = {6: Image.Transpose.ROTATE_270, 8: Image.Transpose.ROTATE_90, 5: Image.Transpose.TRANSPOSE}
        label = np.asarray(Image.fromarray(label).transpose(back[orientation]))
    example = load_segmentation_dataset(data_dir=tmp_path)[0]
    assert example["image"].shape[:2] == example["label"].shape == label.shape
    assert ((example["label"] == 0) == (label == 1)).all()


def test_overlaps(tmp_path):
    """LabelMe: the last on top. COCO: the smaller on top, whatever the order."""
    files.write_image(tmp_path / "labelme" / "0.jpg")
    shapes = [
        files.labelme_shape(name, box, "rectangle")
        for name, box in (("stone", (5, 5, 9, 9)), ("crack", (4, 4, 16, 16)))
    ]
    files.write(
        tmp_path / "labelme" / "0.json", {"shapes": shapes, "imagePath": "0.jpg", "imageHeight": 20, "imageWidth": 30}
    )
    dataset = load_segmentation_dataset(data_dir=tmp_path / "labelme")
    assert dataset.classes.names[dataset[0]["label"][6, 6]] == "crack"

    files.write_image(tmp_path / "coco" / "0.jpg")
    document = files.coco_document(["0.jpg"], files.flat_corners)
    for annotation, box in zip(document["annotations"], ((2, 2, 6, 6), (1, 1, 16, 16), (20, 5, 22, 8))):
        annotation |= {"segmentation": files.flat_corners(box), "area": (box[2] - box[0]) * (box[3] - box[1])}
    document["annotations"][2]["iscrowd"] = 1
    files.write(tmp_path / "coco" / "result.json", document)
    example = load_segmentation_dataset(data_dir=tmp_path / "coco")[0]
    assert example["label"][3, 3] == 0 and example["label"][10, 10] == 1
    assert example["label"][6, 21] == 0 and example["instance"][6, 21] == 0 and example["instance"][3, 3] > 0


def test_brushes_of_cvat_are_objects(tmp_path):
    files.write_image(tmp_path / "0.jpg")
    document = files.coco_document(["0.jpg"], files.coco_runs, attributes={"occluded": False})
    for annotation in document["annotations"]:
        annotation["iscrowd"] = 1
    files.write(tmp_path / "instances_default.json", document)
    assert len(np.unique(load_segmentation_dataset(data_dir=tmp_path)[0]["instance"])) == 4


def test_pixels_without_shape(tmp_path):
    files.write_coco(tmp_path)
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert [(info.name, info.id, info.thing) for info in dataset.classes.classes] == [
        ("crack", 1, True),
        ("stone", 2, True),
        ("background", 0, False),
    ]
    ignoring = load_segmentation_dataset(data_dir=tmp_path, unlabelled="ignore")
    assert ignoring.classes.names == files.NAMES and ignoring[0]["label"][0, 0] == 255
    with pytest.raises(DatasetError, match="`unlabelled` must be 'background' or 'ignore', not 'sky'"):
        load_segmentation_dataset(data_dir=tmp_path, unlabelled="sky")


def test_a_class_list_of_ones_own(tmp_path):
    files.write_coco(tmp_path / "data")
    classes = files.write(tmp_path / "own.txt", "background\nstone\n")
    dataset = load_segmentation_dataset(data_dir=tmp_path / "data", classes=classes)
    label, _ = files.truth(0)
    assert (dataset[0]["label"] == np.array([0, 255, 1])[label]).all()
    with pytest.raises(DatasetError, match=r"none of its classes crack, stone is in the class list .*: sky"):
        load_segmentation_dataset(data_dir=tmp_path / "data", classes=files.write(tmp_path / "own.txt", "sky\n"))


def test_groups_and_ignored_shapes_of_labelme(tmp_path):
    files.write_image(tmp_path / "0.jpg")
    shapes = [files.labelme_shape("crack", box, "rectangle") for box in ((1, 1, 4, 4), (6, 1, 9, 4), (11, 1, 14, 4))]
    shapes += [files.labelme_shape("__ignore__", (16, 1, 20, 4), "rectangle")]
    for one in shapes[:2]:
        one["group_id"] = 7
    image_data = files.base64.b64encode((tmp_path / "0.jpg").read_bytes()).decode()
    (tmp_path / "0.jpg").unlink()
    files.write(tmp_path / "0.json", {"shapes": shapes, "imagePath": "0.jpg", "imageData": image_data})
    example = load_segmentation_dataset(data_dir=tmp_path)[0]
    assert example["instance"][2, 2] == example["instance"][2, 7] != example["instance"][2, 12]
    assert example["label"][2, 17] == 255


def test_yolo_without_yaml_and_with_boxes(tmp_path):
    files.write_yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(ClassListError, match=r"no data.yaml and no classes.txt"):
        load_segmentation_dataset(data_dir=tmp_path)
    files.write(tmp_path / "classes.txt", "crack\nstone\n")
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 2
    for line, message in (
        ("0 0.5 0.5 0.1 0.1", "0.txt, line 1: a box, as for detection"),
        ("7 0.1 0.1 0.2 0.1 0.2 0.2", "class 7 has no name"),
        ("0 0.1 0.1 0.2", "an outline of 3 numbers"),
        ("0 0.1 0.1 0.2 x 0.2 0.2", "not a class number and an outline"),
        ("0 10 10 20 10 20 20", "shares of the image's sides"),
    ):
        files.write(tmp_path / "labels" / "train" / "0.txt", line)
        with pytest.raises(DatasetError, match=message):
            load_segmentation_dataset(data_dir=tmp_path)


def test_a_data_set_is_known_again_until_its_labels_change(tmp_path):
    files.write_coco(tmp_path)
    known = load_segmentation_dataset(data_dir=tmp_path).fingerprint
    assert load_segmentation_dataset(data_dir=tmp_path).fingerprint == known
    path = tmp_path / "annotations" / "instances_default.json"
    damaged(path, lambda data: data["annotations"][0].update(category_id=2))
    assert load_segmentation_dataset(data_dir=tmp_path).fingerprint != known


def test_other_places_of_images(tmp_path):
    """YOLO as Roboflow exports it; LabelMe's files in a folder of their own."""
    files.write_yolo(tmp_path / "yolo")
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "yolo" / split).mkdir(exist_ok=True)
            (tmp_path / "yolo" / kind / split).rename(tmp_path / "yolo" / split / kind)
    files.write(
        tmp_path / "yolo" / "data.yaml",
        "train: ../train/images\nval: ../val/images\nnc: 2\nnames: ['crack', 'stone']\n",
    )
    dataset = load_segmentation_dataset(data_dir=tmp_path / "yolo")
    assert len(dataset) == 2 and (dataset[0]["label"] == np.array([2, 0, 1])[files.truth(0)[0]]).all()
    files.write_labelme(tmp_path / "labelme" / "notes")
    (tmp_path / "labelme" / "images").mkdir()
    for number in range(3):
        (tmp_path / "labelme" / "notes" / f"{number}.jpg").rename(tmp_path / "labelme" / "images" / f"{number}.jpg")
        damaged(
            tmp_path / "labelme" / "notes" / f"{number}.json",
            lambda data: data.update(imagePath=f"..\\images\\{data['imagePath']}"),
        )
    assert load_segmentation_dataset(data_dir=tmp_path / "labelme").file_names[0] == "images/0.jpg"


def test_boxes_alone(tmp_path):
    files.write_coco(tmp_path, segmentation=lambda box: [])
    with pytest.raises(LabelFormatError, match=r"annotations of instances_default\.json have no outlines"):
        load_segmentation_dataset(data_dir=tmp_path)


def damaged(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["annotations"][0].update(category_id=99), "annotation 0 is not as COCO writes it"),
        (lambda data: data["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "an outline of 4 numbers"),
        (lambda data: data["annotations"][0].update(segmentation=[[1, 2, "x", 4, 5, 6]]), "annotation 0"),
        (lambda data: data["images"][0].pop("file_name"), "image 0 is not as COCO writes it"),
        (lambda data: data.update(categories=[{"name": "x"}]), "its categories are not as COCO writes them"),
        (lambda data: data["categories"][1].update(name="crack"), "Two classes are named 'crack'"),
    ],
)
def test_damaged_coco(change, message, tmp_path):
    files.write_coco(tmp_path)
    damaged(tmp_path / "annotations" / "instances_default.json", change)
    with pytest.raises(DatasetError, match=message):
        load_segmentation_dataset(data_dir=tmp_path)


def test_damaged_masks_are_named_when_they_are_read(tmp_path):
    files.write_coco(tmp_path / "coco", segmentation=files.coco_runs)
    damaged(
        tmp_path / "coco" / "annotations" / "instances_default.json",
        lambda data: data["annotations"][0]["segmentation"].update(counts=[5, 5]),
    )
    with pytest.raises(LabelFormatError, match=r"0.png: shape \d of 3 cannot be drawn: .*add up to 10 pixels"):
        load_segmentation_dataset(data_dir=tmp_path / "coco")[0]
    files.write_label_studio(tmp_path / "studio")
    brush = files.brush_code(files.box_mask((0, 0, 5, 5)))
    damaged(
        tmp_path / "studio" / "project-7.json",
        lambda data: data[0]["annotations"][0]["result"][0]["value"].update(rle=brush[:20]),
    )
    with pytest.raises(LabelFormatError, match=r"0.jpg: shape 1 of 3 cannot be drawn: its brush code ends too early"):
        load_segmentation_dataset(data_dir=tmp_path / "studio")[0]
    files.write_cvat(tmp_path / "cvat")
    text = (tmp_path / "cvat" / "annotations.xml").read_text()
    (tmp_path / "cvat" / "annotations.xml").write_text(text.replace('rle="0, 56"', 'rle="0, 50"'))
    with pytest.raises(LabelFormatError, match=r"its runs add up to 50 pixels, its box has 7x8"):
        load_segmentation_dataset(data_dir=tmp_path / "cvat")[0]


@pytest.mark.parametrize(
    ("write", "file", "message"),
    [
        (files.write_coco, "annotations/instances_default.json", "not valid JSON"),
        (files.write_labelme, "1.json", "1.json: not valid JSON"),
        (files.write_label_studio, "project-7.json", "not valid JSON"),
        (files.write_cvat, "annotations.xml", "not valid XML"),
    ],
)
def test_files_that_end_too_early(write, file, message, tmp_path):
    write(tmp_path)
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text[: len(text) // 2])
    with pytest.raises(LabelFormatError, match=message):
        load_segmentation_dataset(data_dir=tmp_path)


def test_images_that_are_not_there(tmp_path, caplog):
    files.write_coco(tmp_path)
    (tmp_path / "images" / "default" / "1.png").unlink()
    assert len(load_segmentation_dataset(data_dir=tmp_path)) == 2
    for number in (0, 2):
        (tmp_path / "images" / "default" / f"{number}.png").unlink()
    with pytest.raises(NoImagesError, match=r"3 of 3 images that instances_default\.json names are not there"):
        load_segmentation_dataset(data_dir=tmp_path)
    files.write_voc(tmp_path / "voc")
    (tmp_path / "voc" / "SegmentationClass" / "1.png").unlink()
    with pytest.raises(MissingLabelError, match="no label for 1, which the list of 'train' names"):
        load_segmentation_dataset(data_dir=tmp_path / "voc")


def test_a_folder_in_no_known_form(tmp_path):
    files.write_image(tmp_path / "photo.jpg")
    with pytest.raises(DatasetError, match=r"(?s)in none of the forms known here:.*COCO instances: a JSON file.*YOLO"):
        load_segmentation_dataset(data_dir=tmp_path)


@pytest.mark.parametrize("how", ["folders", "lists"])
@pytest.mark.parametrize("classes", ["labelmap.txt", "classes.txt"])
@pytest.mark.parametrize("objects", [True, False])
def test_folders_named_as_those_of_voc_keep_their_splits(how, classes, objects, tmp_path):
    files.write_voc(tmp_path, objects=objects)
    shutil.rmtree(tmp_path / "ImageSets")
    if classes == "classes.txt":
        (tmp_path / "labelmap.txt").unlink()
        files.write(tmp_path / "classes.txt", "background\ncrack\nstone\n")
    parts = {"train": [0, 1], "val": [2]}
    for split, numbers in parts.items():
        if how == "lists":
            files.write(tmp_path / f"{split}.txt", "\n".join(map(str, numbers)))
        for path in [] if how == "lists" else [p for n in numbers for p in tmp_path.glob(f"*/{n}.*")]:
            (path.parent / split).mkdir(exist_ok=True)
            path.rename(path.parent / split / path.name)
    assert dataset_splits(None, tmp_path) == ["train", "val"]
    for split, numbers in parts.items():
        dataset = load_segmentation_dataset(data_dir=tmp_path, split=split)
        assert [int(name.rpartition("/")[2].partition(".")[0]) for name in dataset.file_names] == numbers
        assert (dataset[0]["label"] == files.truth(numbers[0])[0]).all()
        assert ("instance" in dataset[0]) == objects
    if how == "lists":
        (tmp_path / "SegmentationClass" / "2.png").unlink()
        with pytest.raises(MissingLabelError, match=r"no label"):
            load_segmentation_dataset(data_dir=tmp_path, split="val")


def test_object_255_of_maps_of_16_bits(tmp_path):
    files.write_voc(tmp_path)
    path = tmp_path / "SegmentationObject" / "0.png"
    objects = np.where(files.truth(0)[1] == 1, 255, files.truth(0)[1])
    for dtype, there in ((np.uint16, True), (np.uint8, False)):
        Image.fromarray(objects.astype(dtype)).save(path)
        found = load_segmentation_dataset(data_dir=tmp_path)[0]["instance"]
        assert (255 in found) is there and (found == np.where(objects == 255, 255 * there, objects)).all()
