"""K-shot selection: a small set of training images in which every class occurs at least K times."""

import hashlib
import itertools
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from ..errors import DatasetError, MissingClassError, SSPromptError, TooFewImagesError
from ..utils.files import atomic_path
from .classes import IGNORE_INDEX
from .dataset import SegmentationDataset
from .datasets.layouts import default_cache_dir

logger = logging.get_logger(__name__)

PARALLEL_FROM = 256
"""Images from which on labels are counted by several processes; fewer are done before the processes have started."""


@dataclass(frozen=True)
class LabelStatistics:
    """How often each class occurs in each image.

    Args:
        file_names: N names.
        pixel_counts: int64 (N, K), pixels of class k in image n; ignored pixels are not counted.
        assumed_ignored: pixels of the id 255 in all images, if it is ignored only because nobody wrote which id is.
    """

    file_names: list[str]
    pixel_counts: np.ndarray
    assumed_ignored: int = 0

    def images_per_class(self, min_pixels: int = 1) -> np.ndarray:
        """int64 (K,): images with at least `min_pixels` pixels of each class."""
        return (self.pixel_counts >= min_pixels).sum(0)

    def vanished_classes(self, class_names: Sequence[str]) -> str:
        """What to tell the user of classes that no image shows while pixels are ignored unasked; else an empty text.

        The second class of a 0/255 mask is lost in this way, and a score over the first alone looks perfect.
        """
        missing = [name for name, count in zip(class_names, self.pixel_counts.sum(0)) if count == 0]
        if not missing or not self.assumed_ignored:
            return ""
        return (
            f"No label shows {', '.join(map(repr, missing))}, but {self.assumed_ignored} pixels have the id "
            f"{IGNORE_INDEX}, which is ignored because the class list does not say otherwise. If {IGNORE_INDEX} is a "
            f"class, as in 0/{IGNORE_INDEX} masks, give the class this id and set `ignore_id` to another value or "
            f'null, in classes.json: {{"classes": [..., {{"id": {IGNORE_INDEX}, "name": "{missing[-1]}"}}], '
            f'"ignore_id": null}}. If it is none, `"ignore_id": {IGNORE_INDEX}` there says so.'
        )


def label_statistics(
    dataset: SegmentationDataset, cache_dir: str | os.PathLike | None = None, num_workers: int | None = None
) -> LabelStatistics:
    """Reads every label of `dataset` once and counts its classes.

    The counts are kept, one small `.npz` a data set, and found again by the data set's fingerprint (names, sizes and
    times of the label files, class ids and colours), without opening a label. A warning tells of classes that no label
    shows while pixels are ignored that the class list does not call ignored; not of a part of a data set.

    Args:
        dataset: the images to choose from.
        cache_dir: folder for the counts; by default under the Hugging Face cache, for data sets that are read from
            files or tables. Drawn scenes are kept only in a folder that is given.
        num_workers: processes that read labels; by default one a core, up to 8, for data sets of at least
            `PARALLEL_FROM` images, and none for smaller ones.

    Raises:
        DatasetError: a label is damaged, or holds an unknown id; the subclass and the message say which.
    """
    if cache_dir is None and getattr(dataset.source, "table", None) is not None:
        cache_dir = default_cache_dir()
    file = None if cache_dir is None else Path(cache_dir) / f"label-statistics-{dataset.fingerprint}.npz"
    stored = None if file is None else _stored_counts(file, len(dataset), len(dataset.classes))
    if stored is not None:
        return _statistics(dataset, *stored)
    if num_workers is None:
        num_workers = min(8, os.cpu_count() or 1) if len(dataset) >= PARALLEL_FROM else 0
    batches = DataLoader(_LabelCounts(dataset), batch_size=16, num_workers=num_workers, collate_fn=list)
    progress = logging.tqdm(batches, desc="counting classes", disable=len(dataset) < PARALLEL_FROM)
    counts = []
    for count in itertools.chain.from_iterable(progress):
        if isinstance(count, DatasetError):
            raise count
        counts.append(count)
    counts = np.stack(counts)
    pixel_counts, ignored_counts = counts[:, :-1], counts[:, -1]
    if file is not None:
        try:
            with atomic_path(file) as temporary:
                np.savez(temporary, pixel_counts=pixel_counts, ignored_counts=ignored_counts)
        except OSError as error:
            logger.warning(f"the label statistics cannot be kept in {file.parent} ({error})")
    return _statistics(dataset, pixel_counts, ignored_counts)


