"""`ssprompt-hf info`: what an adapter's files hold, or what a base model costs."""

import argparse
import json
from pathlib import Path
from typing import Any

from ..models.registry import ADAPTER_CONFIG, BASE_MODELS

HELP = "tell what an adapter holds, or what a base model costs"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `info`."""
    parser.add_argument("name", metavar="NAME", help="folder, Hub id or name of an adapter or a base model")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(options: argparse.Namespace) -> None:
    """Run `info`; raises as `fetch_adapter` and `read_adapter`, or as `describe_base_model`."""
    folder = None if _is_base_model(options.name) else _adapter_folder(options.name)
    if folder is not None:
        from ..adapters.info import adapter_info, describe_adapter

        info = adapter_info(folder)
        print(_as_json(info) if options.json else describe_adapter(info))
    else:
        from ..loading import base_model_facts, describe_base_model

        print(_as_json(base_model_facts(options.name)) if options.json else describe_base_model(options.name))


def _as_json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, default=str)


def _is_base_model(name: str) -> bool:
    """Whether `name` is known to be one without asking the Hub. As everywhere, a folder of that name comes first."""
    if (Path(name) / ADAPTER_CONFIG).is_file():
        return False
    published = {model.repo_id for model in BASE_MODELS.values()}
    return name in BASE_MODELS or name in published or (Path(name) / "config.json").is_file()


def _adapter_folder(name: str) -> str | None:
    """Of an adapter, downloaded if need be; None for a Hub id of something else."""
    from ..adapters.files import fetch_adapter

    folder = fetch_adapter(name)
    # A bare name is never a base model's on the Hub, and a folder without config.json is damaged: the adapter's reader
    # says what is missing.
    is_hub_id = "/" in name and not Path(name).is_dir()
    return None if is_hub_id and not (Path(folder) / ADAPTER_CONFIG).is_file() else folder
