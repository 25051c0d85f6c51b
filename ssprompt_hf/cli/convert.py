"""`ssprompt-hf convert`: an official SEEM checkpoint to a folder for `from_pretrained`."""

import argparse

from ..models.registry import BASE_MODELS, family

HELP = "convert an official SEEM checkpoint"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `convert`. The list of names and the text about tokenizers are told without importing torch."""
    models = [model for model in BASE_MODELS.values() if model.family == "seem" and not model.embedded]
    names = "\n".join(f"  {model.name:<16} {model.description}" for model in models)
    parser.description = "Convert an official SEEM checkpoint (.pt) to a folder that from_pretrained loads."
    parser.epilog = f"names:\n{names}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
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
    # The default itself is the family's, which is slow to import; a test compares the text with it.
    parser.add_argument(
        "--tokenizer",
        metavar="DIR_OR_ID",
        help="tokenizer to save with the model (default: openai/clip-vit-base-patch32); 'none' for none",
    )


def run(options: argparse.Namespace) -> None:
    """Run `convert`; raises as `convert_checkpoint` of the family."""
    seem = family("seem")
    tokenizer = seem.TOKENIZER_REPO if options.tokenizer is None else options.tokenizer
    tokenizer = None if tokenizer == "none" else tokenizer
    print(seem.convert_checkpoint(options.checkpoint, options.name, options.output, tokenizer=tokenizer))
