"""Folders with several COCO files: of splits, of classes, of both."""

import annotation_files as files
import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.classes import ClassInfo, SegmentationClasses
from ssprompt_hf.data.sources.panoptic_files import read_panoptic_json
from ssprompt_hf.errors import ClassListError, LabelFormatError, NoImagesError


def write_split(root, split, numbers, names=files.NAMES, **more):
    """A COCO file of a split with images, whose categories have numbers from 1 on in the order of `names`."""
    document = files.coco_document([f"{number}.png" for number in numbers], files.flat_corners)
    number_of = {name: number for number, name in enumerate(names, start=1)}
    for annotation in document["annotations"]:
        annotation["category_id"] = number_of[files.NAMES[annotation["category_id"] - 1]]
    document["categories"] = [{"id": number, "name": name, **more} for name, number in number_of.items()]
    for number in numbers:
        files.write_image(root / "images" / f"{number}.png", number)
    return files.write(root / f"{split}.json", document)


def labels_are_true(examples, names, truths):
    names = np.array(names)
    for example, number in zip(examples, truths, strict=True):
        assert (names[example["label"]] == np.array(["background", *files.NAMES])[files.truth(number)[0]]).all()


def test_categories_are_joined_by_name(tmp_path, caplog):
    """train.json numbers crack 1 and stone 2; val.json stone 1 and crack 2."""
    write_split(tmp_path, "train", [0])
    write_split(tmp_path, "val", [1], [*reversed(files.NAMES), "moss"])
    for split in ("train", "val"):
        dataset = load_segmentation_dataset(data_dir=tmp_path, split=split)
        assert dataset.classes.names == [*files.NAMES, "moss", "background"]
        labels_are_true(dataset, dataset.classes.names, [0])
    assert "train.json, val.json number their categories differently" in caplog.text


def test_a_number_or_a_name_twice_in_a_file(tmp_path):
    path = write_split(tmp_path, "train", [0])
    text = path.read_text()
    path.write_text(text.replace('"id": 2, "name": "stone"', '"id": 1, "name": "stone"'))
    with pytest.raises(LabelFormatError, match=r"train\.json: category 1 is both 'crack' and 'stone'"):
        load_segmentation_dataset(data_dir=tmp_path)
    path.write_text(text.replace('"id": 2, "name": "stone"', '"id": 2, "name": "crack"'))
    with pytest.raises(ClassListError, match=r"train\.json: Two classes are named 'crack'"):
        load_segmentation_dataset(data_dir=tmp_path)


def write_panoptic(root, split, names):
    """One image of a split, all of the first class of the data set."""
    files.write_image(root / split / "0.jpg")
    pixels = np.zeros((*files.SIZE, 3), np.uint8)
    pixels[..., 0] = 7
    (root / "annotations" / f"panoptic_{split}").mkdir(parents=True)
    Image.fromarray(pixels).save(root / "annotations" / f"panoptic_{split}" / "0.png")
    segments = [{"id": 7, "category_id": names.index("crack") + 1}]
    return files.write(
        root / "annotations" / f"panoptic_{split}.json",
        {
            "images": [{"id": 0, "file_name": "0.jpg"}],
            "annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": segments}],
            "categories": [{"id": i, "name": name, "isthing": 1} for i, name in enumerate(names, start=1)],
        },
    )


def test_panoptic_categories_are_joined_by_name(tmp_path):
    paths = [
        write_panoptic(tmp_path, "train", ["crack", "stone"]),
        write_panoptic(tmp_path, "val", ["stone", "crack"]),
    ]
    for split in ("train", "val"):
        dataset = load_segmentation_dataset(data_dir=tmp_path, split=split)
        assert {dataset.classes.names[index] for index in np.unique(dataset[0]["label"])} == {"crack"}
    classes = SegmentationClasses((ClassInfo("stone", 1), ClassInfo("crack", 2)))
    own = load_segmentation_dataset(data_dir=tmp_path, split="val", classes=classes)
    assert (own[0]["label"] == 1).all()
    with pytest.raises(
        LabelFormatError, match=r"panoptic_val\.json: category 1 is 'stone', in the files before 'crack'"
    ):
        read_panoptic_json(paths, None, None)


