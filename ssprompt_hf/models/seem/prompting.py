"""SEEM as a promptable base model: its slots, its words, its points, and the parts of it that can be cached."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize, pad

from ...errors import AdapterError
from ...segmentation.predictions import QueryPrediction
from ..interface import (
    CLASS_MASKS,
    DEEP,
    DEFAULT_TEMPLATE,
    SEMANTIC,
    SPATIAL,
    CachedFeatures,
    PromptableModel,
    PromptSlot,
)
from ..pixel_embeddings import EmbedsPixels
from .image_processing_seem import SeemImageProcessor
from .mask_decoder import NUM_LEVELS
from .outputs import SeemImageFeatures

LEVEL_STRIDES = (32, 16, 8)
"""Of the maps that the decoder looks at, coarsest first; masks have stride 4."""

CACHED_FIELDS = {
    "multi_scale_features": "multi_scale_features",
    "keys": "key_states",
    "values": "value_states",
    "attention_features": "attention_features",
}
"""Fields of `SeemImageFeatures` that are tuples, by their names in a cached feature: those that caches have always
had, so that old files stay good."""


class SeemPrompting(EmbedsPixels, PromptableModel):
    """
    What can be cached of an image (`feature_stages`):

    * `"features"`: what the mask decoder needs; independent of any prompt;
    * `"projections"`: the same with keys and values of the decoder's layers, about twice as large;
    * `"predictions"`: what the decoder answered, if no spatial prompts are learned, as class embeddings enter nothing
      but the last similarity.
    """

    prompt_slots = {
        "object_queries": PromptSlot("model.object_queries", SPATIAL, is_part_of_model=True),
        "point_tokens": PromptSlot("model.point_tokens", SPATIAL, row_dim=1, source="point_grid"),
        "point_coordinates": PromptSlot("model.point_coordinates", SPATIAL, source="coordinates"),
        "deep_prompts": PromptSlot("model.deep_prompts", SPATIAL, row_dim=1, source=DEEP, scale=1.0),
        "class_masks": PromptSlot("class_masks", SPATIAL, source=CLASS_MASKS, title="class mask"),
        # the last row is "background", which means no object
        "class_embeddings": PromptSlot("class_embeddings", SEMANTIC, num_fixed=1, takes_bias=True, takes_several=True),
    }
    optional_parts = (
        r"model\.text_model\.",
        r"model\.spatial_prompt_encoder\.",
        r"model\.memory_(features|positions)",
    )

    no_predictions = ("auxiliary_predictions", "class_queries_embeds", "mask_queries_embeds", "image_features")
    no_predictions += ("padded_size", "image_sizes", "original_sizes", "hidden_states", "attentions")
    no_predictions += ("cross_attentions", "class_masks_logits", "class_masks_shares")

    @property
    def takes_any_size(self) -> bool:
        """See [`PromptableModel.takes_any_size`]; coordinates of points are shares of the image's own size."""
        return self.model.point_coordinates.weight is None

    def default_image_processor(self) -> SeemImageProcessor:
        return SeemImageProcessor(size_divisibility=self.config.size_divisibility)

    @property
    def has_class_bias(self) -> bool:
        return self.config.class_bias

    @property
    def has_class_masks(self) -> bool:
        return self.config.num_class_masks is not None

    @property
    def prompts_per_class(self) -> int:
        return self.config.prompts_per_class

    def semantic_shape(self, num_classes: int) -> tuple[int | None, ...]:
        return num_classes + 1, self.prompts_per_class * self.config.projection_dim + self.has_class_bias

    def prompt_vectors(self, prompts: torch.Tensor) -> torch.Tensor:
        """Of several prompts of a class, their mean."""
        width = self.config.projection_dim
        count = prompts.shape[1] // width
        return prompts[:, : count * width].unflatten(1, (count, width)).mean(1)

    def prompts_written(self) -> None:
        for slot, field in (("point_tokens", "num_point_tokens"), ("point_coordinates", "num_point_coordinates")):
            points = self.get_submodule(self.prompt_slots[slot].path).weight
            setattr(self.config, field, None if points is None else points.shape[-2])
        offsets = self.model.deep_prompts.weight
        self.config.num_deep_prompts = None if offsets is None else len(offsets)
        masks = self.class_masks.weight
        self.config.num_class_masks = None if masks is None else len(masks)
        classes = self.class_embeddings.weight
        columns = self.config.projection_dim if classes is None else classes.shape[-1]
        self.config.prompts_per_class, has_bias = divmod(columns, self.config.projection_dim)
        self.config.class_bias = bool(has_bias)

    # Classes

    @torch.no_grad()
    def set_class_names(
        self, class_names: list[str], tokenizer: Any, thing_class_ids: list[int] | None = None
    ) -> None:
        """Embed class names by the text encoder (the ensemble of `config.prompt_templates`) and keep the embeddings.

        Args:
            class_names: without "background", which is added.
            tokenizer: of the text encoder, or a `SeemProcessor`.
            thing_class_ids: positions of countable classes in `class_names`; all classes are things if not given.
        """
        if self.model.text_model is None:
            raise ValueError(
                "class names need the text encoder, which this model was loaded without (use_text_model=False): load "
                "it, or call set_class_embeddings"
            )
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        embeddings = self.model.text_model.encode_class_names(
            class_names, tokenizer, templates=self.config.prompt_templates, add_background=True
        )
        self.set_class_embeddings(embeddings, class_names, thing_class_ids)

    def set_class_embeddings(
        self, embeddings: torch.Tensor, class_names: list[str], thing_class_ids: list[int] | None = None
    ) -> None:
        """Keep given class embeddings `(classes + 1, projection_dim)`, the last row being "background"."""
        expected = (len(class_names) + 1, self.config.projection_dim)
        if tuple(embeddings.shape) != expected:
            raise ValueError(
                f"embeddings of {len(class_names)} classes and background must have shape {expected}, "
                f"got {tuple(embeddings.shape)}"
            )
        outside = [index for index in thing_class_ids or [] if not 0 <= index < len(class_names)]
        if outside:
            raise ValueError(f"thing_class_ids {outside} are not positions in the {len(class_names)} class names")
        self.class_embeddings.weight = embeddings.to(self.device, self.dtype)
        self.config.prompts_per_class, self.config.class_bias = 1, False
        self.class_masks.weight, self.config.num_class_masks = None, None  # which belonged to the embeddings before
        self.name_classes(class_names, thing_class_ids)

    # Words

    def word_embeddings(self) -> nn.Embedding | None:
        text_model = self.get_text_model()
        return None if text_model is None else text_model.get_input_embeddings()

    def encode_words(self, inputs_embeds: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """`(K, projection_dim)`, unit vectors."""
        text_model = self.get_text_model()
        text_embeds = text_model(inputs_embeds=inputs_embeds, end_positions=ends).text_embeds
        return text_model.class_embeddings(text_embeds[:, None])

    def drop_text_encoder(self) -> None:
        self.model.text_model = None
        self.config.use_text_model = False

    @property
    def class_template(self) -> str:
        """The template that the model's own class embeddings are made with, if there is only one."""
        templates = self.config.prompt_templates
        return templates[0] if templates and len(templates) == 1 else DEFAULT_TEMPLATE

    def encode_class_names(self, class_names: list[str], tokenizer: Any) -> torch.Tensor:
        text_model = self.get_text_model()
        if text_model is None:
            return super().encode_class_names(class_names, tokenizer)
        return text_model.encode_class_names(class_names, tokenizer, templates=self.config.prompt_templates)

    # Prototypes

    @torch.no_grad()
    def class_embedding_sums(self, outputs: Any, pixels: Callable[[tuple[int, int]], torch.Tensor]) -> torch.Tensor:
        """A pixel's embedding is the mean of the queries' unit class embeddings, weighted by their masks there and
        their probability of being an object."""
        masks, embeds = outputs.masks_queries_logits.float().sigmoid(), outputs.class_queries_embeds.float()
        objects = 1 - outputs.class_queries_logits.float().softmax(-1)[..., -1]
        shares = masks * objects[..., None, None]
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        counts = pixels(tuple(masks.shape[-2:])).to(shares)
        by_query = counts.flatten(2) @ shares.flatten(2).transpose(1, 2)
        sums = (by_query @ normalize(embeds, dim=-1)).sum(dim=0)
        return pad(sums.repeat(1, self.prompts_per_class), (0, int(self.has_class_bias)))

    # Class masks

    def pixel_features(self, features: CachedFeatures) -> torch.Tensor:
        """The mask features."""
        return features["mask_features"]

    def class_masks_shape(self, num_classes: int) -> tuple[int, int]:
        if self.has_class_masks:
            raise AdapterError(
                "the base model was merged with an adapter that has class masks already: learn others on the model "
                "without it, or leave out class_masks"
            )
        return num_classes, self.config.mask_feature_size + 2

    # Points

    def point_shape(self, num_points: int) -> tuple[int | None, ...]:
        return NUM_LEVELS, num_points, self.config.hidden_dim

    @torch.no_grad()
    def point_prompts(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor, grid_size: int) -> torch.Tensor:
        """`(B, 3, grid_size**2, hidden_dim)`: the tokens that the visual sampler makes of the points."""
        padded_size = tuple(pixel_values.shape[-2:])
        masks = torch.stack([grid_mask(*size, grid_size, padded_size) for size in image_sizes.tolist()])[:, None]
        prompts = self.get_spatial_prompts(self.get_image_features(pixel_values), masks.to(pixel_values.device))
        return torch.stack(list(prompts.tokens), dim=1)

    def check_points(self) -> None:
        if not self.config.use_spatial_prompt_encoder:
            raise AdapterError(
                "VSPL needs the visual sampler, which the base model was loaded without: load it with "
                "use_spatial_prompt_encoder=True"
            )
        if self.config.num_point_tokens is not None:
            raise AdapterError("the base model was merged with a point grid, which leaves no place for other points")

    def deep_prompts_shape(self, layers: str) -> tuple[int, int, int]:
        if self.config.num_deep_prompts is not None:
            raise AdapterError(
                "the base model was merged with an adapter that has deep prompts already: learn others on the model "
                "without it, or leave out deep_prompts"
            )
        config = self.config
        return config.decoder_layers if layers == "all" else 1, config.num_queries, config.hidden_dim

    # Features

    def feature_stages(self, adapted: Iterable[str]) -> tuple[str, ...]:
        return ("features", "projections") if SPATIAL in adapted else ("predictions",)

    @torch.no_grad()
    def image_features(self, pixel_values: torch.Tensor, stage: str) -> CachedFeatures:
        if stage == "predictions":
            return self._decoded(pixel_values.dtype, pixel_values=pixel_values)
        features = self.get_image_features(pixel_values, prepare=False)
        features = self.model.mask_decoder.prepare(features, projections=stage == "projections")
        tensors = {"mask_features": features.mask_features}
        for name, field in CACHED_FIELDS.items():
            for index, tensor in enumerate(getattr(features, field) or ()):
                tensors[f"{name}.{index}"] = tensor
        return _whole(tensors, features.padded_size)

    @torch.no_grad()
    def decoded_features(self, features: CachedFeatures, image_sizes: torch.Tensor) -> CachedFeatures:
        """See [`PromptableModel.decoded_features`]: class embeddings enter nothing but the last similarity."""
        if "class_queries_embeds" in features:
            return features
        inputs = self.decoder_inputs([features], self.device)
        return self._decoded(features["mask_features"].dtype, **inputs, image_sizes=image_sizes)

    def _decoded(self, dtype: torch.dtype, **inputs: Any) -> CachedFeatures:
        # class scores are not kept: spare the text encoder of methods that learn words
        scored = torch.zeros(1, self.config.projection_dim, dtype=dtype, device=self.device)
        output = self(**inputs, class_embeddings=scored, return_dict=True)
        tensors = {name: getattr(output, name) for name in ("class_queries_embeds", "masks_queries_logits")}
        class_masks, _ = self.decode_class_masks(output.image_features.mask_features)
        if class_masks is not None:
            tensors["class_masks_logits"] = class_masks
        return _whole(tensors, output.padded_size)

    def feature_bytes(self, padded_size: tuple[int, int], stage: str) -> int:
        config, (height, width) = self.config, padded_size
        masks = height * width // 16
        if stage == "predictions":
            num_masks = config.num_queries + (config.num_class_masks or 0)
            return 4 * (num_masks * masks + config.num_queries * config.projection_dim) + 16
        positions = [height * width // stride**2 for stride in LEVEL_STRIDES]
        numbers = config.mask_feature_size * (masks + sum(positions)) + config.feature_size * sum(positions)
        if stage == "projections":
            numbers += sum(
                2 * config.hidden_dim * positions[layer % NUM_LEVELS] for layer in range(config.decoder_layers)
            )
        return 4 * numbers + 16

    def feature_settings(self) -> dict[str, Any]:
        others = ("prompt_templates", "use_text_model", "use_spatial_prompt_encoder", "num_point_tokens")
        others += ("num_point_coordinates", "object_mask_threshold", "overlap_threshold", "use_auxiliary_loss")
        others += ("known_phrases", "class_bias", "prompts_per_class", "num_deep_prompts", "num_class_masks")
        return {name: value for name, value in super().feature_settings().items() if name not in others}

    def feature_modules(self, stage: str) -> list[nn.Module]:
        model = self.model
        modules = [model.backbone, model.pixel_decoder]
        if stage != "features":
            modules.append(model.mask_decoder)
        if stage == "predictions":
            modules += [self.get_submodule(slot.path) for slot in self.prompt_slots.values() if slot.kind == SPATIAL]
            for slot in (model.deep_prompts, self.class_masks):
                if slot.weight is None:  # which caches of earlier versions know nothing of
                    modules.remove(slot)
            if model.spatial_prompt_encoder is not None:  # which coordinates of points go through
                modules.append(model.spatial_prompt_encoder)
        return modules

    def decoder_inputs(self, features: list[CachedFeatures], device: torch.device | str | None = None) -> dict:
        """`image_features`, or `class_queries_embeds`, `masks_queries_logits` and perhaps `class_masks_logits`; and
        `padded_size` with these."""
        batch = {
            # what comes from a file has lost its layout
            name: torch.cat([entry[name].to(device, non_blocking=True) for entry in features]).contiguous(
                memory_format=_layout(name)
            )
            for name in features[0]
            if name != "padded_size"
        }
        padded_size = tuple(features[0]["padded_size"].tolist())
        if "class_queries_embeds" in batch:
            return batch | {"padded_size": padded_size}
        tuples: dict[str, list] = {}
        for name in list(batch):
            if "." in name:
                tuples.setdefault(CACHED_FIELDS[name.split(".")[0]], []).append(batch.pop(name))
        levels = {name: tuple(tensors) for name, tensors in tuples.items()}
        return {"image_features": SeemImageFeatures(**batch, **levels, padded_size=padded_size)}

    def predictions(self, outputs: Any) -> list[QueryPrediction]:
        return [
            QueryPrediction(
                one["class_queries_logits"],
                one["masks_queries_logits"],
                outputs.padded_size,
                outputs.class_masks_logits,
                outputs.class_masks_shares,
            )
            for one in (outputs, *(outputs.auxiliary_predictions or ()))
        ]

    @torch.no_grad()
    def predict_pixels(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> QueryPrediction:
        """See [`PromptableModel.predict_pixels`]; the backbone sees all images at once."""
        return self.predictions(self(pixel_values=pixel_values, image_sizes=image_sizes, return_dict=True))[0]


def _whole(tensors: dict[str, torch.Tensor], padded_size: tuple[int, int]) -> CachedFeatures:
    # views would keep more memory alive than they show, and cannot be written to a file
    tensors = {name: tensor.contiguous(memory_format=_layout(name)) for name, tensor in tensors.items()}
    return tensors | {"padded_size": torch.tensor(padded_size)}


def _layout(name: str) -> torch.memory_format:
    """How a cached tensor lies in memory: keys and values are made of whole pixels, masks of whole maps."""
    return torch.channels_last if name.startswith("multi_scale_features") else torch.contiguous_format


def grid_mask(height: int, width: int, grid_size: int, padded_size: tuple[int, int]) -> torch.Tensor:
    """
    A `padded_size` mask, bool, with `grid_size**2` pixels set: the centres of a regular grid of cells over the image,
    which lies at the top left.

    Raises:
        AdapterError: the image has fewer rows or columns than the grid.
    """
    if min(height, width) < grid_size:
        raise AdapterError(f"an image of {height}x{width} pixels is too small for a grid of {grid_size}x{grid_size}")
    rows, columns = (((torch.arange(grid_size) + 0.5) * (side / grid_size)).floor().long() for side in (height, width))
    mask = torch.zeros(padded_size, dtype=torch.bool)
    mask[rows[:, None], columns] = True
    return mask
