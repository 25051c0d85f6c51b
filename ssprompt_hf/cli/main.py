"""The command `ssprompt-hf`: one function adds each sub-command, another runs it.

Heavy modules are imported where a command runs, so that `--help` and mistakes in the arguments answer at once.
"""

import argparse
import os
import re
import sys
import warnings

from ..errors import SSPromptError
from .commands import LazyParser, add_commands


def main(arguments: list[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        arguments: by default those of the process.

    Returns:
        the exit code: 0, or 2 after an error of the user, which is one line on stderr (130 after Ctrl-C).
    """
    # OpenMP reads it when torch is loaded. Threads that spin while they wait gain a little on quiet cores, and make
    # training a hundred times slower where another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = build_parser()
    options = parser.parse_args(arguments)
    # transformers, peft and torch tell each other about coming changes; users can do nothing about these
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*(is_gradient_checkpointing|broadcast_buffers)"
    )
    try:
        options.run(options)
    except SSPromptError as error:
        print(f"{parser.prog} {options.command}: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # the last word of the operating system, on a full disk for instance; errors of libraries have no number
        if error.errno is None:
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        print(f"{parser.prog} {options.command}: error: {place}{error.strerror}", file=sys.stderr)
        return 2
    except (ImportError, RuntimeError) as error:
        if not re.search("to be installed|need to install", str(error)):
            raise
        # what transformers says when it makes a tracker (--report_to) or an optimizer (--optim)
        message = " ".join(str(error).split())
        print(f"{parser.prog} {options.command}: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        hint = f"; {error}" if error.args else ""
        print(f"{parser.prog} {options.command}: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands; each stores the function that runs it as `run`."""
    parser = argparse.ArgumentParser(
        prog="ssprompt-hf", description="Adapt promptable segmentation models with learned prompts."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=LazyParser)
    add_commands(commands)
    add_convert(commands)
    add_datasets(commands)
    return parser


def add_convert(commands):
    """`convert`: an official checkpoint to a folder for `from_pretrained`."""
    from ..models.registry import BASE_MODELS, TOKENIZER_REPO, convertible_names

    names = "\n".join(f"  {name:<16} {BASE_MODELS[name].description}" for name in convertible_names())
    parser = commands.add_parser(
        "convert",
        help="convert an official SEEM checkpoint",
        description="Convert an official SEEM checkpoint (.pt) to a folder that from_pretrained loads.",
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="the file, for instance seem_focalt_v0.pt")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="the architecture (see below); by default told by the tensors and the file's name",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="the folder to write; by default the model is kept in the cache, where from_pretrained(NAME) finds it",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="DIR_OR_ID",
        default=TOKENIZER_REPO,
        help="tokenizer to save with the model (default: %(default)s); 'none' for none",
    )
    parser.set_defaults(run=run_convert)


def run_convert(options: argparse.Namespace):
    """Run `convert`; raises as `convert_seem_checkpoint`."""
    from ..models.seem.conversion import convert_seem_checkpoint

    tokenizer = None if options.tokenizer == "none" else options.tokenizer
    print(convert_seem_checkpoint(options.checkpoint, options.name, options.output, tokenizer=tokenizer))


def add_datasets(commands):
    """`datasets`: what data sets are known by name."""
    parser = commands.add_parser(
        "datasets",
        help="list the data sets known by name",
        description="List the data sets known by name: where to get each, its licence, its tasks and its files.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")
    parser.set_defaults(run=run_datasets)


def run_datasets(options: argparse.Namespace):
    """
    Run `datasets`.

    Raises:
        UnknownNameError: no data set of that name.
    """
    from ..data.datasets.catalog import KNOWN_DATASETS, describe_dataset, find_known_dataset
    from ..errors import UnknownNameError

    found = {name: find_known_dataset(name) for name in options.names or KNOWN_DATASETS}
    for name, known in found.items():
        if known is None:
            raise UnknownNameError(f"{name!r} is none of the known data sets: {', '.join(KNOWN_DATASETS)}")
    print("\n\n".join(describe_dataset(info) for info, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