def test_a_file_that_was_divided_stays_beside_its_parts(tmp_path, caplog):
    write_split(tmp_path, "annotations", [0, 1, 2])
    write_split(tmp_path, "train", [0, 1])
    write_split(tmp_path, "val", [2])
    assert load_segmentation_dataset(data_dir=tmp_path).file_names == ["images/0.png", "images/1.png"]
    assert load_segmentation_dataset(data_dir=tmp_path, split="val").file_names == ["images/2.png"]
    assert "3 images are both in a split (train, val) and in a file that names none" in caplog.text


def test_what_several_files_say_of_an_image(tmp_path):
    """cars.json and people.json; and a copy of one of them, which says nothing new."""
    document = files.coco_document(["0.png"], files.flat_corners)
    files.write_image(tmp_path / "0.png")
    for name, number in (("crack", 1), ("copy of crack", 1), ("stone", 2)):
        chosen = [one for one in document["annotations"] if one["category_id"] == number]
        files.write(tmp_path / f"{name}.json", document | {"annotations": chosen})
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert len(dataset) == 1 and dataset.coco_image_ids == [document["images"][0]["id"]]
    labels_are_true(dataset, dataset.classes.names, [0])
    assert len(np.unique(dataset[0]["instance"])) == 4
    document["images"][0]["height"] = 99
    files.write(tmp_path / "other.json", document)
    with pytest.raises(LabelFormatError, match=r"other\.json: 0\.png has 30x99 pixels, elsewhere 30x20"):
        load_segmentation_dataset(data_dir=tmp_path)


def test_two_names_of_one_image(tmp_path):
    """Images of two folders, of which one file is there: it is not said whose labels it has."""
    files.write_image(tmp_path / "0.png")
    files.write(tmp_path / "a.json", files.coco_document(["left/0.png", "right/0.png"], files.flat_corners))
    with pytest.raises(NoImagesError, match=r"2 of 2 images that a\.json names are not there"):
        load_segmentation_dataset(data_dir=tmp_path)


def test_panoptic_data_is_known_again_until_the_classes_of_segments_change(tmp_path):
    path = write_panoptic(tmp_path, "train", ["crack", "stone"])
    known = load_segmentation_dataset(data_dir=tmp_path).fingerprint
    assert load_segmentation_dataset(data_dir=tmp_path).fingerprint == known
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 2'))
    assert load_segmentation_dataset(data_dir=tmp_path).fingerprint != known


def test_panoptic_images_of_one_name_in_two_folders(tmp_path):
    path = write_panoptic(tmp_path, "train", ["crack", "stone"])
    (tmp_path / "train").rename(tmp_path / "cam2")
    text = path.read_text()
    path.write_text(text.replace('"0.jpg"', '"cam1/0.jpg"'))
    with pytest.raises(NoImagesError, match=r"1 of 1 images that panoptic_train\.json names are not there"):
        load_segmentation_dataset(data_dir=tmp_path)
    path.write_text(text.replace('"0.jpg"', '"cam2/0.jpg"'))
    assert load_segmentation_dataset(data_dir=tmp_path).file_names == ["cam2/0.jpg"]


@pytest.mark.parametrize("number", ['"seven"', "-1", "16777216", "7.5", "null"])
def test_segments_that_have_no_number(number, tmp_path):
    path = write_panoptic(tmp_path, "train", ["crack", "stone"])
    path.write_text(path.read_text().replace('{"id": 7,', f'{{"id": {number},'))
    with pytest.raises(LabelFormatError, match=r"panoptic_train\.json: not a panoptic JSON file .*of 24 bits"):
        load_segmentation_dataset(data_dir=tmp_path)


def test_jobs_of_cvat_about_one_image(tmp_path):
    files.write_cvat(tmp_path)
    text = (tmp_path / "annotations.xml").read_text()
    shape = files.cvat_shape("stone", (14, 2, 22, 8), "mask")
    (tmp_path / "annotations.xml").write_text(text.replace(shape, ""))
    image = f'<image id="0" name="0.jpg" width="30" height="20">{shape}</image>'
    files.write(tmp_path / "job2.xml", f"{text.partition('<image ')[0]}{image}</annotations>")
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert dataset.file_names == [f"images/{number}.jpg" for number in range(3)]
    labels_are_true([dataset[0]], dataset.classes.names, [0])
    assert len(np.unique(dataset[0]["instance"])) == 4
    files.write(tmp_path / "job3.xml", (tmp_path / "job2.xml").read_text().replace('width="30"', 'width="60"'))
    with pytest.raises(LabelFormatError, match=r"0\.jpg: annotated with 30x20 pixels and with 60x20"):
        load_segmentation_dataset(data_dir=tmp_path)
