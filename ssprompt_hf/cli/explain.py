"""`ssprompt-hf explain`."""

import argparse
from pathlib import Path

from .options import add_fields, build, check_folder

HELP = "report what an adapter has learned, where it helps and where it fails"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `explain`."""
    from ..training.settings import DataArguments

    parser.add_argument("adapter", metavar="ADAPTER", help="folder, Hub id or name of an adapter")
    parser.add_argument("--words", metavar="FILE", help="further words to compare class embeddings with, one a line")
    parser.add_argument(
        "--examples",
        type=int,
        default=3,
        metavar="N",
        help="pictures each of classes that gained, classes that lost, and failures (default: %(default)s)",
    )
    parser.add_argument("--output_dir", default="out/explain", help="folder to write to (default: %(default)s)")
    parser.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    title = "data (by default what the adapter was trained on, if it is embedded)"
    add_fields(parser, title, DataArguments, without=("train_split",))
    parser.usage = f"{parser.prog} ADAPTER [OPTION VALUE ...]"


def run(options: argparse.Namespace) -> None:
    """Run `explain`; raises as `explain_adapter`."""
    from ..explain import explain_adapter
    from ..explain.run import REPORT
    from ..training.settings import DataArguments

    data = build(DataArguments, options)
    check_folder("--output_dir", options.output_dir)
    explain_adapter(options.adapter, data, options.output_dir, options.words, options.examples, options.use_cpu)
    print(f"wrote {Path(options.output_dir) / REPORT}")
