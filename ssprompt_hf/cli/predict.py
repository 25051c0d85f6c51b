"""`ssprompt-hf predict`: image files to label maps and overlays."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import NoImagesError, SSPromptError, UnreadableFileError
from ..models.registry import DEFAULT_BASE_MODEL
from ..utils.text import printable
from .options import add_base_model, check_folder, split_class_names

HELP = "segment images"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`."""
    from ..utils.tasks import TASKS

    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files, folders of them or http(s) addresses")
    parser.add_argument("--adapter", metavar="NAME", help="folder, Hub id or name of an adapter")
    add_base_model(parser)
    parser.add_argument(
        "--class_names",
        nargs="+",
        metavar="CLASS",
        help="what to look for, without an adapter, as words or with commas; for instances and panoptic segments each "
        "of these is a thing",
    )
    parser.add_argument("--task", choices=TASKS, help="default: the adapter's, or semantic")
    parser.add_argument("--threshold", type=float, metavar="SCORE", help="least score of segments")
    parser.add_argument(
        "--min_area",
        type=int,
        metavar="PIXELS",
        help="of the smallest instance, panoptic segment or phrase (default: a ten-thousandth of the image)",
    )
    parser.add_argument("--image_size", type=int, metavar="PIXELS", help="shorter side of the images for the model")
    parser.add_argument(
        "--tile", type=int, metavar="PIXELS", help="side of squares in which large images are looked at, one by one"
    )
    parser.add_argument("--output_dir", default="out/predictions", help="folder to write to (default: %(default)s)")
    prompts = parser.add_argument_group(
        "in place of classes", "What is pointed at or named; the base model answers, without its adapter."
    )
    prompts.add_argument(
        "--point", action="append", type=_numbers(2), metavar="X,Y", help="a pixel of the object; again for more"
    )
    prompts.add_argument(
        "--not_point", action="append", type=_numbers(2), metavar="X,Y", help="a pixel that is not of the object"
    )
    prompts.add_argument(
        "--box", action="append", type=_numbers(4), metavar="X0,Y0,X1,Y1", help="around an object; again for more"
    )
    prompts.add_argument(
        "--connected",
        action="store_true",
        default=None,
        help="of the mask, only the connected parts that a --point lies on: one car of several",
    )
    prompts.add_argument("--text", action="append", metavar="PHRASE", help='such as "a red car"; again for more')


def _numbers(count: int) -> Callable[[str], list[float]]:
    """What reads so many numbers with commas between them; a `ValueError` is argparse's."""

    def read(text: str) -> list[float]:
        numbers = [float(number) for number in text.split(",")]
        if len(numbers) != count:
            raise ValueError
        return numbers

    read.__name__ = f"{count} numbers with commas between them"  # argparse's word for it in messages
    return read


def _visual_prompts(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `SSPromptModel.predict`. All points are of one object."""
    positive, negative = options.point or [], options.not_point or []
    prompts = {"boxes": options.box, "text": options.text, "connected": options.connected}
    if positive or negative:
        prompts |= {"points": positive + negative, "labels": [1] * len(positive) + [0] * len(negative)}
    return {name: value for name, value in prompts.items() if value is not None}


def run(options: argparse.Namespace) -> None:
    """
    Run `predict`: see [`~ssprompt_hf.segmentation.prediction_files.PredictionFiles`] for what is written.

    Images are read, segmented and written one by one; those that cannot be read, or do not fit into memory, are told
    and left out.

    Raises:
        SSPromptError: a model, adapter or image cannot be found or read; no class names; an image would be
            overwritten; as the subclass says.
    """
    from ..data.image_inputs import image_description, image_sources
    from ..loading import base_model_info
    from ..model import SSPromptModel
    from ..segmentation.prediction_files import PredictionFiles, output_names, spare_inputs
    from ..utils.memory import is_out_of_memory

    options.class_names = split_class_names(options.class_names, options.images)
    prompts = _visual_prompts(options)
    if prompts and (options.task or options.class_names or options.tile):
        raise SSPromptError("--point, --not_point, --box and --text ask without --task, --class_names and --tile")
    base = options.base_model
    if options.adapter is None:
        base = base or DEFAULT_BASE_MODEL
        if options.class_names is None and not prompts and base_model_info(base).class_names is None:
            raise SSPromptError("nothing to look for: give --adapter, --class_names, --text, --point or --box")
    elif options.class_names is not None:
        raise SSPromptError("an adapter brings its own classes: leave out --class_names or --adapter")
    output = Path(options.output_dir)
    check_folder("--output_dir", output)
    images, is_single = image_sources(options.images if len(options.images) > 1 else options.images[0])
    if not is_single and prompts.keys() - {"text"}:
        raise SSPromptError(f"--point and --box belong to one image, but there are {len(images)}")
    names = output_names(images)
    spare_inputs(images, output, names)
    model = SSPromptModel.from_pretrained(
        base, options.adapter, class_names=options.class_names, keep_prompt_encoders=bool(prompts)
    )
    output.mkdir(parents=True, exist_ok=True)
    files, unreadable, too_large = PredictionFiles(output), [], []
    settings = {name: getattr(options, name) for name in ("threshold", "image_size", "min_area", "tile")}
    for image, name in zip(images, names):
        try:
            try:
                result = model.predict(image, options.task, **settings, **prompts)
            except (UnreadableFileError, NoImagesError, OSError) as error:  # damaged, or gone since it was listed
                unreadable.append(printable(image))
                if len(unreadable) == len(images):  # nothing to write
                    raise
                print(printable(f"warning: {error}"), file=sys.stderr, flush=True)
                continue
            files.add(name, image, result)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            too_large.append(printable(image))
            told = (
                f"{image_description(image)} does not fit into memory: look at it in --tile, or a smaller --image_size"
            )
            print(printable(f"warning: {told}"), file=sys.stderr, flush=True)
            continue
        renamed = "" if name == Path(image).stem else f" (as {name}.png)"
        found = ", ".join(segment.name for segment in result.segments[:6]) or "nothing"
        missing = getattr(result, "missing", None)
        absent = f"; not there: {', '.join(missing)}" if missing else ""
        print(printable(f"{image}{renamed}: {found}{absent}"))
    files.finish()
    print(f"wrote {len(files.found)} label maps and overlays to {output}")
    left_out = []
    if unreadable:
        left_out.append(
            f"{len(unreadable)} of {len(images)} images cannot be read: {', '.join(unreadable)}. Replace or remove "
            "them"
        )
    if too_large:
        left_out.append(
            f"{len(too_large)} of {len(images)} images do not fit into memory: {', '.join(too_large)}. Use --tile, or "
            "a smaller --image_size, for them"
        )
    if left_out:
        raise UnreadableFileError(f"{'. '.join(left_out)}; the others are done")
