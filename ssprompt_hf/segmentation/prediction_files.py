"""The files of `ssprompt-hf predict`."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..data.downloads import is_address
from ..errors import SSPromptError
from ..utils.files import atomic_path, write_json
from .files import CocoDataset, coco_annotation
from .prompted import PromptedResult
from .results import SegmentationResult

ENDINGS = (".png", "-overlay.png", "-instances.png")
"""Of the files of an image: label map or masks, overlay, instance map."""

SEGMENTS, COCO = "segments.json", "coco.json"

MAX_NAME_BYTES = 200
"""File systems take names of 255 bytes, of which endings and temporary files need a part."""


def output_names(images: list[str]) -> list[str]:
    """Their names without suffix, shortened where they are too long, and numbered where a file of an earlier image
    would be written over."""
    names, taken = [], set()
    for image in images:
        path = unquote(urlsplit(image).path).rstrip("/") if is_address(image) else image
        stem = _as_text(Path(path).stem or "image")
        stem = name = stem.encode()[:MAX_NAME_BYTES].decode("utf-8", "ignore")
        number = 0
        # in lower case, as some file systems do not tell a.png from A.png
        while taken & (files := {f"{name}{ending}".lower() for ending in ENDINGS}):
            number += 1
            name = f"{stem}-{number}"
        taken |= files
        names.append(name)
    return names


def _as_text(path: str) -> str:
    """A path as the JSON files can hold it: bytes that are no UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def spare_inputs(images: list[str], folder: Path, names: list[str]) -> None:
    """
    Raises:
        SSPromptError: an output is the file of one of the images, by whatever path.
    """
    inputs = {(status.st_dev, status.st_ino) for status in map(os.stat, filter(os.path.exists, images))}
    for output in (folder / f"{name}{ending}" for name in names for ending in ENDINGS):
        if output.exists() and (output.stat().st_dev, output.stat().st_ino) in inputs:
            raise SSPromptError(
                f"{output} is one of the images and would be written over: choose another --output_dir"
            )


class PredictionFiles:
    """
    Writes, for every image, `<name>.png` and `<name>-overlay.png`, for instance and panoptic segmentation
    `<name>-instances.png`, and for all images together `segments.json` and, where there are single masks, `coco.json`:
    a data set of COCO with scores, in which masks are run-length codes.

    Args:
        folder: to write to; made if need be.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.found: dict[str, Any] = {}
        self.coco = CocoDataset()

    def add(self, name: str, image: str, result: SegmentationResult | PromptedResult) -> None:
        """Write the files of one image; raises OSError if they cannot be written."""
        self._save(f"{name}.png", result.save)
        self._save(f"{name}-overlay.png", lambda path: result.overlay(legend=True).save(path))
        if isinstance(result, PromptedResult):
            annotations = self._add_prompted(name, result)
        else:
            annotations = [] if result.task == "semantic" else result.coco_annotations()
            self.found[name] = [vars(segment) for segment in result.segments]
            if result.task != "semantic":
                self._save(f"{name}-instances.png", result.save_instances)
                ids = result.class_ids or range(len(result.class_names))
                self.coco.categories |= dict(zip(ids, result.class_names))
        self.coco.add(_as_text(image), result.image.size, annotations)

    def _add_prompted(self, name: str, result: PromptedResult) -> list[dict]:
        """Segments under their phrases, or "object"; the annotations of their masks."""
        self.found[name] = {
            "segments": [
                {"id": number, "name": one.name, "score": one.score, "area": one.area, "box": one.box}
                for number, one in enumerate(result.segments, start=1)
            ],
            "phrases": result.phrases,
        }
        annotations = []
        for one in result.segments:
            label = one.label or "object"
            known = {text: number for number, text in self.coco.categories.items()}
            category = known.get(label, len(known) + 1)
            self.coco.categories[category] = label
            if one.area:
                annotations.append(coco_annotation(one.mask, category, one.score))
        return annotations

    def finish(self) -> None:
        """Write what is about all images."""
        write_json(self.folder / SEGMENTS, self.found)
        if self.coco.categories:
            write_json(self.folder / COCO, self.coco.to_dict())

    def _save(self, name: str, save) -> None:
        with atomic_path(self.folder / name) as temporary:
            save(temporary)
