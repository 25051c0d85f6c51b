"""The data sets known by name."""

from . import acdc, ade20k, bdd100k, cityscapes, coco_panoptic, mapillary_vistas, pascal_context
from .layouts import DatasetInfo

KNOWN_DATASETS: dict[str, DatasetInfo] = {
    module.INFO.name: module.INFO
    for module in (cityscapes, bdd100k, mapillary_vistas, ade20k, pascal_context, acdc, coco_panoptic)
}


def find_known_dataset(name: str) -> tuple[DatasetInfo, str | None] | None:
    """`"acdc"` or `"acdc/fog"` -> the data set and its condition; None for other names. `-` counts as `_`."""
    first, _, condition = name.lower().replace("-", "_").partition("/")
    if first not in KNOWN_DATASETS or "/" in condition:
        return None
    return KNOWN_DATASETS[first], condition or None


def describe_dataset(info: DatasetInfo) -> str:
    """Where to get a data set, its terms, its options and the expected tree, as text."""
    lines = [f"{info.name}: {info.title}", f"  from: {info.url}", f"  licence: {info.licence}"]
    lines.append(f"  tasks: {', '.join(info.tasks)}; splits: {', '.join(info.splits)}")
    if info.conditions:
        lines.append(f"  conditions: {', '.join(info.conditions)}")
    lines += [f"  option {name}: {', '.join(values)}" for name, values in info.options.items()]
    return "\n".join(lines + ["  files:"] + [f"    {line}" for line in info.tree.split("\n")])
