"""Procedurally drawn street scenes: data for `seem-lite` and `seem-nano`, with nothing to download.

`StreetScenes` is a map-style dataset without files. Every scene is a random street in three dimensions (see
`layout`), drawn as polygons (`drawing`) and lit, textured and weathered (`weather`). The weather conditions are in the
spirit of ACDC (Sakaridis et al., 2021): the same streets in fog, at night, in rain and in snow.
"""

import numpy as np

from .classes import (
    CUSTOM_CLASSES,
    CUSTOM_COLORS,
    CUSTOM_THINGS,
    IGNORE_INDEX,
    LABEL_SETS,
    STREET_CLASSES,
    STREET_COLORS,
    STREET_SYNONYMS,
    STREET_THINGS,
)
from .drawing import rasterise
from .layout import compose_scene
from .weather import CONDITIONS, render

__all__ = [
    "CUSTOM_CLASSES",
    "CUSTOM_COLORS",
    "CUSTOM_THINGS",
    "IGNORE_INDEX",
    "STREET_CLASSES",
    "STREET_COLORS",
    "STREET_CONDITIONS",
    "STREET_LABEL_SETS",
    "STREET_SPLITS",
    "STREET_SYNONYMS",
    "STREET_THINGS",
    "StreetScenes",
]

STREET_CONDITIONS = CONDITIONS
STREET_LABEL_SETS = tuple(LABEL_SETS)
STREET_SPLITS = ("train", "validation", "test")
_MINIMUM_SIDE = 16


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}; choose one of {', '.join(map(repr, choices))}.")


class StreetScenes:
    """Drawn street scenes with class and instance labels.

    Scene `i` depends on (seed, split, i) alone: not on the other arguments, the process or the order of access. Splits
    never share a scene, every condition shows the same streets with the same labels, and every label set the same
    images. Pixels are reproducible for one version of numpy and Pillow.

    Args:
        split: "train", "validation" or "test".
        condition: "clear", "fog", "night", "rain" or "snow".
        size: (height, width) of the images in pixels, at least 16 each. Another size shows the same street
            through another sensor.
        num_images: length of the dataset; a longer one starts with the same scenes.
        seed: non-negative; another seed gives other scenes.
        label_set: "base" (`STREET_CLASSES`) or "custom" (`CUSTOM_CLASSES`).

    Attributes:
        classes: class names by id.
        thing_ids: ids of the countable classes.
        colors: RGB colour by class id.
        ignore_index: 255, the label of what belongs to no class.

    Raises:
        ValueError: for an unknown split, condition or label set, a bad size, a negative seed, or fewer than one image.
    """

    def __init__(
        self,
        split: str = "train",
        condition: str = "clear",
        size: tuple[int, int] = (192, 384),
        num_images: int = 1000,
        seed: int = 0,
        label_set: str = "base",
    ):
        _check_choice("split", split, STREET_SPLITS)
        _check_choice("condition", condition, STREET_CONDITIONS)
        _check_choice("label set", label_set, STREET_LABEL_SETS)
        if len(size) != 2 or min(size) < _MINIMUM_SIDE:
            raise ValueError(f"size is {size!r}; give (height, width) with both at least {_MINIMUM_SIDE} pixels.")
        if num_images < 1:
            raise ValueError(f"num_images is {num_images!r}; it must be at least 1.")
        if seed < 0:
            raise ValueError(f"seed is {seed!r}; it must not be negative.")
        self.split = split
        self.condition = condition
        self.size = (int(size[0]), int(size[1]))
        self.num_images = int(num_images)
        self.seed = int(seed)
        self.label_set = label_set
        labels = LABEL_SETS[label_set]
        self.classes = labels.classes
        self.thing_ids = labels.things
        self.colors = labels.colors
        self.ignore_index = IGNORE_INDEX
        self._class_of_part = labels.lookup_table()

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """Draws scene `index`, negative from the end.

        Returns:
            "image" uint8 (H, W, 3) RGB; "label" uint8 (H, W) class ids, 255 where no class; "instance" int32 (H, W),
            the number of the object from 1 on where the class is a thing, else 0. Hidden objects leave gaps.

        Raises:
            IndexError: when the index is outside the dataset.
        """
        index = int(index)
        if not -self.num_images <= index < self.num_images:
            raise IndexError(f"index {index} is outside a dataset of {self.num_images} scenes.")
        index %= self.num_images
        key = [self.seed, STREET_SPLITS.index(self.split), index]
        scene = compose_scene(np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, 0]))), self.size)
        raster = rasterise(scene.camera, scene.primitives, scene.shadows)
        # light and weather have a stream of their own, so that they cannot change what stands where
        look = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, 1])))
        label = self._class_of_part[raster.part]
        instance = np.where(np.isin(label, self.thing_ids), raster.instance, 0).astype(np.int32)
        return {"image": render(scene, raster, self.condition, look), "label": label, "instance": instance}