def _stored_counts(file: Path, images: int, classes: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What was counted before: int64 (images, classes) and (images,); None if it is not there, or damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:  # a zip file, with a checksum of each array
            pixel_counts, ignored_counts = stored["pixel_counts"], stored["ignored_counts"]
        if (pixel_counts.shape, ignored_counts.shape) != ((images, classes), (images,)):
            raise ValueError(f"counts of {pixel_counts.shape}, not of {images} images with {classes} classes")
        if {pixel_counts.dtype, ignored_counts.dtype} != {np.dtype(np.int64)}:
            raise ValueError(f"counts of the type {pixel_counts.dtype}")
        return pixel_counts, ignored_counts
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever numpy, zipfile and zlib make of other bits
        logger.warning(f"{file} is damaged ({error}): the labels are counted again")
        return None


def _statistics(dataset: SegmentationDataset, pixel_counts: np.ndarray, ignored_counts: np.ndarray) -> LabelStatistics:
    assumed = int(ignored_counts.sum()) if dataset.classes.ignore_is_assumed else 0
    statistics = LabelStatistics(dataset.file_names, pixel_counts, assumed)
    message = statistics.vanished_classes(dataset.classes.names)
    if message and len(dataset) == len(dataset.source.file_names):  # a few images need not show every class
        logger.warning(f"{dataset.name}: {message}")
    return statistics


class _LabelCounts(Dataset):
    """int64 (K + 1,) pixels of each class in each label, and of ignored ones; or what is wrong with a label, as an
    error that a worker raises arrives with the worker's traceback for a message."""

    def __init__(self, dataset: SegmentationDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> np.ndarray | DatasetError:
        try:
            counts = np.bincount(self.dataset.read_label(index).ravel(), minlength=256)
        except DatasetError as error:
            return error
        return counts[[*range(len(self.dataset.classes)), IGNORE_INDEX]].astype(np.int64)


@dataclass(frozen=True)
class FewShotSelection:
    """Chosen images, in the order in which they were chosen.

    Args:
        indices: positions in the data set.
        file_names: their names.
        shots: K.
        mode: `"per_class"` or `"total"`.
        seed: what decided between equals.
        images_per_class: class name -> chosen images that show it.
    """

    indices: list[int]
    file_names: list[str]
    shots: int
    mode: str
    seed: int
    images_per_class: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Everything but `indices`, for an adapter's config."""
        data = asdict(self)
        del data["indices"]
        return data


def select_shots(
    statistics: LabelStatistics,
    class_names: Sequence[str],
    shots: int,
    seed: int = 0,
    mode: str = "per_class",
    min_pixels: int = 1,
    allow_fewer: bool = False,
) -> FewShotSelection:
    """Greedy K-shot selection.

    The image that shows the most classes still short of K is taken, until none is short. Between equals decides an
    order drawn from the seed and the file names alone: neither the order of the files nor the machine matters.

    Args:
        statistics: counts of the images to choose from.
        class_names: K names, for messages and the record.
        shots: images for each class (`"per_class"`), or images in all (`"total"`), at least 1.
        seed: another seed, another choice.
        mode: `"per_class"`, or `"total"`: exactly `shots` images, chosen so that every class occurs once, then twice,
            and so on, as far as they reach.
        min_pixels: a class with fewer pixels does not count as occurring.
        allow_fewer: take all images of a class that has fewer than `shots` (or none) instead of raising.

    Raises:
        MissingClassError: `"per_class"` and a class occurs in no image.
        TooFewImagesError: fewer images than shots, in all or of a class.
        SSPromptError: `shots` or `mode` is not one of the above.
    """
    if isinstance(shots, bool) or not isinstance(shots, (int, np.integer)) or shots < 1:
        raise SSPromptError(f"`shots` must be an integer of 1 or more, not {shots!r}.")
    if mode not in ("per_class", "total"):
        raise SSPromptError(f"`mode` (--shot_mode) must be 'per_class' or 'total', not {mode!r}.")
    shows = statistics.pixel_counts >= min_pixels
    available = shows.sum(0)
    if mode == "total":
        if len(shows) < shots and not allow_fewer:
            raise TooFewImagesError(
                f"{shots} images wanted, {len(shows)} there. Lower `shots` (--shots), add images, or pass "
                "allow_fewer=True (--allow_fewer)."
            )
    elif not allow_fewer:
        _check_available(available, class_names, shots, min_pixels, statistics.vanished_classes(class_names))

    order = seeded_order(statistics.file_names, seed)
    chosen: list[int] = []
    have = np.zeros(shows.shape[1], np.int64)
    # "per_class" is one round with the goal K; "total" raises the goal by one whenever a round is done
    goal = shots if mode == "per_class" else 1
    limit = len(shows) if mode == "per_class" else min(shots, len(shows))
    rest = np.ones(len(shows), bool)
    while len(chosen) < limit:
        short = have < np.minimum(goal, available)
        if not short.any():
            if mode == "per_class":
                break
            if goal < available.max(initial=0):
                goal += 1
                continue
            # nothing more to learn from: images without any class fill up
        gain = np.where(rest, shows[:, short].sum(1), -1)[order]
        best = int(order[gain.argmax()])
        chosen.append(best)
        rest[best] = False
        have += shows[best]
    return FewShotSelection(
        indices=chosen,
        file_names=[statistics.file_names[index] for index in chosen],
        shots=int(shots),
        mode=mode,
        seed=int(seed),
        images_per_class={name: int(count) for name, count in zip(class_names, have)},
    )


def seeded_order(file_names: Sequence[str], seed: int) -> np.ndarray:
    """Positions sorted by a digest of seed and name: no generator whose stream could change between versions."""
    keys = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in file_names]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)


def _check_available(
    available: np.ndarray, class_names: Sequence[str], shots: int, min_pixels: int, vanished: str
) -> None:
    table = ", ".join(f"{name}: {count}" for name, count in zip(class_names, available))
    counted = f"Images with at least {min_pixels} {'pixel' if min_pixels == 1 else 'pixels'} of each class: {table}."
    counted = f"{counted} {vanished}".rstrip()
    missing = [name for name, count in zip(class_names, available) if count == 0]
    if missing:
        raise MissingClassError(
            f"No training image shows {', '.join(map(repr, missing))}. Take it out of the class file (and list its id "
            f'under "ignore_id"), add images that show it, or pass allow_fewer=True (--allow_fewer). {counted}'
        )
    scarce = [name for name, count in zip(class_names, available) if count < shots]
    if scarce:
        raise TooFewImagesError(
            f"{shots} shots of each class wanted, but fewer images show {', '.join(map(repr, scarce))}. Use at most "
            f"{available.min()} shots, add images, or pass allow_fewer=True (--allow_fewer). {counted}"
        )
