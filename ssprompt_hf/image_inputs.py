"""The images that a user hands to `predict`: in memory, in files, in folders."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .data.dataset import read_image
from .data.folder import IMAGE_SUFFIXES, list_files
from .errors import NoImagesError

ImageLike = str | os.PathLike | Image.Image | np.ndarray


def image_sources(images: ImageLike | list[ImageLike]) -> tuple[list, bool]:
    """
    What there is to be read, and whether it is one image by nature.

    Args:
        images: an image, a file, a folder (all images in and below it, sorted), or a list of these.

    Returns:
        paths as text and images in memory as they are; and False for folders and lists.

    Raises:
        NoImagesError: a folder without images, or a path that is not there.
    """
    if isinstance(images, (list, tuple)):
        return [source for item in images for source in _expand(item)], False
    is_folder = isinstance(images, (str, os.PathLike)) and os.path.isdir(images)
    return _expand(images), not is_folder


def _expand(item: ImageLike) -> list:
    if not isinstance(item, (str, os.PathLike)):
        return [item]
    path = Path(item)
    if path.is_dir():
        files = list_files(path, IMAGE_SUFFIXES)
        if not files:
            raise NoImagesError(f"{path}: no images; looked for files ending in {', '.join(IMAGE_SUFFIXES)}")
        return [str(file) for file in files]
    if not path.is_file():
        raise NoImagesError(f"{path}: no such file or folder")
    return [str(path)]


def open_image(source: Any) -> Image.Image:
    """An RGB image of a path, an image, or an array (H, W, 3) of uint8.

    Raises:
        UnreadableFileError: the file is no image.
    """
    if isinstance(source, Image.Image):
        return source.convert("RGB")
    if isinstance(source, str):
        return Image.fromarray(read_image({"path": source, "bytes": None}, source))
    return Image.fromarray(np.asarray(source)).convert("RGB")
