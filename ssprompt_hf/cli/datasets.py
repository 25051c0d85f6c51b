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

    found = {}
    for name in options.names or KNOWN_DATASETS:
        known = find_known_dataset(name)
        if known is None:
            raise UnknownNameError(f"{name!r} is none of the known data sets: {', '.join(KNOWN_DATASETS)}")
        found[name] = known[0]
    print("\n\n".join(map(describe_dataset, found.values())))
