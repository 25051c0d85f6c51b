"""Entry point of the command `ssprompt-hf`, and the table of its sub-commands."""

import argparse
import os
import re
import sys
import warnings

from ..errors import SSPromptError
from ..utils.text import printable
from ..utils.version import __version__
from . import (
    combine,
    convert,
    data,
    datasets,
    demo,
    evaluate,
    explain,
    export,
    info,
    predict,
    reproduce,
    studio,
    train,
)
from .options import LazyParser

COMMANDS = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "info": info,
    "combine": combine,
    "explain": explain,
    "export": export,
    "reproduce": reproduce,
    "convert": convert,
    "datasets": datasets,
    "data": data,
    "studio": studio,
}
"""Name of a sub-command -> its module; `--help` lists them in this order."""


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
    if not sys.stderr.isatty():  # bars that are redrawn would fill a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # those of transformers, too
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    parser = build_parser()
    options = parser.parse_args(arguments)
    # transformers, peft and torch tell each other about coming changes; users can do nothing about these
    warnings.filterwarnings(
        "ignore", category=FutureWarning, message=".*(is_gradient_checkpointing|broadcast_buffers)"
    )
    try:
        options.run(options)
    except SSPromptError as error:
        lines = "\n".join(map(printable, str(error).split("\n")))
        print(f"{parser.prog} {options.command}: error: {lines}", file=sys.stderr)
        return 2
    except OSError as error:
        # the last word of the operating system, on a full disk for instance; errors of libraries have no number
        if error.errno is None:
            raise
        place = "" if error.filename is None else f"{printable(error.filename)}: "
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
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=LazyParser)
    for name, module in COMMANDS.items():
        text = module.HELP
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.fill = module.fill
        command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
