"""What a run is about: the data, the base model and the method. Training itself: `SSPromptTrainingArguments`."""

import json
import os
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from ..errors import SSPromptError
from ..models.registry import DEFAULT_BASE_MODEL
from ..tuners import METHODS, PromptConfig, SSPromptConfig
from ..tuners.ssprompt.config import SPATIAL_SOURCES

if TYPE_CHECKING:
    from ..data.dataset import SegmentationDataset

logger = logging.get_logger(__name__)

RECIPES = {"paper": (), "extended": ("prototypes", "class_masks")}
"""What each adds to the method as the paper describes it, where the base model allows it."""
RECIPE_METHODS = ("ssprompt", "semprompt")
"""For other methods a recipe makes no difference."""


def parse_options(name: str, text: str | dict | None) -> dict:
    """
    Keyword arguments from JSON.

    Raises:
        SSPromptError: `text` is no JSON object.
    """
    if text is None or isinstance(text, dict):
        return text or {}
    try:
        options = json.loads(text)
    except json.JSONDecodeError as error:
        raise SSPromptError(f"{name} is {text!r}, which is no JSON ({error})") from None
    if not isinstance(options, dict):
        raise SSPromptError(f"{name} is {text!r}; it must be a JSON object, for instance '{{\"num_images\": 50}}'")
    return options


