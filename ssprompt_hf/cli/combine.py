"""`ssprompt-hf combine`: one adapter of several."""

import argparse
from pathlib import Path

from ..errors import AdapterError
from .options import check_folder

HELP = "make one adapter of several: the union of their classes, or the mean of their numbers"


def fill(parser: argparse.ArgumentParser) -> None:
    """The options of `combine`."""
    parser.add_argument("adapters", metavar="ADAPTER", nargs="+", help="folder, Hub id or name; of one base model")
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="folder of the new adapter")
    parser.add_argument("--base_model", metavar="NAME", help="default: the one that the first adapter names")
    sums = parser.add_mutually_exclusive_group()
    sums.add_argument("--mean", action="store_true", help="the mean of adapters for the same classes, as of seeds")
    sums.add_argument("--weights", type=float, nargs="+", metavar="W", help="a weighted sum of them: one weight each")
    parser.add_argument(
        "--spatial_prompts_of",
        metavar="ADAPTER",
        help="the one whose spatial prompts a union of classes gets; not needed where all have the same",
    )
    parser.add_argument(
        "--shared_classes",
        choices=("error", "first", "last"),
        help="whose prompt a class gets that several adapters have (default: error)",
    )


def run(options: argparse.Namespace) -> None:
    """Run `combine`; raises as `SSPromptModel.from_pretrained`, `add_weighted_adapter` and `join_adapters`."""
    from ..model import SSPromptModel

    check_folder("--output_dir", options.output_dir)
    names = _names(options.adapters)
    spatial = options.spatial_prompts_of
    if spatial is not None and spatial not in names:
        raise AdapterError(f"--spatial_prompts_of is {spatial!r}, which is none of the adapters")
    if options.mean or options.weights:
        for name in ("spatial_prompts_of", "shared_classes"):
            if getattr(options, name) is not None:
                raise AdapterError(f"--{name} is for unions of classes: a sum takes the prompts of all adapters")
    first, *others = names.items()
    model = SSPromptModel.from_pretrained(options.base_model, first[0], first[1])
    for adapter, name in others:
        model.load_adapter(adapter, name)
    if options.mean or options.weights:
        weights = options.weights or [1 / len(names)] * len(names)
        model.add_weighted_adapter(list(names.values()), weights, "default")
    else:
        model.join_adapters(list(names.values()), "default", names.get(spatial), options.shared_classes or "error")
    model.save_pretrained(options.output_dir, selected_adapters=["default"])
    classes = model.peft_config["default"].class_names
    print(f"wrote {options.output_dir}: {len(names)} adapters, {len(classes or ())} classes")


def _names(adapters: list[str]) -> dict[str, str]:
    """What each adapter is called in the model and in the record of what the new one was made of; folders that are all
    called "adapter" are told apart by what they are in."""
    names: dict[str, str] = {}
    for adapter in adapters:
        if adapter in names:
            raise AdapterError(f"the adapter {adapter} is given more than once")
        path = Path(adapter).resolve()
        stem = (path.parent if path.name == "adapter" else path).name.replace(".", "_") or "adapter"
        taken = {*names.values(), "default"}
        number = 1
        name = stem
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        names[adapter] = name
    return names
