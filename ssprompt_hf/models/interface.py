"""What this library asks of a base model: all that tuners, training, inference and explanations know of one.

A family of base models (SEEM, SAM 3, one of your own) brings

* a model class, a `torch.nn.Module` that is also a [`PromptableModel`];
* an image processor, which is also a [`PromptableImageProcessor`];
* a [`ModelFamily`], by which `models/registry.py` finds both from a name, a folder or a Hub id.

`docs/add_a_base_model.md` shows a family of twenty lines.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import AdapterError
from .forward import ForwardConventions
from .image_processing import PromptableImageProcessor

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from ..segmentation.predictions import Prediction

SPATIAL, SEMANTIC = "spatial", "semantic"
KINDS = (SPATIAL, SEMANTIC)
DEEP, CLASS_MASKS = "deep_prompts", "class_masks"  # the `source` of their slots
DEFAULT_TEMPLATE = "a photo of a {}."

NOT_ABOUT_FEATURES = frozenset(
    ("_name_or_path", "architectures", "class_names", "dtype", "id2label", "label2id", "problem_type", "text_config")
    + ("thing_class_ids", "transformers_version", "keys_to_ignore_at_inference")
)
"""Fields of configurations: names, and what comes before or after features."""

CachedFeatures = dict[str, torch.Tensor]
"""What is kept of one image: a flat dict of tensors with a batch dimension of 1."""


@dataclass(frozen=True)
class PromptSlot:
    """
    Where a model holds prompts that can be learned.

    The module at `path` has its prompts as `weight`, a parameter, a buffer or None, and the model reads them there and
    nowhere else. A tuner puts a layer in its place, whose `weight` is the prompts in force.

    Args:
        path: of the module in the model.
        kind: `"spatial"` or `"semantic"`.
        row_dim: the dimension that counts prompts: 0 of `(N, D)` and of `(K, L, D)`, 1 of `(levels, N, D)`.
        num_fixed: so many last prompts are not learned, as the "background" of SEEM.
        source: for spatial slots, which `spatial_source` of a configuration they hold, or `DEEP` or `CLASS_MASKS`.
        title: what one prompt is called, for spatial ones.
        scale: the size of a number in a prompt, where the default prompts do not tell it because they are zeros.
            Learning rates are in units of this size.
        pads_tokens: of a semantic slot `(K, L, D)`: the model leaves out token vectors that are zeros.
        takes_bias: prompts `(K, D + 1)` are understood, too: the last number is added to the logit of the class.
        takes_several: so are `(K, M * D)`, M prompts side by side: the logit of the class is that of the best.
        is_part_of_model: whether the weights belong to the base model. Those of classes and of grids of points do not.
    """

    path: str
    kind: str
    row_dim: int = 0
    num_fixed: int = 0
    source: str = "object_queries"
    title: str = "query"
    scale: float | None = None
    is_part_of_model: bool = False
    pads_tokens: bool = False
    takes_bias: bool = False
    takes_several: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether the prompts are offsets of states in the decoder."""
        return self.source == DEEP

    @property
    def is_masks(self) -> bool:
        """Whether the prompts are masks of classes."""
        return self.source == CLASS_MASKS

    @property
    def has_class_rows(self) -> bool:
        """Whether each row belongs to a class."""
        return self.kind == SEMANTIC or self.is_masks


