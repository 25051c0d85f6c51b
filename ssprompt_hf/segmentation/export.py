"""Predictions as files that the scripts and servers of benchmarks read."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ..data.classes import IGNORE_INDEX
from ..errors import SSPromptError
from ..utils.arrays import as_array
from ..utils.files import atomic_path, told_when_full
from ..utils.names import relative_path, unique_names
from ..utils.run_length import coco_rle

SEMANTIC, INSTANCE, PANOPTIC = "semantic", "instance", "panoptic"
INSTANCES_JSON, PANOPTIC_JSON = "coco_instances.json", "panoptic.json"
IMAGE_SUFFIXES = ("_leftImg8bit", "_rgb_anon")
"""What names of images have and ids have not, in the JSON files of Cityscapes and of ACDC."""


def image_stems(file_names: Sequence[str]) -> list[str]:
    """
    What files about each image are called, without suffix: the image's name, with its folders if need be.

    Names come with the data, from whoever made it: what is returned stays below the folder that it is joined to, and
    is there once.
    """
    paths = [PurePosixPath(relative_path(name).replace(" ", "_")) for name in file_names]  # for Cityscapes' text files
    for choice in (lambda path: path.stem, lambda path: str(path.with_suffix("")), str):
        stems = [choice(path) for path in paths]
        if not _repeated(stems):
            return stems
    return unique_names(stems)


def _repeated(stems: Sequence[str]) -> bool:
    """Also where a file system takes `A` and `a` for one."""
    return len({stem.casefold() for stem in stems}) < len(stems)


def image_ids(stems: Sequence[str]) -> list[int | str]:
    """Ids in JSON files, where no JSON file of the data set says them: numbers where all names are numbers, as in
    COCO; else names, as in the files of Cityscapes and ACDC."""
    names = [Path(stem).name for stem in stems]
    for suffix in IMAGE_SUFFIXES:
        names = [name.removesuffix(suffix) for name in names]
    if all(name.isdecimal() for name in names) and len(set(map(int, names))) == len(names):
        return [int(name) for name in names]
    return names if len(set(names)) == len(names) else list(stems)


class PredictionExporter:
    """
    Writes predictions, image by image, so that memory does not grow with their number.

    * `semantic/<image>.png`: label ids. What the pixel-level script of Cityscapes and the server of ACDC read.
    * `instance/<image>.txt` with `instance/masks/`: lines of mask file, label id and score. What the instance-level
      script of Cityscapes reads.
    * `instance/coco_instances.json`: list of `image_id`, `category_id`, `segmentation` (compressed run-length code)
      and `score`. What `COCO.loadRes` reads.
    * `panoptic/<image>.png` with `panoptic.json`: ids of segments as colours (R + 256 G + 256**2 B), their label ids.
      What the panoptic scripts of COCO and Cityscapes read.

    The pixel-level and instance-level scripts of Cityscapes (2.3.0, the newest) call `np.in1d`, which numpy 2.4 took
    away: run them with an earlier numpy. Its panoptic script, panopticapi and pycocotools run with any.

    Args:
        directory: to write to.
        file_names: of all images, in the order of the data set.
        label_ids: one id a class, as the benchmark numbers them; the ids of a data set's `classes`.
        num_processes, process_index: who writes; every process adds its own images.
        ids: `image_id` of each image, as the panoptic or instances JSON of the data set has them; by default made of
            the names.
        semantic_ids: one id a class for `semantic/`, where they differ from `label_ids`.

    Raises:
        SSPromptError: an id is negative or too large for a label file.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        file_names: Sequence[str],
        label_ids: Sequence[int],
        num_processes: int = 1,
        process_index: int = 0,
        ids: Sequence[int | str] | None = None,
        semantic_ids: Sequence[int] | None = None,
    ):
        self.directory, self.label_ids = Path(directory), [int(number) for number in label_ids]
        self.semantic_ids = self.label_ids if semantic_ids is None else [int(number) for number in semantic_ids]
        for numbers in (self.label_ids, self.semantic_ids):
            if numbers and not 0 <= min(numbers) <= max(numbers) < 2**16:
                raise SSPromptError(f"Label ids run from {min(numbers)} to {max(numbers)}; files hold 0 to 65535.")
        self.stems = image_stems(file_names)
        self.ids = image_ids(self.stems) if ids is None else list(ids)
        self.num_processes, self.process_index = num_processes, process_index
        for name in (INSTANCES_JSON, PANOPTIC_JSON):
            self._part(name, process_index).unlink(missing_ok=True)  # of a run that did not end

    def add_semantic(self, index: int, class_map: Any) -> None:
        """Image `index`: (H, W) class indices, 255 for none, which is written as 0 or, where that is a class, as 255
        or 65535."""
        class_map = as_array(class_map)
        none = next(number for number in (0, IGNORE_INDEX, 2**16 - 1) if number not in self.semantic_ids)
        is_small = max(none, *self.semantic_ids) < 256
        table = np.full(IGNORE_INDEX + 1, none, np.uint8 if is_small else np.uint16)
        table[: len(self.semantic_ids)] = self.semantic_ids
        self._save(f"{SEMANTIC}/{self.stems[index]}.png", table[class_map])

    def add_instances(self, index: int, masks: Any, mask_of: Any, labels: Any, scores: Any) -> None:
        """Image `index`: bool (M, H, W) masks, and of N instances the mask, class index and score. Empty ones are left
        out."""
        masks, mask_of, labels, scores = (as_array(x) for x in (masks, mask_of, labels, scores))
        filled = [bool(mask.any()) for mask in masks]
        codes, files = {}, {}
        lines, entries = [], []
        stem = self.stems[index]
        for mask, label, score in zip(mask_of.tolist(), labels.tolist(), scores.tolist()):
            if not filled[mask]:
                continue
            if mask not in codes:
                codes[mask] = coco_rle(masks[mask])
            # the script of Cityscapes knows masks by their file, so that each instance needs one of its own
            number = len(lines)
            files[number] = f"masks/{stem}_{number:03d}.png"
            self._save(f"{INSTANCE}/{files[number]}", masks[mask])
            path = os.path.relpath(files[number], Path(stem).parent)
            lines.append(f"{path} {self.label_ids[label]} {score!r}\n")
            entries.append(
                {
                    "image_id": self.ids[index],
                    "category_id": self.label_ids[label],
                    "segmentation": codes[mask],
                    "score": score,
                }
            )
        with atomic_path(self.directory / INSTANCE / f"{stem}.txt", durable=False) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        self._append(INSTANCES_JSON, index, entries)

    def add_panoptic(self, index: int, segmentation: Any, segments_info: Iterable[Mapping[str, Any]]) -> None:
        """Image `index`: (H, W) ids of segments, 0 for none, and their `id` and `label_id`."""
        segmentation = as_array(segmentation).astype(np.int64)
        areas = np.bincount(segmentation.reshape(-1))
        infos = [info for info in segments_info if info["id"] < len(areas) and areas[info["id"]]]
        pixels = np.stack([segmentation >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        name = f"{self.stems[index]}.png"
        self._save(f"{PANOPTIC}/{name}", pixels)
        segments = [
            {"id": info["id"], "category_id": self.label_ids[info["label_id"]], "area": int(areas[info["id"]])}
            for info in infos
        ]
        entry = {"image_id": self.ids[index], "file_name": name, "segments_info": segments}
        self._append(PANOPTIC_JSON, index, [entry])

    def finish(self) -> None:
        """Joins what the processes wrote into JSON files; to be called once, by one process, when all are done."""
        if any(self._parts(INSTANCES_JSON)):
            self._join(INSTANCES_JSON, self.directory / INSTANCE / INSTANCES_JSON, "[", "]")
        if any(self._parts(PANOPTIC_JSON)):
            self._join(PANOPTIC_JSON, self.directory / PANOPTIC_JSON, '{"annotations": [', "]}")
        shutil.rmtree(self.directory / ".parts", ignore_errors=True)

    def _save(self, name: str, pixels: np.ndarray) -> None:
        # not durable: thousands of pictures, each of which can be made again
        with atomic_path(self.directory / name, durable=False) as temporary:
            Image.fromarray(pixels).save(temporary, compress_level=1)

    def _part(self, name: str, process: int) -> Path:
        return self.directory / ".parts" / f"{name}.{process}of{self.num_processes}"

    def _parts(self, name: str) -> Iterator[Path]:
        parts = (self._part(name, process) for process in range(self.num_processes))
        return (part for part in parts if part.is_file())

    def _append(self, name: str, index: int, entries: list[dict]) -> None:
        part = self._part(name, self.process_index)
        part.parent.mkdir(parents=True, exist_ok=True)
        with told_when_full(part), open(part, "a", encoding="ascii") as file:
            file.write(f"{index}\t{json.dumps(entries)[1:-1]}\n")

    def _join(self, name: str, target: Path, start: str, end: str) -> None:
        """In the order of the data set, each image once, reading one image at a time."""
        lines: dict[int, tuple[Path, int]] = {}
        for part in self._parts(name):
            with open(part, "rb") as file:
                offset = 0
                for line in file:
                    lines[int(line.split(b"\t", 1)[0])] = part, offset
                    offset += len(line)
        with atomic_path(target) as temporary, open(temporary, "w", encoding="ascii") as out:
            out.write(start)
            separator = "\n"
            for index in sorted(lines):
                part, offset = lines[index]
                with open(part, "rb") as file:
                    file.seek(offset)
                    entries = file.readline().split(b"\t", 1)[1].decode("ascii").strip()
                if entries:
                    out.write(separator + entries)
                    separator = ",\n"
            out.write(f"\n{end}\n")
