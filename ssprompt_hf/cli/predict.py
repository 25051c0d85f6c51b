"""`ssprompt-hf predict`: image files to label maps and overlays."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

from ..errors import NoImagesError, SSPromptError, UnreadableFileError
from ..models.registry import DEFAULT_BASE_MODEL
from ..utils.text import printable
from .options import check_folder, split_class_names

HELP = "segment images"


def fill(parser: argparse.ArgumentParser):
    """The options of `predict`."""
    from ..utils.tasks import TASKS

    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files or folders of them")
    parser.add_argument("--adapter", metavar="NAME", help="folder, Hub id or name of an adapter")
    parser.add_argument(
        "--base_model",
        metavar="NAME",
        help=f"name, folder or Hub id (default: the adapter's, or {DEFAULT_BASE_MODEL})",
    )
    parser.add_argument(
        "--class_names",
        nargs="+",
        metavar="CLASS",
        help="what to look for, without an adapter, as words or with commas; for instances and panoptic segments each "
        "of these is a thing",
    )
    parser.add_argument("--task", choices=TASKS, help="default: the adapter's, or semantic")
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="least score of segments")
    parser.add_argument("--image_size", type=int, metavar="PIXELS", help="shorter side of the images for the model")
    parser.add_argument("--output_dir", default="out/predictions", help="folder to write to (default: %(default)s)")


def run(options: argparse.Namespace):
    """
    Run `predict`: `<name>.png` (class ids, 255 for none) and `<name>-overlay.png` for every image, `segments.json`.

    Images are read, segmented and written one by one; those that cannot be read are told and left out.

    Raises:
        SSPromptError: a model, adapter or image cannot be found or read; no class names; an image would be
            overwritten; as the subclass says.
    """
    from ..data.image_inputs import image_sources
    from ..loading import base_model_info
    from ..model import SSPromptModel
    from ..utils.files import atomic_path, write_json

    options.class_names = split_class_names(options.class_names, options.images)
    if options.adapter is None:
        base = options.base_model or DEFAULT_BASE_MODEL
        info = base_model_info(base)
        if options.class_names is None and info.class_names is None:
            raise SSPromptError("nothing to look for: give --adapter, or --class_names")
    elif options.class_names is not None:
        raise SSPromptError("an adapter brings its own classes: leave out --class_names or --adapter")
    else:
        base = options.base_model
    output = Path(options.output_dir)
    check_folder("--output_dir", output)
    images, _ = image_sources(options.images)
    names = _output_names(images)
    _spare_inputs(images, [file for name in names for file in _output_files(output, name)])
    model = SSPromptModel.from_pretrained(base, options.adapter, class_names=options.class_names)
    output.mkdir(parents=True, exist_ok=True)
    found: dict[str, list] = {}
    unreadable: list[str] = []
    for image, name in zip(images, names):
        try:
            result = model.predict(image, options.task, threshold=options.threshold, image_size=options.image_size)
        except (UnreadableFileError, NoImagesError) as error:  # damaged, or gone since the folder was listed
            unreadable.append(image)
            if len(unreadable) == len(images):  # nothing to write
                raise
            print(printable(f"warning: {error}"), file=sys.stderr, flush=True)
            continue
        label_file, overlay_file = _output_files(output, name)
        with atomic_path(label_file) as temporary:
            result.save(temporary)
        with atomic_path(overlay_file) as temporary:
            result.overlay().save(temporary)
        found[name] = [dataclasses.asdict(segment) for segment in result.segments]
        renamed = "" if name == Path(image).stem else f" (as {label_file.name})"
        seen = ", ".join(segment.name for segment in result.segments[:6]) or "nothing"
        print(printable(f"{image}{renamed}: {seen}"))
    write_json(output / "segments.json", found)
    print(f"wrote {len(found)} label maps and overlays to {output}")
    if unreadable:
        raise UnreadableFileError(
            f"{len(unreadable)} of {len(images)} images cannot be read: {', '.join(unreadable)}. Replace or remove "
            "them; the others are done"
        )


def _output_files(folder: Path, name: str) -> tuple[Path, Path]:
    """Label map and overlay of an image."""
    return folder / f"{name}.png", folder / f"{name}-overlay.png"


def _output_names(images: list[str]) -> list[str]:
    """Their names without suffix, numbered where a file of an earlier image would be written over."""
    names, taken = [], set()
    for image in images:
        stem = name = Path(image).stem
        number = 0
        # in lower case, as some file systems do not tell a.png from A.png
        while taken & (files := {file.name.lower() for file in _output_files(Path(), name)}):
            number += 1
            name = f"{stem}-{number}"
        taken |= files
        names.append(name)
    return names


def _spare_inputs(images: list[str], outputs: list[Path]):
    """Raises `SSPromptError` if an output is the file of one of the images, by whatever path."""
    inputs = {(status.st_dev, status.st_ino) for status in map(os.stat, filter(os.path.exists, images))}
    for output in filter(os.path.exists, outputs):
        if (output.stat().st_dev, output.stat().st_ino) in inputs:
            raise SSPromptError(
                f"{output} is one of the images and would be written over: choose another --output_dir"
            )
