"""Shapes that reach far out of their image, or say that they are larger than it, cost no memory; what has no mask is
told."""

import base64
import tracemalloc
from io import BytesIO

import annotation_files as files
import numpy as np
import pytest
from PIL import Image
from test_label_formats import damaged

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.folder_report import open_splits, report_folder
from ssprompt_hf.data.sources.polygons import coco_polygon
from ssprompt_hf.data.sources.shapes import FORMS, shape
from ssprompt_hf.errors import LabelFormatError

SIZE = (20, 30)


@pytest.fixture
def peak():
    """Bytes held at most since the start of a test."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("far", [1e5, 1e14, 1e300])
def test_outlines_that_reach_far_out(far, peak):
    assert coco_polygon([-far, -far, far, -far, far, far, -far, far], SIZE).all()
    lower = coco_polygon([-far, 10, far, 10, far, far, -far, far], SIZE)
    assert (lower == (np.arange(20) >= 10)[:, None]).all()
    right = coco_polygon([12, -far, far, -far, far, far, 12, far], SIZE)
    assert (right == (np.arange(30) >= 12)).all()
    assert peak() < 1 << 20


def test_far_outlines_are_filled_as_pycocotools_fills_them():
    masks = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for _ in range(40):
        height, width = random.integers(1, 50, 2).tolist()
        points = ((random.random(12) * 60 - 30) * np.tile([width, height], 6)).tolist()
        expected = masks.decode(masks.frPyObjects([points], height, width))[..., 0]
        assert (coco_polygon(points, (height, width)) == expected).all()


def large_png() -> str:
    buffer = BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (shape("row rle", [16 * 10**14], box=[0, 0, 40_000_000, 40_000_000]), "its box has 40000000x40000000 pixels"),
        (shape("row rle", [0, -5, 17], box=[0, 0, 4, 3]), "its runs add up to 12 pixels"),
        (shape("coco rle", {"size": [9000, 9000], "counts": [0, 81_000_000]}), "run-length code is of 9000x9000"),
        (shape("brush", [255] * 4 + [56, 0, 0], size=list(SIZE)), "its brush has 4294967295 values"),
        (shape("brush", [1, 255, 255, 255, 57, 255, 255] + [255] * 3000, size=list(SIZE)), "has 33554431 values"),
        (shape("png", large_png(), left=0, top=0), "its box has 9000x9000 pixels, the image 30x20"),
        (shape("drawing", [(-1e9, -1e9), (1e9, 1e9)], kind="ellipse"), "a coordinate of 1e\\+09"),
    ],
)
def test_masks_larger_than_their_image(one, message, peak):
    with pytest.raises(ValueError, match=message):
        FORMS[one["form"]](one, SIZE)
    assert peak() < 1 << 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["polygon", "rectangle"])
def test_coordinates_that_are_no_numbers(value, kind, tmp_path):
    files.write_labelme(tmp_path, kind)
    damaged(tmp_path / "0.json", lambda data: data["shapes"][1]["points"][0].__setitem__(0, value))
    with pytest.raises(LabelFormatError, match=r"0\.json: shape 2 .*a coordinate is no finite number"):
        load_segmentation_dataset(data_dir=tmp_path)
    for form in ("polygons", "relative polygons"):
        with pytest.raises(ValueError, match="no finite number"):
            shape(form, [[0, 0, 1, 1, value, 0]])


def test_shapes_of_labelme_without_a_mask(tmp_path):
    files.write_labelme(tmp_path)
    before = load_segmentation_dataset(data_dir=tmp_path)[0]["label"]
    spread = {"label": "crack", "points": [[0, 0], [29, 0], [29, 19], [0, 19]]}
    kinds = ("points", "points", "cuboid")
    damaged(tmp_path / "0.json", lambda data: data["shapes"].extend(spread | {"shape_type": kind} for kind in kinds))
    assert (load_segmentation_dataset(data_dir=tmp_path)[0]["label"] == before).all()
    assert report_folder(tmp_path, open_splits(tmp_path)).problems == [
        "2 shapes of the kind 'points' have no mask; they are left out",
        "1 shapes of the kind 'cuboid' have no mask; they are left out",
    ]


def test_turned_images_and_further_labels_of_label_studio(tmp_path):
    files.write_label_studio(tmp_path)
    file = tmp_path / "project-7.json"

    def results(data):
        return data[0]["annotations"][0]["result"]

    damaged(file, lambda data: results(data)[0].update(image_rotation=0))
    damaged(file, lambda data: results(data)[0]["value"]["brushlabels"].append("stone"))
    assert report_folder(tmp_path, open_splits(tmp_path)).problems == [
        "1 regions have more than one label; the first of each counts"
    ]
    damaged(file, lambda data: results(data)[1].update(image_rotation=90))
    with pytest.raises(LabelFormatError, match=r"task 0 was labelled with its image turned by 90 degrees"):
        load_segmentation_dataset(data_dir=tmp_path)
