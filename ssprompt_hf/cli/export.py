"""`ssprompt-hf export`: an adapter and its base model to one file for other runtimes."""

import argparse
import json
from pathlib import Path

from ..errors import ExportError

HELP = "write the merged model as ONNX or torch.export"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `export`."""
    from ..exporters.export import FORMATS, OUTPUTS

    parser.add_argument("adapter", metavar="ADAPTER", help="folder, Hub id or name of an adapter")
    parser.add_argument("--base_model", metavar="NAME", help="default: the one that the adapter names")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: %(default)s")
    parser.add_argument("--output", metavar="FILE", help="default: out/model.onnx or out/model.pt2")
    parser.add_argument(
        "--returns",
        choices=OUTPUTS,
        default="class_scores",
        help="scores of all classes, or the best class, of every pixel (default: %(default)s)",
    )
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="shorter side of resized images (default: the adapter's)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="take images of this size only (default: any, where the model allows it)",
    )


def run(options: argparse.Namespace) -> None:
    """
    Run `export`; raises as `SSPromptModel.from_pretrained` and `export_model`.

    Raises:
        ExportError: `--output` is a folder.
    """
    from ..exporters.export import FORMATS, export_model
    from ..model import SSPromptModel

    path = Path(options.output or f"out/model{FORMATS[options.format]}")
    if path.is_dir():
        raise ExportError(f"--output is {str(path)!r}, which is a folder: give a file")
    model = SSPromptModel.from_pretrained(options.base_model, options.adapter)
    size = None if options.size is None else tuple(options.size)
    metadata = export_model(model, path, options.format, options.returns, options.image_size, size)
    if metadata["size"]:
        images = "of {} x {} pixels, one at a time".format(*json.loads(metadata["size"]))
    else:
        sides = dict.fromkeys((metadata["image_size"], metadata["max_image_size"]))
        images = f"of any size and number, best with a shorter side of {' to '.join(sides)} pixels"
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB); it takes RGB images {images}")
