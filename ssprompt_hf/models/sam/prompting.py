"""SAM and SAM 2 as promptable base models: their slots, classes and points, and what of them can be cached.

They know no words. What this package asks them about a class is a set of tokens for the mask decoder: the spatial
prompts, which all classes share, and then the class's own semantic prompts. By default these are what the frozen
prompt encoder makes of a grid of positive points, and the token that it puts after any points, "not a point". This is
our reading of the SSPrompt paper's Table 9, whose text does not say how SAM was prompted.

So by default all classes are the same question, and get the same answer up to rounding: zero-shot segmentation is
chance. And it stays chance with methods that learn spatial prompts alone (SpaPrompt, VSPL): as long as all classes
have the same map, a loss that compares classes has no gradient. Only semantic prompts tell classes apart: learned
ones, or those that a text encoder makes of words (`words.py`).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ...errors import SSPromptError
from ..interface import SEMANTIC, SPATIAL, CachedFeatures, PromptableModel, PromptSlot
from ..transformers_compat import LoadsPromptAdapters
from .words import DEFAULT_TEXT_ENCODER, SamWords

CONFIG_DEFAULTS = {
    "class_names": None,
    "thing_class_ids": None,
    "point_grid_size": 4,
    "num_class_tokens": 1,
    "text_encoder": DEFAULT_TEXT_ENCODER,
    "prompt_shapes": None,
}
"""
What our models add to the configuration of transformers' own.

* `point_grid_size`: points per row and column of the grid whose tokens are the default spatial prompts.
* `num_class_tokens`: T, the default semantic prompts of a class. With one, an unadapted model answers as transformers'
  does for the points alone; with T as for T - 1 points more with the label -1. Tokens that start as equals get the
  same gradient and stay equals, so that more than one are of use only if they start differently
  (`SSPromptConfig(init_embeddings="noise")`).
