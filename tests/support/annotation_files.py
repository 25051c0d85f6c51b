"""Small data sets in the formats of annotation tools, written from one truth, as the tests write them."""

import base64
import json
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (20, 30)
"""(H, W) of all images."""

NAMES = ["crack", "stone"]


def boxes(number: int) -> list[tuple[str, tuple[int, int, int, int]]]:
    """Class and (left, top, right, bottom) of the objects of an image, whose pixels end before right and bottom."""
    return [("crack", (2 + number, 3, 9 + number, 11)), ("stone", (14, 2, 22, 8)), ("crack", (15, 10, 27, 18))]


def box_mask(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def truth(number: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W): 0 for background, 1 and 2 for `NAMES`; and the numbers of objects."""
    label, instance = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32)
    for index, (name, box) in enumerate(boxes(number), start=1):
        label[box_mask(box)], instance[box_mask(box)] = NAMES.index(name) + 1, index
    return label, instance


def write_image(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def corners(box: tuple[int, int, int, int], last: int = 0) -> list[tuple[int, int]]:
    """Of the outline; with `last` 1 through the middle of the last pixels, as tools with closed borders have it."""
    left, top, right, bottom = box
    return [(left, top), (right - last, top), (right - last, bottom - last), (left, bottom - last)]


def write(path: Path, content: str | dict | list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco_document(names: list[str], segmentation, first_id: int = 1, **more) -> dict:
    """A COCO file; `segmentation` makes the mask of a box."""
    annotations = [
        {
            "id": 10 * number + index,
            "image_id": number,
            "category_id": NAMES.index(name) + first_id,
            "segmentation": segmentation(box),
            "iscrowd": 0,
            "area": int(box_mask(box).sum()),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            **more,
        }
        for number in range(len(names))
        for index, (name, box) in enumerate(boxes(number))
    ]
    images = [
        {"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for number, name in enumerate(names)
    ]
    categories = [{"id": index + first_id, "name": name, "supercategory": "none"} for index, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def flat_corners(box) -> list[list[float]]:
    return [[float(value) for point in corners(box) for value in point]]


def column_runs(mask: np.ndarray) -> list[int]:
    """Lengths of runs down the columns, the first outside."""
    return row_runs(mask.T)


def row_runs(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.reshape(-1), [not mask.reshape(-1)[-1]]])
    bounds = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], bounds])).tolist()


def coco_runs(box) -> dict:
    return {"size": list(SIZE), "counts": column_runs(box_mask(box))}


def write_coco(root: Path, segmentation=flat_corners) -> None:
    """As CVAT exports it."""
    for number in range(3):
        write_image(root / "images" / "default" / f"{number}.png", number)
    document = coco_document([f"{number}.png" for number in range(3)], segmentation)
    write(root / "annotations" / "instances_default.json", document)


def write_roboflow(root: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("valid", (0,))):
        for number in numbers:
            write_image(root / split / f"{number}.jpg", number)
        document = coco_document([f"{number}.jpg" for number in numbers], flat_corners)
        document["categories"] = [
            {"id": 0, "name": "walls", "supercategory": "none"},
            *({**category, "supercategory": "walls"} for category in document["categories"]),
        ]
        write(root / split / "_annotations.coco.json", document)
    write(root / "README.roboflow.txt", "walls")


def write_labelme(root: Path, kind: str = "polygon") -> None:
    for number in range(3):
        write_image(root / f"{number}.jpg", number)
        shapes = [labelme_shape(name, box, kind) for name, box in boxes(number)]
        document = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{number}.jpg", "imageData": None}
        write(root / f"{number}.json", document | {"imageHeight": SIZE[0], "imageWidth": SIZE[1]})


def labelme_shape(name: str, box: tuple[int, int, int, int], kind: str) -> dict:
    left, top, right, bottom = box
    points, mask = [list(point) for point in corners(box, last=1)], None
    if kind != "polygon":
        points = [[left, top], [right - 1, bottom - 1]]
    if kind == "mask":
        buffer = BytesIO()
        Image.fromarray(np.ones((bottom - top, right - left), bool)).save(buffer, "PNG")
        mask = base64.b64encode(buffer.getvalue()).decode()
    return {"label": name, "points": points, "group_id": None, "shape_type": kind, "flags": {}, "mask": mask}


def write_yolo(root: Path) -> None:
    for split, numbers in (("train", (0, 1)), ("val", (2,))):
        for number in numbers:
            write_image(root / "images" / split / f"{number}.jpg", number)
            lines = [yolo_line(name, box) for name, box in boxes(number)]
            write(root / "labels" / split / f"{number}.txt", "\n".join(lines))
    write(
        root / "data.yaml",
        "path: ../datasets/walls\ntrain: images/train\nval: images/val\nnames:\n  0: crack\n  1: stone\n",
    )


def yolo_line(name: str, box: tuple[int, int, int, int]) -> str:
    values = [f"{x / SIZE[1]:.6f} {y / SIZE[0]:.6f}" for x, y in corners(box, last=1)]
    return f"{NAMES.index(name)} {' '.join(values)}"


def write_voc(root: Path, colors: str = "palette", objects: bool = True) -> None:
    """VOC's folders with the labelmap of CVAT; `colors` of the PNGs: `palette`, `rgb`."""
    palette = [(0, 0, 0), (250, 50, 83), (51, 221, 255), (10, 200, 30), (90, 20, 100)]
    for number in range(3):
        write_image(root / "JPEGImages" / f"{number}.jpg", number)
        label, instance = truth(number)
        for folder, array in (("SegmentationClass", label), ("SegmentationObject", instance)):
            if folder == "SegmentationClass" or objects:
                save_colored(root / folder / f"{number}.png", array, palette, colors)
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", "crack:250,50,83::", "stone:51,221,255::"]
    write(root / "labelmap.txt", "\n".join(lines) + "\n")
    write(root / "ImageSets" / "Segmentation" / "train.txt", "0\n1\n")
    write(root / "ImageSets" / "Segmentation" / "val.txt", "2\n")


def save_colored(path: Path, array: np.ndarray, palette: list[tuple[int, int, int]], colors: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if colors == "rgb":
        Image.fromarray(np.array(palette, np.uint8)[array]).save(path)
        return
    image = Image.fromarray(array.astype(np.uint8), "P")
    image.putpalette([channel for color in palette for channel in color])
    image.save(path)


def write_cvat(root: Path, kind: str = "mask") -> None:
    for number in range(3):
        write_image(root / "images" / f"{number}.jpg", number)
    images = "".join(
        f'<image id="{n}" name="{n}.jpg" width="{SIZE[1]}" height="{SIZE[0]}">'
        + "".join(cvat_shape(name, box, kind) for name, box in boxes(n))
        + "</image>"
        for n in range(3)
    )
    labels = "".join(f"<label><name>{name}</name><color>#fa3253</color></label>" for name in NAMES)
    meta = f"<meta><job><id>1</id><labels>{labels}</labels></job></meta>"
    write(
        root / "annotations.xml",
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{meta}{images}</annotations>',
    )


def cvat_shape(name: str, box: tuple[int, int, int, int], kind: str) -> str:
    left, top, right, bottom = box
    if kind == "polygon":
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in corners(box))
        return f'<polygon label="{name}" source="manual" occluded="0" points="{points}" z_order="0"></polygon>'
    runs = row_runs(np.ones((bottom - top, right - left), bool))
    rle, size = ", ".join(map(str, runs)), f'width="{right - left}" height="{bottom - top}"'
    place = f'left="{left}" top="{top}" {size} z_order="0"'
    return f'<mask label="{name}" source="manual" occluded="0" rle="{rle}" {place}></mask>'


def brush_code(mask: np.ndarray) -> list[int]:
    """Label Studio's code of a mask, four bytes a pixel; runs are repeated values, single ones stand as they are."""
    values = np.repeat(mask.astype(np.uint8) * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{length - 1:04b}" for length in (3, 4, 8, 16))
    bounds = [0, *(np.flatnonzero(values[1:] != values[:-1]) + 1).tolist(), len(values)]
    for start, end in pairwise(bounds):
        length = end - start - 1
        size = next(number for number, width in enumerate((3, 4, 8, 16)) if length < 1 << width)
        repeated = length > 4
        bits += f"{repeated:b}{size:02b}{length:0{(3, 4, 8, 16)[size]}b}"
        bits += f"{values[start]:08b}" * (1 if repeated else length + 1)
    bits += "0" * (-len(bits) % 8)
    return [int(bits[first : first + 8], 2) for first in range(0, len(bits), 8)]


def write_label_studio(root: Path, kind: str = "brush", short: bool = False) -> None:
    """A JSON export, or with `short` a JSON-MIN export."""
    tasks = []
    for number in range(3):
        write_image(root / "images" / f"{number}.jpg", number)
        results = [label_studio_result(name, box, kind) for name, box in boxes(number)]
        address = f"/data/upload/7/0a1b2c3d-{number}.jpg"
        if short:
            results = [result["value"] | {"original_width": SIZE[1], "original_height": SIZE[0]} for result in results]
            tasks.append({"image": address, "id": number, "tag": results, "annotator": 1})
        else:
            tasks.append({"id": number, "data": {"image": address}, "annotations": [{"id": 1, "result": results}]})
    write(root / "project-7.json", tasks)


def label_studio_result(name: str, box: tuple[int, int, int, int], kind: str) -> dict:
    if kind == "brush":
        value = {"format": "rle", "rle": brush_code(box_mask(box)), "brushlabels": [name]}
    else:
        points = [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in corners(box)]
        value = {"points": points, "closed": True, "polygonlabels": [name]}
    size = {"original_width": SIZE[1], "original_height": SIZE[0], "image_rotation": 0}
    return size | {"value": value, "from_name": "tag", "to_name": "image", "type": f"{kind}labels"}
