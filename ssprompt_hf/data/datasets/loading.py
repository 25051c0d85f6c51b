"""Opening a known data set."""

import json
import os
from pathlib import Path

from ...errors import DatasetError
from ...utils.tasks import TASKS
from ..classes import SegmentationClasses
from ..dataset import SegmentationDataset
from ..sources.columns import ColumnSource
from ..splits import split_aliases
from .file_index import ID_COLUMN, IMAGE_COLUMN, INDEX_VERSION, NAME_COLUMN, cached_index
from .layouts import DatasetInfo


def load_known_dataset(
    info: DatasetInfo,
    data_dir: str | os.PathLike,
    split: str = "train",
    task: str | None = None,
    condition: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    **options: str,
) -> SegmentationDataset:
    """Opens a known data set; see `load_segmentation_dataset`.

    Raises:
        DatasetError: an unknown split, task, condition or option; the message lists the known ones.
        NoImagesError: the folder does not hold the data set; the message says what was looked for and what was found.
        MissingLabelError: images without label.
    """
    task = task or "semantic"
    if task not in TASKS:
        raise DatasetError(f"`task` must be one of {', '.join(TASKS)}, not {task!r}.")
    if task not in info.tasks:
        raise DatasetError(f"{info.title} has no labels for task={task!r}, only for {', '.join(info.tasks)}.")
    chosen = next((name for name in split_aliases(split) if name in info.splits), None)
    if chosen is None:
        raise DatasetError(
            f"{info.title} has no labelled split {split!r}, but {', '.join(info.splits)}. `ssprompt-hf predict` "
            "segments images without labels."
        )
    if info.conditions:
        condition = condition or "all"
        if condition not in info.conditions:
            raise DatasetError(f"{info.title}: `condition` is one of {', '.join(info.conditions)}, not {condition!r}.")
    elif condition is not None:
        raise DatasetError(f"{info.title} is not divided by condition; leave out condition={condition!r}.")
    wanted_labels = options.pop("labels", None)
    for name, value in options.items():
        known = info.options.get(name)
        if known is None or value not in known:
            choices = "; ".join(f"{key}: {', '.join(values)}" for key, values in info.options.items())
            raise DatasetError(f"{info.title} takes no option {name}={value!r}. Its options: {choices or 'none'}.")
    layouts = info.layouts(task, chosen, condition, **options)
    if wanted_labels is not None:
        names = list(dict.fromkeys(layout.labels for layout in layouts))
        layouts = [layout for layout in layouts if layout.labels == wanted_labels]
        if not layouts:
            raise DatasetError(f"{info.title}: `labels` is one of {', '.join(names)}, not {wanted_labels!r}.")
    request = [info.name, task, chosen, condition, wanted_labels, sorted(options.items())]
    index = cached_index(info, layouts, Path(data_dir), request, cache_dir)
    layout = layouts[index.layout]
    classes = layout.classes if index.classes is None else SegmentationClasses.from_dict(index.classes)
    has_ids = ID_COLUMN in index.table.column_names
    source = ColumnSource(
        index.table,
        layout.label_format(classes),
        IMAGE_COLUMN,
        NAME_COLUMN,
        instances=task != "semantic",
        identity=json.dumps([INDEX_VERSION, request, layout.labels, index.json_stamps]),
        coco_image_ids=[json.loads(text) for text in index.table[ID_COLUMN][:]] if has_ids else None,
        semantic_ids=info.semantic_ids,
    )
    name = info.name if condition is None else f"{info.name}/{condition}"
    return SegmentationDataset(classes, source, name)
