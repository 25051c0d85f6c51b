"""Small data sets in their official layouts, as the tests write them."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (24, 32)
"""(H, W) of all images."""


def write_image(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*SIZE, 3), value, np.uint8)).save(path)
    return path


def write_map(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def two_halves(left: int, right: int, dtype=np.uint8) -> np.ndarray:
    """(H, W): `left` and `right` halves."""
    array = np.full(SIZE, left, dtype)
    array[:, SIZE[1] // 2 :] = right
    return array


def segment_png(path: Path, numbers: np.ndarray) -> Path:
    """A panoptic PNG: R + 256 G + 65536 B is the segment's number."""
    numbers = numbers.astype(np.int64)
    return write_map(path, np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], -1).astype(np.uint8))


def panoptic_json(path: Path, categories: list[dict], entries: list[tuple[str, str, list[dict]]]) -> Path:
    """`entries`: image file, label file, segments of each image."""
    data = {
        "images": [
            {"id": n, "file_name": image, "height": SIZE[0], "width": SIZE[1]} for n, (image, *_) in enumerate(entries)
        ],
        "annotations": [
            {"image_id": n, "file_name": label, "segments_info": segments}
            for n, (_, label, segments) in enumerate(entries)
        ],
        "categories": categories,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def segment(number: int, category: int, crowd: int = 0) -> dict:
    return {"id": number, "category_id": category, "iscrowd": crowd, "area": 1, "bbox": [0, 0, 1, 1]}


CITYSCAPES_POLYGONS = [
    ("road", [[0, 10], [31, 10], [31, 23], [0, 23]]),
    ("sky", [[0, 0], [31, 0], [31, 9], [0, 9]]),
    ("car", [[1, 12], [8, 12], [8, 18], [1, 18]]),
    ("license plate", [[3, 14], [5, 14], [5, 15], [3, 15]]),
    ("car", [[6, 13], [12, 13], [12, 19], [6, 19]]),
    ("cargroup", [[14, 12], [18, 12], [18, 16], [14, 16]]),
    ("person", [[20, 8], [22, 8], [22, 16], [20, 16]]),
    ("ridergroup", [[24, 8], [26, 8], [26, 16], [24, 16]]),
    ("caravan", [[28, 11], [31, 11], [31, 15], [28, 15]]),
    ("ego vehicle", [[0, 21], [31, 21], [31, 23], [0, 23]]),
    ("polegroup", [[23, 0], [23, 7], [24, 7], [24, 0]]),
]


def write_cityscapes(root: Path, city: str = "aachen", numbers: tuple[int, ...] = (0, 1)) -> Path:
    """Images and polygon files of `train`; the other label files are made by `cityscapesscripts`."""
    for number in numbers:
        name = f"{city}_{number:06d}_000019"
        write_image(root / f"leftImg8bit/train/{city}/{name}_leftImg8bit.png")
        objects = [{"label": label, "polygon": polygon} for label, polygon in CITYSCAPES_POLYGONS]
        objects.append({"label": "bus", "polygon": [[0, 0], [5, 0], [5, 5]], "deleted": 1})
        objects = objects[: len(objects) - number]
        path = root / f"gtFine/train/{city}/{name}_gtFine_polygons.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"imgWidth": SIZE[1], "imgHeight": SIZE[0], "objects": objects}))
    return root


def write_acdc(root: Path, conditions: tuple[str, ...] = ("fog", "night", "rain", "snow")) -> Path:
    """One image a condition and split, with train and label ids, and the panoptic files of each condition."""
    categories = [
        {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]},
        {"id": 26, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    ]
    for condition in conditions:
        for split in ("train", "val"):
            name = f"GOPR0475_{condition}_{split}_frame_000041"
            place = f"{condition}/{split}/GOPR0475"
            write_image(root / f"rgb_anon/{place}/{name}_rgb_anon.png")
            write_image(root / f"rgb_anon/{condition}/{split}_ref/GOPR0475/{name}_ref_rgb_anon.png")
            write_map(root / f"gt/{place}/{name}_gt_labelTrainIds.png", two_halves(0, 13))
            write_map(root / f"gt/{place}/{name}_gt_labelIds.png", two_halves(7, 26))
            write_map(root / f"gt/{place}/{name}_gt_invIds.png", two_halves(0, 255))
            label = segment_png(root / f"gt_panoptic/{place}/{name}_gt_panoptic.png", two_halves(7, 26001, np.int32))
            panoptic_json(
                root / f"gt_panoptic/{condition}/{condition}_{split}_gt_panoptic.json",
                categories,
                [(f"{name}_rgb_anon.png", label.name, [segment(7, 7), segment(26001, 26)])],
            )
    return root
