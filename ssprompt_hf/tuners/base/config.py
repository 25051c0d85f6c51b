"""What the configurations of all prompt methods share: classes, data, and the base model an adapter belongs to."""

import importlib.metadata
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from peft import PeftConfig
from safetensors.torch import load_file

from ...data.classes import IGNORE_INDEX, MAX_ID
from ...errors import AdapterError
from ...models.image_processing import MAX_IMAGE_SIZE
from ...models.registry import ADAPTER_WEIGHTS
from ...utils.digests import tensors_digest
from ...utils.files import write_json
from ...utils.tasks import TASKS
from ...utils.version import __version__
from ..peft_compat import peft_type_name
from .config_types import check_types

SSPROMPT_PAPER = "Learning to Prompt Segment Anything Models"
RECORDS = (
    "image_size",
    "image_bits",
    "dataset",
    "shots",
    "seed",
    "chosen_images",
    "class_ids",
    "colors",
    "ignore_index",
    "task",
    "training",
    "metrics",
    "versions",
    "made_from",
)
"""Fields that tell how an adapter was made, and change nothing in what its weights mean."""

FREE_RECORDS = ("chosen_images", "dataset", "metrics", "training", "versions")
"""Those of them that other programs may write in their own way: nobody computes with them."""

ANY_BASE_MODEL = "any"
"""As `base_model_fingerprint`: load the adapter onto whatever model has the right shapes."""


MAX_GRID_SIZE = 128
"""Points per row and column of a grid: 16,384 prompts, more than any decoder has."""


def check_choice(name: str, value: Any, choices: tuple) -> None:
    """
    Raises:
        AdapterError: `value` is not one of `choices`; the message names them.
    """
    if value not in choices:
        raise AdapterError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def check_range(name: str, value: float | None, low: float, high: float) -> None:
    """
    A configuration comes from anywhere, and a number in it can ask for more memory than there is.

    Raises:
        AdapterError: `value` is given, and below `low` or above `high`.
    """
    if value is not None and not low <= value <= high:
        raise AdapterError(f"{name} is {value}; it must be at least {low} and at most {high}")


def checked_class_names(class_names: Iterable[str]) -> list[str]:
    """
    Class names as a list.

    Raises:
        AdapterError: there are none, more than 255, one is no name, or one is there twice.
    """
    if isinstance(class_names, str):
        raise AdapterError(f"class_names is {class_names!r}, a single text: pass a list of names")
    names = list(class_names)
    if not names:
        raise AdapterError("class_names is empty: name at least one class, or leave it None")
    if len(names) > IGNORE_INDEX:
        raise AdapterError(f"class_names holds {len(names)} names; class maps of 8 bits hold {IGNORE_INDEX} at most")
    if wrong := [name for name in names if not isinstance(name, str) or not name.strip()]:
        raise AdapterError(f"class_names holds {wrong[0]!r}, which is no name")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise AdapterError(f"class_names holds {twice!r} more than once")
    return names


PEFT_PREFIX = "base_model.model."


def stored_digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of an adapter's tensors: names (without PEFT's prefix, which transformers does not know), types, shapes
    and values."""
    return tensors_digest({name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()})


def check_digest(config: "PromptConfig", tensors: dict[str, torch.Tensor], source: object) -> None:
    """
    See that tensors are those that a configuration was written with; it then forgets their digest, as what belongs to
    it may be trained.

    Args:
        config: as it was read. Those of earlier versions know no digest.
        tensors: by the names in the adapter's file.
        source: of both, for the message.

    Raises:
        AdapterError: they are not.
    """
    expected, config.tensors_sha256 = config.tensors_sha256, None
    if expected is not None and stored_digest(tensors) != expected:
        config.tensors_sha256 = expected
        raise AdapterError(
            f"{source}: the tensors are not those that the configuration was written with (their SHA-256 is not "
            f"{expected[:16]}...). One of the two files is damaged, or from another adapter, or writing them was "
            "interrupted: copy or download both again, or save the adapter again"
        )


def current_versions() -> dict[str, str]:
    """Versions of the packages that an adapter's behaviour depends on."""
    others = {name: importlib.metadata.version(name) for name in ("peft", "transformers", "torch")}
    return {"ssprompt-hf": __version__, **others}


