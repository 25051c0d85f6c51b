"""What a known data set is: where it keeps its images and labels, and what can be chosen of it.

A data set's module lists its layouts, the ways in which its files may lie, best first.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from ..classes import SegmentationClasses
from ..sources.label_files import LabelFormat


@dataclass(frozen=True)
class Files:
    """Files that belong to one column.

    Args:
        folders: below the root of the data set; files in folders below them count too.
        ending: what every file's name ends in; the rest of the name, without folders, says what belongs together.
    """

    folders: tuple[str, ...]
    ending: str

    def __str__(self) -> str:
        return ", ".join(f"{folder}/**/*{self.ending}" for folder in self.folders)


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a split may lie.

    Args:
        labels: what to call it; the option `labels` chooses a layout by this name.
        images: the images.
        columns: label column -> its files; the format reads them.
        label_format: makes the format from the classes.
        classes: the class list; None where the panoptic JSON file brings it.
        lists: text files of which the first that is there names the images of the split; with an empty tuple, the
            images in the folder are those of the split.
        all_labelled: without such a list, the split is all images that have labels; otherwise that is an error.
        applies: whether the layout can be meant in a root; True when None.
        panoptic_json: alternatives, each a tuple of JSON files that together describe the label files; the first whose
            files are there is read.
        category: index in the class list of an entry of the JSON files' `categories`, None for an ignored one.
        variant: an option of the data set and its value, where the labels are those of one of several variants. If two
            are there and the option is not given, that is an error.
    """

    labels: str
    images: Files
    columns: dict[str, Files]
    label_format: Callable[[SegmentationClasses], LabelFormat]
    classes: SegmentationClasses | None
    lists: tuple[str, ...] = ()
    all_labelled: bool = False
    applies: Callable[[Path], bool] | None = None
    panoptic_json: tuple[tuple[str, ...], ...] = ()
    category: Callable[[dict[str, Any], SegmentationClasses], int | None] | None = None
    variant: tuple[str, str] | None = None

    def describe(self) -> list[str]:
        """What the layout needs, one pattern a line."""
        wanted = [f"images {self.images}"] + [f"{column}s {files}" for column, files in self.columns.items()]
        if self.panoptic_json:
            wanted.append("panoptic JSON " + " or ".join(", ".join(files) for files in self.panoptic_json))
        if self.lists:
            wanted.append("image list " + " or ".join(self.lists))
        return wanted


@dataclass(frozen=True)
class DatasetInfo:
    """A known data set.

    Args:
        name: what `load_segmentation_dataset` calls it.
        title: its own name.
        url: where it can be had.
        licence: its terms, in a sentence.
        tree: the expected folders.
        tasks: those it has labels for.
        splits: the splits that have labels; others are an error before any folder is searched.
        layouts: (task, split, condition or None, options) -> layouts, best first.
        conditions: subsets that can be chosen, `all` among them; empty where there are none.
        options: further keyword arguments and their values, for messages.
        roots: folders below the given one in which the tree may begin.
        archives: folders in which a part of the tree may begin, if archives were unpacked into folders of their own.
        semantic_ids: of the classes in predictions for its official evaluation of semantic segmentation; by default
            those of the class list.
    """

    name: str
    title: str
    url: str
    licence: str
    tree: str
    tasks: tuple[str, ...]
    splits: tuple[str, ...]
    layouts: Callable[..., list[Layout]]
    conditions: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()
    semantic_ids: tuple[int, ...] | None = None


def default_cache_dir() -> Path:
    """Where tables of files and label statistics are kept: `ssprompt_hf/data` under the Hugging Face cache."""
    return Path(constants.HF_HOME) / "ssprompt_hf" / "data"