* `text_encoder`: folder or Hub id of a CLIP, whose text encoder is lent to the model when words are asked for.
* `prompt_shapes`: of the prompts that are saved with the weights, by the name of their slot.
"""

DECODER_MAPS = {False: 11, True: 21}
"""Maps of the size of the image embedding that live together while one class is decoded, without and with gradient."""


class SamPromptSlot(nn.Module):
    """
    A slot. `weight` is a buffer, or what `make_default` makes while that is None.

    Args:
        shape: of the buffer; None without.
        make_default: see above; None for slots that are empty by default.
    """

    def __init__(self, shape: list[int] | None, make_default: Callable[[], Tensor] | None = None):
        super().__init__()
        self.make_default = make_default
        self.register_buffer("weight", None if shape is None else torch.zeros(shape))

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if name == "weight" and value is None and self.make_default is not None:
            return self.make_default()
        return value

    def forget_default(self) -> None:
        """Hold nothing, if that means the same."""
        stored = self._buffers["weight"]
        if stored is not None and self.make_default is not None:
            default = self.make_default()
            if stored.shape == default.shape and torch.equal(stored, default.to(stored)):
                self.weight = None


def grid_points(grid_size: int) -> Tensor:
    """Centres of a regular grid of cells over the image, row by row: `(grid_size**2, 2)`, x and y in 0..1."""
    centres = (torch.arange(grid_size) + 0.5) / grid_size
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


class SamPrompting(LoadsPromptAdapters, SamWords, PromptableModel):
    """
    What makes transformers' `SamModel` or `Sam2Model` a base model, but for the prediction.

    Attributes:
        model_title (`str`): for messages.
        pads_images (`bool`): whether images are padded to the square, not stretched.
    """

    prompt_slots = {
        "points": PromptSlot("points", SPATIAL, title="point", is_part_of_model=True),
        "point_tokens": PromptSlot("point_tokens", SPATIAL, source="point_grid", title="point"),
        "point_coordinates": PromptSlot("point_coordinates", SPATIAL, source="coordinates", title="point"),
        "class_tokens": PromptSlot("class_tokens", SEMANTIC),
    }
    prompts_explained = (
        "is asked about one class at a time. *Spatial prompts*, the tokens of points (where to look), are the same "
        "for all classes; *semantic prompts* are tokens of each class (what to look for). Both together make one mask"
    )
    decodes_by_class = True
    model_title: str
    pads_images: bool

    def __init__(self, config: PretrainedConfig):
        super().__init__(config)
        for name, value in CONFIG_DEFAULTS.items():
            if not hasattr(self.config, name):
                setattr(self.config, name, value)
        for name in ("point_grid_size", "num_class_tokens"):
            if getattr(self.config, name) < 1:
                raise SSPromptError(f"{name} is {getattr(self.config, name)}; it must be at least 1")
        shapes = self.config.prompt_shapes or {}
        for name in self.prompt_slots:
            make_default = self._default_points if name == "points" else None
            setattr(self, name, SamPromptSlot(shapes.get(name), make_default))
        self.text_encoder = None

    @property
    def optional_parts(self) -> tuple[str, ...]:
        """See [`PromptableModel`]: the default points are made by the model, and so no part of it, and the text
        encoder is another's."""
        own = () if "points" in (self.config.prompt_shapes or {}) else (r"^points\.",)
        return (*own, r"^text_encoder\.")

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that the model takes."""
        return self.prompt_encoder.input_image_size

    @property
    def width(self) -> int:
        """D, of a token."""
        return self.prompt_encoder.hidden_size

    # Classes

    @torch.no_grad()
    def set_class_names(
        self, class_names: list[str], tokenizer: Any = None, thing_class_ids: list[int] | None = None
    ) -> None:
        """
        Give classes their default semantic prompts, the same for all, whatever they are called; or, with a tokenizer
        and a text encoder, those of their names.

        Args:
            class_names: K names.
            tokenizer: of the text encoder, for classes that start as their names; see `encode_sentences`.
            thing_class_ids: positions of the countable classes.

        Raises:
            SSPromptError: no names, or one that is too long.
        """
        if not class_names:
            raise SSPromptError("class_names is empty: name at least one class")
        if tokenizer is not None and self.text_encoder is not None:
            self.class_tokens.weight = self.encode_sentences(class_names, tokenizer).to(self.dtype)
        else:
            token = self.embed_points(grid_points(1))[-1]
            self.class_tokens.weight = token.repeat(len(class_names), self.config.num_class_tokens, 1)
        self.name_classes(class_names, thing_class_ids)
        self.prompts_written()

    def semantic_shape(self, num_classes: int) -> tuple[int | None, ...]:
        """`(K, T, D)`, whatever the number of tokens."""
        return num_classes, None, self.width

    @staticmethod
    def prompt_vectors(prompts: Tensor) -> Tensor:
        """The mean token of each class, `(K, D)`, of `(K, T, D)`."""
        return prompts.mean(dim=1)

    def prompts_written(self) -> None:
        """Let the configuration say the shapes of the prompts that are saved with the weights."""
        shapes = {}
        for name, slot in self.prompt_slots.items():
            module = self.get_submodule(slot.path)
            while not isinstance(module, SamPromptSlot):
                module = module.base_layer
            module.forget_default()
            if (stored := module._buffers["weight"]) is not None:
                shapes[name] = list(stored.shape)
        self.config.prompt_shapes = shapes or None

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, after `prompts_written`."""
        self.prompts_written()
        return super().save_pretrained(*args, **kwargs)

    # Points

    def embed_points(self, coordinates: Tensor) -> Tensor:
        """
        What the prompt encoder makes of positive points: the tokens of `Sam(2)Model.forward(input_points=...,
        input_labels=1)`, bit for bit.

        Args:
            coordinates: `(N, 2)`, x and y, shares of the square of pixel values.

        Returns:
            `(N + 1, D)`: a token a point and one for "not a point", differentiable in the coordinates.
        """
        coordinates = coordinates.to(self.prompt_encoder.no_mask_embed.weight.device)
        points = (coordinates * self.image_size)[None, None]
        labels = torch.ones(points.shape[:-1], dtype=torch.int, device=points.device)
        return self.prompt_encoder(points, labels, None, None)[0][0, 0]

    @torch.no_grad()
    def token_size(self) -> float:
        """Root mean square of the numbers in the prompt encoder's own tokens, of a grid of 4 x 4 points."""
        return float(self.embed_points(grid_points(4))[:-1].float().square().mean().sqrt())

    @torch.no_grad()
    def _default_points(self) -> Tensor:
        """`(point_grid_size**2, D)`: of a grid over the square of pixel values, in SAM with its padding."""
        return self.embed_points(grid_points(self.config.point_grid_size))[:-1]

    def _image_shares(self, image_sizes: Tensor | None, count: int) -> Tensor:
        """`(B, 2)`: the shares in width and height of the square that images fill."""
        if image_sizes is None or not self.pads_images:
            return torch.ones(count, 2)
        return torch.as_tensor(image_sizes).flip(-1) / self.image_size

    def _spatial_tokens(self, image_sizes: Tensor | None, count: int) -> list[Tensor]:
        """The spatial prompts in force, `(N, D)`, for each of `count` images."""
        coordinates = self.point_coordinates.weight
        if coordinates is not None:
            shares = self._image_shares(image_sizes, count).to(coordinates)
            tokens = [self.embed_points(coordinates * share)[:-1] for share in shares]
        else:
            tokens = self.point_tokens.weight
            tokens = [self.points.weight if tokens is None else tokens] * count
        return [one.to(self.dtype) for one in tokens]

    def point_shape(self, num_points: int) -> tuple[int | None, ...]:
        """`(N, D)`."""
        return num_points, self.width

    @torch.no_grad()
    def point_prompts(self, pixel_values: Tensor, image_sizes: Tensor, grid_size: int) -> Tensor:
        """`(B, grid_size**2, D)`: of a grid over each image without its padding. It depends on the form of an image
        where there is padding, and on nothing else."""
        points = grid_points(grid_size)
        shares = self._image_shares(image_sizes, len(pixel_values)).to(points)
        return torch.stack([self.embed_points(points * share)[:-1] for share in shares])

    def check_points(self) -> None:
        """See [`PromptableModel.check_points`]: they can be given by their coordinates."""

    # Features

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """(C, h, w) of the levels of the features, finest first; the last is the image embedding."""
        raise NotImplementedError

    def encode_image(self, pixel_values: Tensor) -> list[Tensor]:
        """The levels `(1, C, h, w)` of `pixel_values` `(1, 3, H, W)`, finest first."""
        raise NotImplementedError

    @torch.no_grad()
    def image_features(self, pixel_values: Tensor, stage: str = "features") -> CachedFeatures:
        """
        See [`PromptableModel.image_features`]: `level_0` and so on, `(1, C, h, w)`, and `padded_size`.

        Raises:
            SSPromptError: the image has another size than the model was built for.
        """
        size, side = tuple(pixel_values.shape[-2:]), self.image_size
        if size != (side, side):
            raise SSPromptError(
                f"pixel_values are {size[0]}x{size[1]} pixels; this {self.model_title} takes {side}x{side}: use its "
                "image processor"
            )
        levels = self.encode_image(pixel_values)
        features = {f"level_{index}": level.contiguous() for index, level in enumerate(levels)}
        return features | {"padded_size": torch.tensor(size)}

    def feature_bytes(self, padded_size: tuple[int, int], stage: str = "features") -> int:
        """See [`PromptableModel.feature_bytes`]; `padded_size` itself, 16 bytes, is counted."""
        return 4 * sum(map(math.prod, self.level_shapes())) + 16

    def decoder_bytes(self, padded_size: tuple[int, int], with_gradient: bool) -> int:
        """See [`PromptableModel.decoder_bytes`]; from measurements of SAM 2.1 tiny."""
        return 4 * math.prod(self.level_shapes()[-1]) * DECODER_MAPS[with_gradient]

    def feature_settings(self) -> dict[str, Any]:
        """See [`PromptableModel.feature_settings`]: all but those of prompts."""
        return {name: value for name, value in super().feature_settings().items() if name not in CONFIG_DEFAULTS}

    def feature_modules(self, stage: str = "features") -> list[nn.Module]:
        """See [`PromptableModel.feature_modules`]: the vision encoder."""
        return [self.vision_encoder]

    def decoder_inputs(self, features: list[CachedFeatures], device: torch.device | str | None = None) -> dict:
        """`vision_features` for `forward`: a list of levels an image, in the model's dtype. They are not joined, as
        images are decoded one by one."""
        names = [f"level_{index}" for index in range(len(self.level_shapes()))]
        return {
            "vision_features": [
                [image[name].to(device, self.dtype, non_blocking=True) for name in names] for image in features
            ]
        }
