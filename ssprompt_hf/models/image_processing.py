"""An image processor, as data loading and inference see it, and what its settings may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers.image_utils import SizeDict

from ..errors import CheckpointError, SSPromptError

if TYPE_CHECKING:
    from ..segmentation.policy import InferencePolicy

CHANNELS = 3
"""Of the images that all families take."""

MAX_PIXEL = 255
"""The largest value of a pixel, before or after rescaling, and so of their mean and deviation."""

MAX_IMAGE_SIZE = 16384
"""Pixels of a side to which images may be resized or padded: more than any camera's."""


class PromptableImageProcessor:
    """
    An image processor, as data loading and inference see it. A mix-in for one of transformers'.

    Calling it with `images` and `return_tensors="pt"` gives `pixel_values` `(B, 3, H, W)` and `image_sizes` `(B, 2)`,
    height and width of each image within them; `to_dict()` gives its settings.

    Raises:
        SSPromptError: a setting, of the constructor or of a call, that no image can be prepared with.
    """

    default_to_square: bool
    size_forms: tuple[tuple[str, ...], ...] = (("height", "width"),)
    """What `size` must tell: all of one of these."""

    def __init__(self, **kwargs: Any):
        self._check_settings(kwargs)
        for name, value in kwargs.items():
            if value is None and self._needs(name, kwargs):
                raise SSPromptError(f"{name} is None; it must be {_RULES[name][1]}, or be left out")
        super().__init__(**kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """
        As in `transformers`.

        Raises:
            CheckpointError: a setting in the file that no image can be prepared with; the message names both.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        except CheckpointError:
            raise
        except SSPromptError as error:
            source = os.fspath(pretrained_model_name_or_path)
            raise CheckpointError(
                f"the image processor of {source!r} cannot be used: {error}. Copy or download its file again, or put "
                "that right"
            ) from error

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers`, after a look at the settings: of this call, and those that attributes were set to."""
        self._check_settings({name: getattr(self, name, None) for name in _RULES} | kwargs)
        return super().preprocess(images, *args, **kwargs)  # type: ignore[misc]

    @classmethod
    def _needs(cls, name: str, settings: Mapping[str, Any]) -> bool:
        """Whether a setting must have a value, which in a file may be null: it has one by default, and is used."""
        if name not in _RULES or getattr(cls, name, None) is None:
            return False
        switch = _USED_IF.get(name)
        return switch is None or bool(settings.get(switch, getattr(cls, switch, None)))

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """
        Look at settings, which transformers believes: some fail in the middle of an image, some give numbers that
        mean nothing, and some ask for more memory than there is. None passes, and so do names that are not known.
        """
        for name, value in settings.items():
            if value is not None and name in _RULES:
                is_right, wanted = _RULES[name]
                if not is_right(value):
                    raise SSPromptError(f"{name} is {value!r}; it must be {wanted}")
        for name, forms in (("size", self.size_forms), ("pad_size", (("height", "width"),))):
            size = settings.get(name)
            if size is None:
                continue
            if isinstance(size, (Mapping, SizeDict)):
                told = {side for side, length in dict(size).items() if length is not None}
            else:  # as transformers reads numbers
                is_square = name == "pad_size" or self.default_to_square or not _is_integer(size)
                told = {"height", "width"} if is_square else {"shortest_edge"}
            if not any(told.issuperset(form) for form in forms):
                raise SSPromptError(f"{name} is {size!r}; it must have {' or '.join(map(' and '.join, forms))}")

    def resized_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) that an image of size (H, W) has after resizing, before padding."""
        raise NotImplementedError

    def padded_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the pixel values of an image that was resized to (H, W)."""
        return size

    def with_image_size(self, image_size: int) -> PromptableImageProcessor:
        """
        A copy that gives images a shorter side of `image_size` pixels.

        Raises:
            SSPromptError: the model takes images of one size only.
        """
        raise NotImplementedError

    def inference_policy(self) -> InferencePolicy:
        """Thresholds that suit the model."""
        raise NotImplementedError


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_level(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_PIXEL


def _is_positive(value: Any) -> bool:
    return _is_level(value) and value > 0


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_side(value: Any) -> bool:
    return _is_integer(value) and 1 <= value <= MAX_IMAGE_SIZE


def _is_switch(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_resampling(value: Any) -> bool:
    return _is_integer(value) and 0 <= value <= 5


def _are_ids(value: Any) -> bool:
    return isinstance(value, Iterable) and all(map(_is_integer, value))


def _per_channel(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """One for all channels, or one for each, as `normalize` of transformers takes them."""

    def are_right(value: Any) -> bool:
        if isinstance(value, (list, tuple, np.ndarray)):
            return len(value) == CHANNELS and all(map(is_right, value))
        return is_right(value)

    return are_right


def _is_size(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) == 2 and all(map(_is_side, value))
    if not isinstance(value, (Mapping, SizeDict)):
        return _is_side(value)
    sides, known = dict(value), {field.name for field in fields(SizeDict)}
    return known.issuperset(sides) and all(side is None or _is_side(side) for side in sides.values())


_Rule = tuple[Callable[[Any], bool], str]
_SWITCH: _Rule = (_is_switch, "True or False")
_SHARE: _Rule = (_is_share, "a number from 0 to 1")
_SIDE: _Rule = (_is_side, f"a whole number from 1 to {MAX_IMAGE_SIZE}")
_SIZE: _Rule = (_is_size, f"height and width, or lengths of edges, whole numbers from 1 to {MAX_IMAGE_SIZE}")
_POSITIVE = f"a number above 0 and at most {MAX_PIXEL}"
_SWITCHES = ("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad")
_RULES: dict[str, _Rule] = {
    "image_mean": (_per_channel(_is_level), f"a number from 0 to {MAX_PIXEL}, or {CHANNELS}, one for each channel"),
    "image_std": (_per_channel(_is_positive), f"{_POSITIVE}, or {CHANNELS}, one for each channel"),
    "rescale_factor": (_is_positive, _POSITIVE),
    "enlargement": (_is_positive, _POSITIVE),
    "resample": (_is_resampling, "the number of one of Pillow's filters, 0 to 5"),
    "ignore_index": (_is_integer, "a whole number"),
    "thing_class_ids": (_are_ids, "a list of class ids"),
    "object_mask_threshold": _SHARE,
    "overlap_threshold": _SHARE,
    **dict.fromkeys(("size", "crop_size", "pad_size", "mask_size", "mask_pad_size"), _SIZE),
    **dict.fromkeys(("max_shortest_edge", "size_divisibility", "patch_size", "mask_stride"), _SIDE),
    **dict.fromkeys(_SWITCHES, _SWITCH),
}
"""By the name of a setting whether a value is right, and what is."""

_USED_IF = {
    "image_mean": "do_normalize",
    "image_std": "do_normalize",
    "rescale_factor": "do_rescale",
    "resample": "do_resize",
    "size": "do_resize",
    "pad_size": "do_pad",
}
"""Settings that are of no use without another."""
