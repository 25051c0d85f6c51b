"""`ssprompt-hf datasets`: what data sets are known by name."""

import argparse

from ..errors import UnknownNameError

HELP = "list the data sets known by name"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `datasets`."""
    parser.description = "List the data sets known by name: where to get each, its licence, its tasks and its files."
    parser.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all)")


def run(options: argparse.Namespace) -> None:
    """
    Run `datasets`.

    Raises:
        UnknownNameError: no data set of that name.
    """
    from ..data.datasets.catalog import KNOWN_DATASETS, describe_dataset, find_known_dataset

    found = {name: find_known_dataset(name) for name in options.names or KNOWN_DATASETS}
    for name, known in found.items():
        if known is None:
            raise UnknownNameError(f"{name!r} is none of the known data sets: {', '.join(KNOWN_DATASETS)}")
    print("\n\n".join(describe_dataset(info) for info, _ in found.values()))
