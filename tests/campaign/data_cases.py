"""Damaged images, labels and annotation files."""

import json
import os
import random
import socket
from functools import partial
from pathlib import Path
from typing import Any

import annotation_files
import datasets
import numpy as np
import torch
from judging import Damage, Prepared, Refused, compare, run_command
from mutations import damage_bytes, damage_json
from PIL import Image

from ssprompt_hf.data import SegmentationDataset, load_segmentation_dataset
from ssprompt_hf.data.folder_report import open_splits


def images(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A folder of two good images and a bad one: the good ones are done whatever the bad one is."""
    pictures = folder / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.fromarray(prepared.image).save(pictures / f"good-{index}.png")
    change = _bad_image(rng, pictures, prepared.image)
    code = run_command(
        *("predict", pictures, "--base_model", prepared.base, "--adapter", prepared.adapters[0]),
        *("--output_dir", folder / "output"),
    )
    if code not in (0, 2):
        raise Damage("raw traceback", f"exit code {code}: {change}")
    missing = [name for name in ("good-0.png", "good-1.png") if not (folder / "output" / name).is_file()]
    if missing:
        raise Damage("work lost", f"{missing[0]} was not done because of another image: {change}")
    for name in ("good-0.png", "good-1.png"):
        found = torch.from_numpy(np.asarray(Image.open(folder / "output" / name)).astype(np.int64))
        compare({"label map": found}, {"label map": prepared.answers[0]["label map"]}, change)
    if code:
        raise Refused(change)
    return change


def _bad_image(rng: random.Random, folder: Path, image: np.ndarray) -> str:
    way = rng.choice(
        [
            "bytes",
            "bytes",
            "jpeg",
            "mode",
            "thin",
            "long name",
            "odd name",
            "pipe",
            "loop",
            "dangling",
            "huge",
            "socket",
        ]
    )
    path = folder / "bad.png"
    if way in ("bytes", "jpeg"):
        path = path.with_suffix(".png" if way == "bytes" else ".jpg")
        Image.fromarray(image).save(path)
        return damage_bytes(path, rng)
    if way == "mode":
        mode = rng.choice(["1", "L", "LA", "P", "RGBA", "I", "I;16", "F"])
        kind = "TIFF" if mode == "F" else "PNG"
        grey = Image.fromarray(image).convert("L")
        made = grey.convert("I").convert("I;16") if mode == "I;16" else grey.convert(mode)
        made.save(path.with_suffix(f".{kind.lower()}"), kind)
        return f"mode {mode}"
    if way == "thin":
        size = rng.choice([(1, 1), (1, 5000), (5000, 1), (2, 3)])
        Image.new("RGB", size).save(path)
        return f"{size[0]}x{size[1]} pixels"
    if way in ("long name", "odd name"):
        name = b"x" * 240 if way == "long name" else rng.choice([b"caf\xe9", b"a\nb", b"\x1b[31mred", b"%s", b"-rf"])
        path = os.path.join(os.fsencode(folder), name + b".png")
        Image.fromarray(image).save(folder / "bad.png")
        os.rename(folder / "bad.png", path)
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "loop":
        for name in ("a", "b"):
            (folder / name).symlink_to(".")
    elif way == "dangling":
        path.symlink_to("nowhere.png")
    elif way == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            here = os.open(folder, os.O_RDONLY)
            os.chdir(here)
            one.bind("bad.png")
    else:
        Image.new("1", (12_000, 9_000)).save(path)
    return way


def labels(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A labelled folder with a damaged file in it is read from end to end."""
    root = folder / "data"
    for index in range(3):
        for kind, array in (("images", prepared.image), ("annotations", np.full((32, 64), index, np.uint8))):
            path = root / kind / "train" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    (root / "classes.txt").write_text("road\ncar\nsky\n")
    path = rng.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    change = damage_bytes(path, rng)
    if path.suffix == ".png" and rng.random() < 0.3 and not path.exists():
        change = _bad_image(rng, path.parent, prepared.image)
    dataset = load_segmentation_dataset(data_dir=root, split="train")
    for index in range(len(dataset)):
        label = dataset[index]["label"]
        if label.shape != (32, 64) or not set(np.unique(label)) <= {0, 1, 2, 255}:
            raise Damage("silent damage", f"{change}: labels {np.unique(label)}")
    return change


# the writers of each format take further options: polygons or masks, objects or not
FORMATS = [
    partial(annotation_files.write_coco),
    partial(annotation_files.write_coco, segmentation=annotation_files.coco_runs),
    partial(annotation_files.write_roboflow),
    partial(annotation_files.write_labelme),
    partial(annotation_files.write_labelme, kind="mask"),
    partial(annotation_files.write_yolo),
    partial(annotation_files.write_voc),
    partial(annotation_files.write_voc, colors="rgb"),
    partial(annotation_files.write_cvat),
    partial(annotation_files.write_cvat, kind="polygon"),
    partial(annotation_files.write_label_studio),
    partial(annotation_files.write_label_studio, kind="polygon"),
]


def label_formats(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """
    A folder of an annotation tool with one damaged file is looked at and converted: what was converted holds the
    labels that are read from the damaged folder itself, and a refused conversion leaves nothing.
    """
    source, output = folder / "source", folder / "output" / "plain"
    source.mkdir()
    rng.choice(FORMATS)(source)
    path = rng.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    damage = rng.choice([damage_json, damage_json, damage_bytes]) if path.suffix == ".json" else damage_bytes
    change = damage(path, rng)
    code = run_command("data", source, "--convert", output)
    if code:
        if output.exists():
            raise Damage("half-written file", f"{change}: refused, but {output.name} is there")
        raise Refused(f"exit code {code}: {change}")
    originals = open_splits(source)
    for name, dataset in open_splits(output).items():
        # one split that is not named is written without a folder of its own
        original = originals.get(name) or next(iter(originals.values()))
        for index, example in enumerate(dataset):
            before = original[index]
            for kind in ("label", "instance"):
                if kind in before and before[kind].max() != before[kind].min():
                    _compare_maps(kind, _named(before, original, kind), _named(example, dataset, kind), change)
    return change


def _named(example: dict[str, Any], dataset: SegmentationDataset, kind: str) -> np.ndarray:
    """Labels by their names, as ids may have changed; objects by their numbers."""
    if kind == "instance":
        return example[kind]
    return np.array([*dataset.classes.names, *[""] * (256 - len(dataset.classes))])[example[kind]]


def _compare_maps(kind: str, expected: np.ndarray, found: np.ndarray, change: str) -> None:
    pairs = set(zip(expected.ravel().tolist(), found.ravel().tolist()))
    same = all(one == other for one, other in pairs) if kind == "label" else len({a for a, _ in pairs}) == len(pairs)
    if expected.shape != found.shape or not same:
        raise Damage("silent damage", f"{change}: converted to another {kind} map")


def hub_table(rng: random.Random, folder: Path, prepared: Prepared) -> str:
    """A table of images as the Hub keeps them, Parquet or written by `save_to_disk`, with one damaged file."""
    rows = {
        "image": [prepared.image] * 2,
        "label": [np.full((32, 64), number, np.uint8) for number in (1, 2)],
    }
    features = datasets.Features(image=datasets.Image(), label=datasets.Image())
    table, source = datasets.Dataset.from_dict(rows, features), folder / "source"
    if rng.random() < 0.5:
        table.save_to_disk(source)
    else:
        (source / "data").mkdir(parents=True)
        table.to_parquet(source / "data" / "train-00000-of-00001.parquet")
    (source / "classes.json").write_text(json.dumps(["road", "car", "sky"]))
    path = rng.choice(sorted(path for path in source.rglob("*") if path.is_file()))
    damages = [damage_json, damage_bytes] if path.suffix == ".json" else [damage_bytes]
    change = rng.choice(damages)(path, rng)
    dataset = load_segmentation_dataset(data_dir=source, split="train")
    for index in range(len(dataset)):
        label = dataset[index]["label"]
        if not set(np.unique(label)) <= {0, 1, 2, 255}:
            raise Damage("silent damage", f"{change}: labels {np.unique(label)}")
    return change
