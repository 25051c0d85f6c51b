"""`ssprompt-hf studio`: the page on which photographs are labelled and adapters trained."""

import argparse

from .options import add_base_model

HELP = "label photographs by clicking, train and compare, in a browser"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `studio`."""
    parser.add_argument("folder", metavar="DIR", help="folder of photographs; labels are written into it")
    add_base_model(parser)
    parser.add_argument("--adapter", metavar="NAME", help="to predict with at first (default: the one trained in DIR)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    parser.add_argument("--share", action="store_true", help="make a public address of gradio; needs a password")
    parser.add_argument(
        "--password", help="to be given in the browser (default: SSPROMPT_STUDIO_PASSWORD of the environment)"
    )
    parser.add_argument("--read_only", action="store_true", help="for looking: nobody labels or trains")
    parser.add_argument("--no_browser", action="store_true", help="do not open a browser")


def run(options: argparse.Namespace) -> None:
    """
    Run `studio`, until Ctrl-C.

    Raises:
        SSPromptError: the folder, the model or the adapter cannot be used; others could reach the page without a
            password; or gradio is not installed.
    """
    from ..studio.app import SSPromptStudio, check_reach
    from ..studio.page import import_gradio

    import_gradio()
    check_reach(options.host, options.share, options.password)
    studio = SSPromptStudio(options.folder, options.base_model, options.adapter, options.read_only)
    studio.assistant.takes  # noqa: B018 - a model that cannot be loaded is told here, not on the page
    studio.launch(options.host, options.port, options.share, options.password, inbrowser=not options.no_browser)