@dataclass
class PromptConfig(PeftConfig):
    """
    Base of the configurations of prompt methods.

    Everything here is either a default for inference (task, classes, image size) or a record of how the adapter was
    made. `None` for `class_names`, `thing_class_ids`, `base_model_fingerprint` and `versions` means: take them from
    the base model and the installation when the adapter is created.

    Args:
        target_modules (`list[str]`, *optional*):
            Paths of the wrapped prompt slots; filled in from the model's `prompt_slots`.
        task (`str`, *optional*, defaults to `"semantic"`):
            What the adapter was trained for: `"semantic"`, `"instance"` or `"panoptic"`.
        class_names (`list[str]`, *optional*):
            The classes.
        thing_class_ids (`list[int]`, *optional*):
            Positions of the countable classes.
        class_ids (`list[int]`, *optional*):
            What the classes are called in label files, as the class file has it; by default their positions.
        colors (`list[list[int]]`, *optional*):
            Red, green and blue, 0 to 255, of each class.
        ignore_index (`int`, *optional*, defaults to 255):
            In label files, of pixels that belong to no class.
        image_size (`int`, *optional*):
            Shorter side of the training images, in pixels.
        image_bits (`int`, *optional*):
            Of training images with more than 8 bits, how many are in use: 8, 10, 12 or 16. Images to predict are
            scaled alike. None for images of 8 bits, and in adapters of earlier versions.
        dataset (`str`, *optional*), shots (`int`, *optional*), seed (`int`, *optional*):
            What the adapter was trained on.
        chosen_images (`list[str]`, *optional*):
            File names of the training images.
        training (`dict`, *optional*):
            How the adapter was learned, by name: steps, rate, loss and so on.
        metrics (`dict`, *optional*):
            Results of evaluation, by name.
        made_from (`list[dict]`, *optional*):
            Of an adapter that was made of others: name, data and seed of each, its weight or its classes.
        base_model_fingerprint (`str`, *optional*):
            See [`~ssprompt_hf.models.fingerprint.model_fingerprint`]; `"any"` switches the check off.
        base_model_digests (`dict[str, str]`, *optional*):
            See [`~ssprompt_hf.models.fingerprint.weight_digests`]; adapters of earlier versions have none.
        tensors_sha256 (`str`, *optional*):
            Digest of the tensors beside the configuration (`stored_digest`), in files only: it ties the two together.
            None once they have been read.
        versions (`dict[str, str]`, *optional*):
            Versions of the packages that made the adapter.

    Raises:
        AdapterError: a field contradicts another or is not one of its choices.
    """

    target_modules: list[str] | None = field(default=None, metadata={"help": "Filled in from the base model."})
    task: str = "semantic"
    class_names: list[str] | None = None
    thing_class_ids: list[int] | None = None
    class_ids: list[int] | None = None
    colors: list[list[int]] | None = None
    ignore_index: int = 255
    image_size: int | None = None
    image_bits: int | None = None
    dataset: str | None = None
    shots: int | None = None
    seed: int | None = None
    chosen_images: list[str] | None = None
    training: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    made_from: list[dict[str, Any]] | None = None
    base_model_fingerprint: str | None = None
    base_model_digests: dict[str, str] | None = None
    tensors_sha256: str | None = None
    versions: dict[str, str] | None = None

    def __post_init__(self):
        if isinstance(self.class_names, str):  # a list of letters, else
            checked_class_names(self.class_names)
        check_types(self, without=FREE_RECORDS)
        try:
            super().__post_init__()
        except ValueError as error:  # of a task of language models, say
            raise AdapterError(str(error)) from error
        check_choice("task", self.task, TASKS)
        if self.class_names is not None:
            self.class_names = checked_class_names(self.class_names)
        count = None if self.class_names is None else len(self.class_names)
        if self.thing_class_ids is not None:
            self.thing_class_ids = list(self.thing_class_ids)
            outside = [i for i in self.thing_class_ids if i < 0 or (count is not None and i >= count)]
            if outside:
                raise AdapterError(f"thing_class_ids holds {outside[0]}, which is no position in class_names")
        if self.class_ids is not None and (count is None or len(set(self.class_ids)) != count):
            raise AdapterError(f"class_ids is {self.class_ids}; it must hold a different id for each of class_names")
        check_range("ignore_index", self.ignore_index, 0, MAX_ID)
        for class_id in self.class_ids or ():
            check_range("class_ids", class_id, 0, MAX_ID)
        if self.colors is not None:
            self.colors = [list(color) for color in self.colors]
            if count is not None and len(self.colors) != count:
                raise AdapterError(f"{len(self.colors)} colors were given for {count} class_names")
            if wrong := [c for c in self.colors if len(c) != 3 or not all(0 <= value <= 255 for value in c)]:
                raise AdapterError(f"colors holds {wrong[0]}; a color is red, green and blue, each 0 to 255")
        check_range("image_size", self.image_size, 1, MAX_IMAGE_SIZE)
        check_range("image_bits", self.image_bits, 8, 16)
        if self.shots is not None and self.shots < 1:
            raise AdapterError(f"shots is {self.shots}; it must be at least 1")

    @property
    def learned(self) -> str:
        """What the method learns, for a sentence about "learned ..."."""
        return "prompts"

    def learns(self, kind: str) -> bool:
        """Whether anything is learned of the `"spatial"` or the `"semantic"` prompts."""
        return kind == "semantic"

    @property
    def needs(self) -> tuple[str, ...]:
        """What the method needs of a base model; see `ModelFamily.lacks`."""
        return ()

    @property
    def paper(self) -> str:
        """The title of the paper that the method comes from."""
        return SSPROMPT_PAPER

    @property
    def method_name(self) -> str:
        """The method as people write it."""
        return type(self).__name__.removesuffix("Config")

    @property
    def default_learning_rate(self) -> float:
        """
        What training starts from where no learning rate is given, in units of the size of what is learned: chosen for
        each method by the same sweep of `seem-nano` over images that no table reports
        (`benchmarks/results/sweep.json`).
        """
        return 0.03

    @property
    def default_shrinkage(self) -> float:
        """How far prompts go back after training where nothing else is given; chosen in the same way. 0 is
        right where the start is no better than the result."""
        return 0.0

    @property
    def training_defaults(self) -> dict[str, float]:
        """The training arguments that depend on the method, where they are not given."""
        return {
            "learning_rate": self.default_learning_rate,
            "shrinkage": self.default_shrinkage,
        }

    def has_settings_of(self, other: "PromptConfig") -> bool:
        """Whether both are of one method, for the same classes, with the same settings of the method."""
        shared = {field.name for field in fields(PromptConfig)} - {"class_names", "thing_class_ids"}
        own = {field.name for field in fields(other)} - shared
        return type(other) is type(self) and all(getattr(other, name) == getattr(self, name) for name in own)

    def has_semantic_settings_of(self, other: "PromptConfig") -> bool:
        """Whether class prompts of both are stored in the same form and mean the same."""
        apart = ("class_names", "thing_class_ids", "point_grid_size", "deep_prompts", "init_embeddings", "init_std")
        own = {field.name for field in fields(other)} - {field.name for field in fields(PromptConfig)} - {*apart}
        return type(other) is type(self) and all(
            getattr(other, name) == getattr(self, name) for name in own if not name.startswith("spatial_")
        )

    def take_records(self, other: "PromptConfig", source: str, adapter_name: str, check_base_model: bool) -> None:
        """
        Tell what `other` tells of data and scores, before the adapter is given the weights that belong to it.

        Args:
            other: the configuration beside those weights.
            source, adapter_name: for messages: where it comes from, and what this adapter is called.
            check_base_model: refuse weights that were made for another base model.

        Raises:
            AdapterError: the weights mean something else there, or were made for another base model.
        """
        if not self.has_settings_of(other):
            raise AdapterError(
                f"{source} has other classes or settings than the adapter {adapter_name!r} that is already loaded: "
                "load it under another name"
            )
        prints = {one.base_model_fingerprint for one in (other, self)} - {ANY_BASE_MODEL}
        if check_base_model and len(prints) > 1:
            raise AdapterError(
                f"{source} was made for another base model (fingerprint {other.base_model_fingerprint}) than the "
                f"adapter {adapter_name!r} (fingerprint {self.base_model_fingerprint}): load that base model"
            )
        for name in RECORDS:
            setattr(self, name, getattr(other, name))

    @property
    def starts_from_words(self) -> bool:
        """Whether the default semantic prompts are to be made of class names even where the base model knows no words
        and has to borrow a text encoder."""
        return False

    def prompt_encoders(self, is_new: bool, is_trainable: bool) -> tuple[str, ...]:
        """
        The parts of the base model that the adapter needs besides its slots: `"text"`, `"spatial"`.

        Args:
            is_new: the adapter is being made, not loaded.
            is_trainable: it is to be trained, further or for the first time.
        """
        return ()

    @classmethod
    def peft_type_name(cls) -> str | None:
        """The `peft_type` in the files of this method; None for a class that is no method."""
        return peft_type_name(cls)

    @contextmanager
    def expecting(self, tensors: dict[str, torch.Tensor]) -> Iterator[None]:
        """While this configuration is written before the tensors are."""
        self.__dict__["_coming_digest"] = stored_digest(tensors)
        try:
            yield
        finally:
            del self.__dict__["_coming_digest"]

    def save_pretrained(
        self, save_directory: str | os.PathLike, auto_mapping_dict: dict | None = None, **kwargs: Any
    ) -> None:
        """Write `adapter_config.json`, under a temporary name first, with the digest of the tensors that are there
        already; arguments as in PEFT."""
        from peft.utils import CONFIG_NAME

        data = self.to_dict()
        weights = os.path.join(save_directory, ADAPTER_WEIGHTS)
        digest = self.__dict__.get("_coming_digest")
        if digest is None and os.path.isfile(weights):
            digest = stored_digest(load_file(weights))
        data["tensors_sha256"] = digest
        if auto_mapping_dict is not None:
            data["auto_mapping"] = auto_mapping_dict
        data["peft_type"] = str(getattr(self.peft_type, "value", self.peft_type))
        write_json(os.path.join(save_directory, CONFIG_NAME), dict(sorted(data.items())))
