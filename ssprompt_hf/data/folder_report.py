"""What a folder of labelled images holds, for people."""

import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from ..errors import DatasetError
from ..utils.text import printable
from .classes import IGNORE_INDEX, ClassesLike, resolve_classes
from .dataset import SegmentationDataset
from .loading import dataset_splits, load_segmentation_dataset
from .sources.hub import is_hub_folder
from .sources.label_formats.catalog import read_labelled_folder

UNDIVIDED = "all"


@dataclass
class SplitReport:
    """
    Args:
        images: how many there are.
        sizes: "width x height" -> images of this size, the most frequent first.
        pixels: class name -> its pixels.
        ignored_pixels: those of no class.
        images_of: class name -> images that show it.
        instances: class name -> objects, of things.
    """

    images: int
    sizes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    ignored_pixels: int = 0
    images_of: dict[str, int] = field(default_factory=dict)
    instances: dict[str, int] = field(default_factory=dict)


@dataclass
class FolderReport:
    """
    Args:
        folder: what was looked at.
        format: the label format, and by what it was recognised.
        classes: names, ids and kinds.
        splits: what each split holds; `UNDIVIDED` where there are none.
        problems: a line each.
    """

    folder: str
    format: str
    classes: list[dict[str, Any]]
    splits: dict[str, SplitReport]
    problems: list[str]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def open_splits(
    folder: str | os.PathLike, classes: ClassesLike | None = None, **options: Any
) -> dict[str, SegmentationDataset]:
    """
    All splits of a folder by name; `UNDIVIDED` where there are none.

    Args:
        folder, classes, options: as of `load_segmentation_dataset`.

    Raises:
        DatasetError: as `load_segmentation_dataset`.
    """
    names = dataset_splits(None, folder, classes, **options)
    if names:
        return {name: load_segmentation_dataset(None, folder, name, classes, **options) for name in names}
    return {UNDIVIDED: load_segmentation_dataset(None, folder, "train", classes, **options)}


def report_folder(
    folder: str | os.PathLike,
    splits: dict[str, SegmentationDataset],
    classes: ClassesLike | None = None,
    **options: Any,
) -> FolderReport:
    """
    Reads every image and label of all splits.

    Args:
        splits: as of `open_splits`.
        folder, classes, options: with which they were opened.
    """
    first = next(iter(splits.values()))
    infos = [{"name": info.name, "id": info.id, "thing": info.thing} for info in first.classes.classes]
    title, problems = _format(Path(folder), classes, options)
    report = FolderReport(str(folder), title, infos, {}, problems)
    for split, dataset in splits.items():
        report.splits[split] = _report_split(dataset, problems)
    shown = Counter()
    for part in report.splits.values():
        shown.update(part.images_of)
    problems += [f"no label shows the class {info['name']!r}" for info in infos if not shown[info["name"]]]
    problems += _repeated(splits)
    return report


def _format(folder: Path, classes: ClassesLike | None, options: dict[str, Any]) -> tuple[str, list[str]]:
    if is_hub_folder(folder, classes):
        return "Hugging Face data set", []
    found = read_labelled_folder(folder, None if classes is None else resolve_classes(classes), **options)
    if found is None:
        return "images and label images", []
    return f"{found.format} ({found.evidence})", list(found.problems)


def _report_split(dataset: SegmentationDataset, problems: list[str]) -> SplitReport:
    names, things = dataset.classes.names, set(dataset.classes.thing_indices)
    report = SplitReport(len(dataset), pixels=dict.fromkeys(names, 0), images_of=dict.fromkeys(names, 0))
    report.instances = {names[index]: 0 for index in sorted(things)}
    sizes: Counter[str] = Counter()
    has_instances = False
    for index in logging.tqdm(range(len(dataset)), desc="reading", disable=len(dataset) < 100):
        try:
            example = dataset[index]
        except DatasetError as error:
            problems.append(str(error))
            continue
        height, width = example["label"].shape
        sizes[f"{width}x{height}"] += 1
        counts = np.bincount(example["label"].ravel(), minlength=IGNORE_INDEX + 1)
        report.ignored_pixels += int(counts[IGNORE_INDEX])
        if counts[IGNORE_INDEX] == example["label"].size:
            problems.append(f"{example['file_name']}: no pixel has a class")
        for number, name in enumerate(names):
            report.pixels[name] += int(counts[number])
            report.images_of[name] += bool(counts[number])
        if "instance" in example:
            has_instances = True
            pairs = np.unique(np.stack([example["label"], example["instance"]]).reshape(2, -1), axis=1)
            for number, instance in pairs.T.tolist():
                if number in things and instance:
                    report.instances[names[number]] += 1
    report.instances = report.instances if has_instances else {}
    report.sizes = dict(sizes.most_common())
    return report


def _repeated(splits: dict[str, SegmentationDataset]) -> list[str]:
    """Images that are in two splits."""
    found, seen = [], {}
    for split, dataset in splits.items():
        if not hasattr(dataset.source, "image_ids"):
            continue
        for key, name in zip(dataset.source.image_ids(dataset.rows), dataset.file_names):
            if seen.setdefault(key, split) != split:
                found.append(f"{name} is in {seen[key]} and in {split}: scores on it say nothing about unseen images")
    return found


def describe_folder(report: FolderReport) -> str:
    """A report as text for a terminal."""
    parts = [
        f"{'not divided' if split == UNDIVIDED else printable(split)}: {part.images} images"
        for split, part in report.splits.items()
    ]
    sizes: Counter[str] = Counter()
    for part in report.splits.values():
        sizes.update(part.sizes)
    shown = [f"{size} ({count})" for size, count in sizes.most_common(6)]
    more = f" and {len(sizes) - 6} other sizes" if len(sizes) > 6 else ""
    total = sum(sum(part.pixels.values()) + part.ignored_pixels for part in report.splits.values()) or 1
    ignored = sum(part.ignored_pixels for part in report.splits.values())
    has_instances = any(part.instances for part in report.splits.values())
    width = max(len("class"), *(len(printable(info["name"])) for info in report.classes))
    head = f"{'class':<{width}}     id  kind   pixels  images" + "  instances" * has_instances
    lines = [
        printable(f"{report.folder}: {report.format}"),
        f"splits   {', '.join(parts)}",
        f"sizes    {', '.join(shown)}{more}",
        f"ignored  {100 * ignored / total:.1f} % of all pixels",
        head,
    ]
    for info in report.classes:
        name = info["name"]
        pixels = sum(part.pixels[name] for part in report.splits.values())
        images = sum(part.images_of[name] for part in report.splits.values())
        kind = "thing" if info["thing"] else "stuff"
        line = f"{printable(name):<{width}}  {info['id']:>5}  {kind}  {100 * pixels / total:>4.1f} %  {images:>6}"
        if has_instances and info["thing"]:
            line += f"  {sum(part.instances.get(name, 0) for part in report.splits.values()):>9}"
        lines.append(line)
    lines.append("problems" if report.problems else "no problems")
    return "\n".join(lines + [f"  {printable(' '.join(problem.split()))}" for problem in report.problems])