@dataclass
class DataArguments:
    """
    The base model and the data.

    Args:
        base_model: a name, folder or Hub id.
        dataset: a known name (`ssprompt-hf datasets` lists them), `street-scenes/<condition>[/<label set>]`, a folder,
            a Hub id, or a `datasets.Dataset` or `DatasetDict`.
        data_dir: folder of a known data set; or, in place of `dataset`, one with images, labels and a class file.
        condition: fog, night, rain, snow or all, of ACDC.
        classes: a class file, in place of the data set's own.
        dataset_options: JSON; for street scenes `num_images`, `size`, `seed`, for Hub data sets column names.
        train_split: split to learn from.
        eval_split: split to be scored on. By default `val`; where the data set has none, see `choose_data`.
        image_size: shorter side of the images in pixels; by default the adapter's or the image processor's.
        max_eval_images: evaluate on the first so many images only.
    """

    base_model: str | None = field(
        default=None,
        metadata={
            "help": f"name, folder or Hub id of the base model (default: the adapter's, or {DEFAULT_BASE_MODEL})",
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={"help": "cityscapes, ... (see ssprompt-hf datasets), street-scenes/fog, a folder, or a Hub id"},
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "folder of the data set; without --dataset, images, labels and a class file"}
    )
    condition: str | None = field(default=None, metadata={"help": "fog, night, rain, snow or all, of ACDC"})
    classes: str | None = field(default=None, metadata={"help": "class file, in place of the data set's own"})
    dataset_options: str | None = field(
        default=None,
        metadata={"help": "JSON: num_images, size, seed of street scenes; labels, version of known data sets"},
    )
    train_split: str = field(default="train", metadata={"help": "split to choose training images from"})
    eval_split: str | None = field(
        default=None,
        metadata={"help": "split to evaluate on (default: val, or images kept apart)"},
    )
    image_size: int | None = field(
        default=None, metadata={"help": "shorter side of the images in pixels (default: the base model's)"}
    )
    max_eval_images: int | None = field(default=None, metadata={"help": "evaluate on the first so many images only"})

    def __post_init__(self):
        for name in ("base_model", "dataset", "data_dir", "classes"):
            if isinstance(getattr(self, name), os.PathLike):
                setattr(self, name, os.fspath(getattr(self, name)))
        for name in ("image_size", "max_eval_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SSPromptError(f"{name} is {value}; it must be at least 1")

    def load(self, split: str, task: str | None = None) -> "SegmentationDataset":
        """
        The data set's `split`, with the labels that `task` needs.

        Raises:
            DatasetError: what is missing or wrong.
        """
        from ..data import load_segmentation_dataset

        options = self._options()
        return load_segmentation_dataset(
            self.dataset, self.data_dir, split, self.classes, task, self.condition, **options
        )

    def _options(self) -> dict:
        options = parse_options("dataset_options", self.dataset_options)
        for name in ("dataset", "data_dir", "split", "classes", "task", "condition"):
            if name in options:
                flag = "--train_split or --eval_split" if name == "split" else f"--{name}"
                raise SSPromptError(f"dataset_options holds {name!r}, which is given by itself, as {flag}")
        return options

    def has_evaluation_split(self) -> bool:
        """Whether there is a split to evaluate on: one is named, or the data set has a `val` under whatever name."""
        from ..data.loading import dataset_splits
        from ..data.splits import split_aliases

        if self.eval_split is not None:
            return True
        splits = dataset_splits(self.dataset, self.data_dir, self.classes, **self._options())
        return splits is None or any(name in splits for name in split_aliases("val"))

    @property
    def evaluation_split(self) -> str:
        """The name of the split to evaluate on; of the training split where there is no other."""
        return self.eval_split or ("val" if self.has_evaluation_split() else self.train_split)

    def load_evaluation(self, task: str | None = None, adapter: PromptConfig | None = None) -> "SegmentationDataset":
        """The images to evaluate on, with the labels that `task` needs; of these, those for an `adapter`
        (`shown_images`)."""
        return self.shown_images(self.load(self.evaluation_split, task), adapter)

    def shown_images(
        self, dataset: "SegmentationDataset", adapter: PromptConfig | None = None
    ) -> "SegmentationDataset":
        """Those images of `dataset`, the evaluation split, that an adapter is scored on. Where the data set has no
        split for it, these are the training images, without those that an `adapter` of this data set was trained on,
        if any are left. It is this data set if it has the adapter's name and all images that the adapter names."""
        if adapter is not None:
            dataset = dataset.with_image_bits(adapter.image_bits)
        if adapter is not None and adapter.dataset == dataset.name and not self.has_evaluation_split():
            names, learned = dataset.file_names, set(adapter.chosen_images or ())
            shared = learned & set(names)
            if shared != learned:  # of another data set of this name, whose images may be called alike
                if shared:
                    logger.warning(
                        f"{len(shared)} of the {len(learned)} images that the adapter was trained on are called like "
                        f"some of {dataset.name}, the others are not there: it is taken for another data set. If it "
                        "is the same one, the scores tell little about other images"
                    )
                learned = set()
            rest = [index for index, name in enumerate(names) if name not in learned]
            if rest and learned:
                logger.warning(
                    f"{len(names) - len(rest)} of the {len(names)} images of {dataset.name} are left out: the "
                    f"adapter was trained on images of a data set {dataset.name} that are called like them"
                )
                dataset = dataset.select(rest)
            elif learned:
                logger.warning(
                    f"the adapter was trained on all images of {dataset.name}: its scores say "
                    "little about other images"
                )
        if self.max_eval_images is not None:
            dataset = dataset.select(range(min(len(dataset), self.max_eval_images)))
        return dataset

    def to_dict(self) -> dict:
        """All settings as JSON values; of data in memory what `str` says of them."""
        settings = {one.name: getattr(self, one.name) for one in fields(self)}
        for name in ("dataset", "classes"):
            if not isinstance(settings[name], (str, type(None))):
                settings[name] = " ".join(str(settings[name]).split())
        return settings


@dataclass
class PromptArguments:
    """
    The method and the choice of images.

    Args:
        shots: training images of each class (or in all); by default all images are used.
        shot_mode: `per_class` or `total`.
        allow_fewer: classes with fewer images than shots take what there is.
        method: one of `METHODS`; `zero_shot` learns nothing and only evaluates.
        recipe: `"extended"` for what we add where the base model allows it, or `"paper"` for what the paper
            describes. We add class prompts that begin at `prototypes`, and to SSPrompt for semantic segmentation
            `class_masks`.
        learn_weights: learn the weights `w` besides the embeddings `e` (SSPrompt and its halves).
        spatial_source: `object_queries` or `point_grid` (SSPrompt and SpaPrompt).
        prompt_options: JSON; any other field of the method's configuration.
        resume: go on from the last checkpoint in `output_dir`.
    """

    shots: int | None = field(
        default=None, metadata={"help": "choose images so that each class is seen in so many (default: all images)"}
    )
    shot_mode: str = field(default="per_class", metadata={"help": "shots are images per_class, or in total"})
    allow_fewer: bool = field(
        default=False, metadata={"help": "where a class is seen in fewer images than shots, take what there is"}
    )
    method: str = field(default="ssprompt", metadata={"help": f"what is learned: {', '.join(METHODS)}"})
    recipe: str = field(
        default="extended",
        metadata={"help": "paper, or extended: with prototypes and class masks on SEEM"},
    )
    learn_weights: bool = field(default=True, metadata={"help": "learn one weight a prompt besides its embedding"})
    spatial_source: str = field(
        default="object_queries", metadata={"help": "what the spatial prompts are: object_queries or point_grid"}
    )
    prompt_options: str | None = field(
        default=None, metadata={"help": "JSON: other fields of the method's configuration"}
    )
    resume: bool = field(default=False, metadata={"help": "go on from the last checkpoint in --output_dir"})

    def __post_init__(self):
        for name, choices in (("method", METHODS), ("recipe", RECIPES), ("spatial_source", SPATIAL_SOURCES)):
            if getattr(self, name) not in choices:
                raise SSPromptError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        if self.spatial_source != "object_queries" and self.method not in ("ssprompt", "spaprompt"):
            raise SSPromptError(
                f"spatial_source is {self.spatial_source!r}, but {self.method} has no choice of spatial prompts"
            )

    def adds(self, part: str, task: str = "semantic") -> bool:
        """Whether the recipe adds a part (`RECIPES`) to the method, on base models that allow it."""
        if self.method not in RECIPE_METHODS or part not in RECIPES[self.recipe]:
            return False
        if part in parse_options("prompt_options", self.prompt_options):  # which have the last word
            return False
        return part != "class_masks" or (self.method == "ssprompt" and task == "semantic")

    def config(self, **fields: Any) -> PromptConfig:
        """
        The configuration of the adapter; `fields` are those that describe the data.

        Raises:
            SSPromptError: `prompt_options` names no field of the method's configuration, or contradicts another; or
                the method has no adapter.
        """
        config_cls = METHODS[self.method]
        if config_cls is None:
            raise SSPromptError(f"{self.method} has no adapter")
        learned = {}
        if config_cls is SSPromptConfig:
            spatial, semantic = self.method != "semprompt", self.method != "spaprompt"
            learned = {
                "spatial_embedding": spatial,
                "spatial_weight": spatial and self.learn_weights,
                "semantic_embedding": semantic,
                "semantic_weight": semantic and self.learn_weights,
                "spatial_source": self.spatial_source,
            }
        options = parse_options("prompt_options", self.prompt_options)
        unknown = sorted(set(options) - set(config_cls.__dataclass_fields__))
        if unknown:
            raise SSPromptError(f"prompt_options holds {unknown[0]!r}, which is no field of {config_cls.__name__}")
        try:
            return config_cls(**(fields | learned | options))
        except TypeError as error:  # comparing a text with a number, for instance
            if not options:
                raise
            raise SSPromptError(
                f"prompt_options is {self.prompt_options!r}, which holds a value of the wrong type ({error})"
            ) from error
