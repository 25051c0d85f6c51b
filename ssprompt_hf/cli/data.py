"""`ssprompt-hf data`: what a folder of labelled images holds, and the same as a plain folder."""

import argparse
import json

HELP = "tell what a folder of labelled images holds, or convert it"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `data`."""
    parser.description = (
        "Tell what a folder of labelled images holds: its format, splits, classes, sizes and problems; and write it "
        "as a plain folder of images, label PNGs and classes.json."
    )
    parser.add_argument("folder", metavar="DIR", help="in any format that train reads")
    parser.add_argument("--classes", metavar="FILE", help="class file, in place of the data set's own")
    parser.add_argument(
        "--unlabelled",
        choices=("background", "ignore"),
        help="pixels outside all shapes of an annotation tool: a class of their own (default), or ignored",
    )
    parser.add_argument("--convert", metavar="OUT", help="a new folder to write the plain form to")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """
    Run `data`.

    Raises:
        DatasetError: the folder is in no known format, or its annotation files are damaged. What is wrong with single
            images is told as a problem, and stops a conversion.
        SSPromptError: the folder to write to is not empty.
    """
    from ..data.folder_report import describe_folder, open_splits, report_folder
    from ..data.plain_folder import check_new_folder, write_plain_folder

    if options.convert is not None:
        check_new_folder(options.convert)
    reading = {} if options.unlabelled is None else {"unlabelled": options.unlabelled}
    splits = open_splits(options.folder, options.classes, **reading)
    report = report_folder(options.folder, splits, options.classes, **reading)
    print(json.dumps(report.to_dict(), indent=2) if options.json else describe_folder(report))
    if options.convert is not None:
        count = write_plain_folder(splits, options.convert)
        if not options.json:
            print(f"wrote {count} images with their labels to {options.convert}")