class PromptableModel(ForwardConventions):
    """
    A base model, as tuners, training and inference see it. A mix-in for `torch.nn.Module`.

    The calls of one image, from pixels to results:

    1. `image_features(pixel_values, stage)`: the frozen part, once an image. Its tensors are cached.
    2. `decoder_inputs(features, device)`: keyword arguments of `forward` for a batch of such images.
    3. `forward(**inputs, image_sizes=...)`: the rest, differentiable in the prompts.
    4. `predictions(outputs)`: what the output says, as a [`Prediction`], whatever the model.

    `config` must have the attributes `class_names` and `thing_class_ids` (lists, or None).
    """

    prompt_slots: Mapping[str, PromptSlot] = {}
    """Slots by name; the one of kind `"semantic"` is unique."""

    decodes_by_class = False
    """Whether decoding costs a call a class. Training then asks an image about its own classes and a few others, by
    the argument `class_indices` of `forward`, a list of int64 `(C_i,)`, one an image."""

    takes_any_size = False
    """Whether `predict_pixels` computes the same for batches and images of any size, so that one exported program does
    for all. A model that goes through the images of a batch one by one, or resizes all to one size, does not."""

    has_class_bias = False  # whether the model's own semantic prompts have what `takes_bias` speaks of
    has_class_masks = False  # whether the model itself has masks of its classes, as `CLASS_MASKS` are
    prompts_per_class = 1  # how many the model's own have of what `takes_several` speaks of
    prompts_explained = (
        "looks at an image with *spatial prompts*, each of which proposes one mask (where to look), and names the "
        "masks by *semantic prompts*, one embedding a class (what to look for)"
    )
    """What both kinds of prompts do; the end of a sentence that begins with "The base model"."""

    optional_parts: tuple[str, ...] = ()
    """Regular expressions of names in the state dict that a copy of the model may lack (prompt encoders)."""

    def default_image_processor(self) -> PromptableImageProcessor | None:
        """One with standard settings, for a model that was made without files; None if there is none."""
        return None

    # Slots

    @property
    def semantic_slot(self) -> str:
        """Name of the slot of class prompts."""
        return next(name for name, slot in self.prompt_slots.items() if slot.kind == SEMANTIC)

    def spatial_slot(self, source: str) -> str:
        """
        Name of the slot for a `spatial_source`.

        Raises:
            AdapterError: the model has no such prompts; the message lists those it has.
        """
        spatial = {slot.source: name for name, slot in self.prompt_slots.items() if slot.kind == SPATIAL}
        if source not in spatial:
            raise AdapterError(
                f"{type(self).__name__} has no spatial prompts of the kind {source!r}; it has "
                f"{', '.join(map(repr, spatial)) or 'none'}"
            )
        return spatial[source]

    def deep_prompts_shape(self, layers: str) -> tuple[int, int, int]:
        """`(P, N, D)`: offsets of N queries' states after the `"last"` layer of the decoder, or after `"all"` P of its
        layers, for the slot with source `DEEP`. Raises `AdapterError` where there is no such slot, or it is taken."""
        raise AdapterError(f"{type(self).__name__} has no slot for deep_prompts: leave them out, or use SEEM")

    def class_masks_shape(self, num_classes: int) -> tuple[int, int]:
        """`(K, C + 2)`: of each class the weights of its mask's C features, its bias and its share of the class's
        score, for the slot with source `CLASS_MASKS`. Raises `AdapterError` where there is no such slot, or it is
        taken."""
        raise AdapterError(f"{type(self).__name__} has no slot for class_masks: leave them out, or use SEEM")

    # Classes

    def set_class_names(
        self, class_names: list[str], tokenizer: Any, thing_class_ids: list[int] | None = None
    ) -> None:
        """Let the text encoder make semantic prompts of class names, write them into their slot, and name the classes
        in `config`."""
        raise NotImplementedError

    def name_classes(self, class_names: list[str], thing_class_ids: list[int] | None = None) -> None:
        """Let `config` name the classes of the semantic prompts."""
        self.config.class_names = None if class_names is None else list(class_names)
        self.config.thing_class_ids = None if thing_class_ids is None else list(thing_class_ids)
        if class_names is not None:
            self.config.id2label = dict(enumerate(class_names))
            self.config.label2id = {name: index for index, name in enumerate(class_names)}

    def num_classes(self) -> int:
        """Of the semantic prompts in force; 0 without any."""
        slot = self.prompt_slots[self.semantic_slot]
        prompts = self.get_submodule(slot.path).weight
        return 0 if prompts is None else prompts.shape[slot.row_dim] - slot.num_fixed

    def semantic_shape(self, num_classes: int) -> tuple[int | None, ...]:
        """The shape that semantic prompts of so many classes have, fixed ones included; None where any number will
        do."""
        raise NotImplementedError

    def prompts_written(self) -> None:
        """Called when prompts have been written into the slots for good: `config` then has to say what is needed to
        load them again."""

    # Words; for methods that learn them

    def word_embeddings(self) -> nn.Embedding | None:
        """The vocabulary of the text encoder, `(V, width)`; None if there is no text encoder (any more)."""
        return None

    def encode_words(self, inputs_embeds: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """
        Semantic prompts of sentences, differentiable in their words.

        Args:
            inputs_embeds: `(K, T, width)`, word embeddings, start and end tokens included.
            ends: `(K,)`, positions of the end tokens; what follows is padding.

        Returns:
            one prompt a class, without the slot's fixed ones, in float32 at least.
        """
        raise NotImplementedError

    def drop_text_encoder(self) -> None:
        """Free the memory of the text encoder. Semantic prompts that have been made stay."""

    @property
    def borrowed_text_encoder(self) -> str | None:
        """Folder or Hub id of the text encoder that a model which knows no words takes from another; None for models
        with their own."""
        return None

    @property
    def tokenizer_name(self) -> str:
        """Folder, Hub id or name of a model with the tokenizer of the text encoder; empty if that is not known."""
        return self.borrowed_text_encoder or getattr(self, "name_or_path", "")

    @property
    def max_text_tokens(self) -> int | None:
        """How many tokens the text encoder reads, start and end included; None where that is not known without it."""
        return self._text_config().max_position_embeddings

    @property
    def class_template(self) -> str:
        """A sentence with one `{}`, by which class names become semantic prompts."""
        return DEFAULT_TEMPLATE

    @property
    def text_width(self) -> int | None:
        """Of the text encoder's word embeddings, also where it was not loaded; None where that is not known then."""
        return self._text_config().hidden_size

    def _text_config(self) -> PretrainedConfig:
        if getattr(self.config, "text_config", None) is None:
            raise AdapterError(f"{type(self).__name__} has no text encoder: CoOp and LOCN do not apply to it")
        return self.config.text_config

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> torch.Tensor:
        """One vector a name `(K, D)`, to compare semantic prompts with (`prompt_vectors`). Raises `AdapterError` where
        the model has no text encoder."""
        raise AdapterError(f"{type(self).__name__} has no text encoder, which is needed to compare prompts with words")

    @staticmethod
    def prompt_vectors(prompts: torch.Tensor) -> torch.Tensor:
        """`(K, D)` of semantic prompts without the fixed ones, for comparisons."""
        return prompts

    # Points; for methods whose spatial prompts are places in the image

    def point_shape(self, num_points: int) -> tuple[int | None, ...]:
        """The shape that prompts of so many points have in the slot with source `"point_grid"`; None where any number
        will do."""
        slot = self.prompt_slots[self.spatial_slot("point_grid")]
        return (*[None] * slot.row_dim, num_points, None)

    def point_prompts(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, grid_size: int) -> torch.Tensor:
        """
        What the prompt encoder makes of a grid of points, for each image: `(B, ...)`, in the shape of the slot with
        source `"point_grid"`.

        Raises:
            AdapterError: the model has no prompt encoder for points.
        """
        raise AdapterError(
            f"{type(self).__name__} has no points as spatial prompts: use spatial_source=object_queries"
        )

    def check_points(self) -> None:
        """Raises `AdapterError` where points cannot be given by their coordinates, because of the kind of model or
        because its prompt encoder was not loaded."""
        raise AdapterError(
            f"{type(self).__name__} has no points as spatial prompts, so VSPL, which learns their coordinates, does "
            "not apply to it"
        )

    # Features

    def feature_stages(self, adapted: Iterable[str]) -> tuple[str, ...]:
        """
        Names of what can be cached of an image while slots of the kinds `adapted` are learned, smallest first; each
        makes a step faster than the one before it.
        """
        return ("features",)

    def image_features(self, pixel_values: torch.Tensor, stage: str) -> CachedFeatures:
        """
        What the frozen part says of an image.

        Args:
            pixel_values: `(1, 3, H, W)`. One image at a time: results of batches differ by rounding.
            stage: one of `feature_stages`.

        Returns:
            tensors of batch size 1, and `padded_size`, int64 `(2,)`: images of one such size go through the decoder
            together.
        """
        raise NotImplementedError

    def feature_bytes(self, padded_size: tuple[int, int], stage: str) -> int:
        """Bytes of `image_features` of an image of this size in float32, with the 16 of `padded_size`, told without
        computing them."""
        raise NotImplementedError

    def decoder_bytes(self, padded_size: tuple[int, int], with_gradient: bool) -> int | None:
        """An estimate of the memory that decoding an image takes besides weights and features, for one class where
        classes are decoded one by one; None where it is small beside the weights."""
        return None

    def feature_settings(self) -> dict[str, Any]:
        """The settings in `config` that features depend on, or may; part of the key of a cached entry."""
        return {name: value for name, value in self.config.to_dict().items() if name not in NOT_ABOUT_FEATURES}

    def feature_modules(self, stage: str) -> list[nn.Module]:
        """The modules whose weights decide `image_features`; they are part of the key of a cached entry."""
        raise NotImplementedError

    def decoder_inputs(self, features: list[CachedFeatures], device: torch.device | str | None = None) -> dict:
        """Keyword arguments of `forward` for a batch of images with the same `padded_size`."""
        raise NotImplementedError

    def decoded_features(self, features: CachedFeatures, image_sizes: torch.Tensor) -> CachedFeatures | None:
        """
        What decoding makes of the features of an image with the spatial prompts in force, as features again, with
        which `forward` computes the same, whatever the semantic prompts are. None where semantic prompts take part in
        decoding.

        Args:
            features: of one image.
            image_sizes: `(1, 2)`, height and width of the image without padding.
        """
        return None

    def predictions(self, outputs: Any) -> list[Prediction]:
        """What an output of `forward` says: the prediction, then those of earlier decoder layers, if they were asked
        for by `output_auxiliary_predictions`."""
        raise NotImplementedError

    @torch.no_grad()
    def predict_pixels(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> Prediction:
        """
        Pixels to prediction, with nothing kept.

        Args:
            pixel_values: `(B, 3, H, W)`.
            image_sizes: `(B, 2)`, height and width of each image without padding.
        """
        stage = self.feature_stages(KINDS)[0]
        features = [self.image_features(pixels[None], stage) for pixels in pixel_values]
        return self.predictions(self(**self.decoder_inputs(features, pixel_values.device), image_sizes=image_sizes))[0]


@dataclass(frozen=True)
class BaseModelInfo:
    """
    What a base model's files say before it is loaded.

    Args:
        model_type: of its configuration.
        class_names: of its semantic prompts; None without any.
        has_text_encoder: whether it has one of its own, to make semantic prompts of names.
        takes_class_masks: whether it has a slot with source `CLASS_MASKS`.
    """

    model_type: str
    class_names: list[str] | None = None
    has_text_encoder: bool = True
    takes_class_masks: bool = False


class ModelFamily(abc.ABC):
    """
    How the models of a family are found and loaded.

    `access` stands for `revision`, `cache_dir`, `token` and `local_files_only`, as in transformers' `from_pretrained`.
    """

    name: str
    model_types: tuple[str, ...]
    borrows_text_encoder = False
    """Whether its models know no words: `load` then lends them that of another model if `"text"` is asked for, by
    `text_encoder=...` (a folder or Hub id; there is a default). Class names do not need it."""

    lacks: Mapping[str, str] = {}
    """What its models do not have, of `"words"` (a text encoder), `"points"` (as spatial prompts) and `"instances"`
    (masks of single objects), each with a clause that says so."""

    def resolve(self, name: str, **access: Any) -> str:
        """The folder or Hub id behind a name of `models/registry.py`; other texts come back as they are."""
        return name

    @abc.abstractmethod
    def info(self, source: str, **access: Any) -> BaseModelInfo:
        """What the files of a folder or Hub id say."""

    @abc.abstractmethod
    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[nn.Module, PromptableImageProcessor]:
        """
        A model in evaluation mode, and its image processor.

        Args:
            source: folder or Hub id, of `resolve`.
            prompt_encoders: the parts it must have besides: `"text"`, `"spatial"`.
            kwargs: `access`, and others of `from_pretrained` such as `dtype`.

        Raises:
            AdapterError: the files lack a prompt encoder.
            OSError: as transformers raises it.
        """

    def load_image_processor(self, source: str, model: nn.Module, **access: Any) -> PromptableImageProcessor | None:
        """The image processor that lies beside the weights of `model`, or its default one."""
        return model.default_image_processor()

    def load_tokenizer(self, source: str, **access: Any) -> Any:
        """The tokenizer of a folder or Hub id; raises as transformers."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(source, **access)

    @abc.abstractmethod
    def random_model(
        self, name: str, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[nn.Module, PromptableImageProcessor]:
        """A model of the architecture called `name` with random weights and random semantic prompts, which costs what
        the real one costs; nothing is downloaded for names of `models/registry.py`. Its image processor leaves images
        as large as they are, where the model takes images of any size."""
