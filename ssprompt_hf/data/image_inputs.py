"""The images that a user hands to `predict`: in memory, in files, in folders."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import NoImagesError, SSPromptError, UnreadableFileError
from .downloads import download, is_address
from .sources.folder import IMAGE_SUFFIXES, list_files
from .sources.image_files import image_size, read_upright, upright_image

ImageLike = str | os.PathLike | Image.Image | np.ndarray


def image_sources(images: ImageLike | list[ImageLike]) -> tuple[list, bool]:
    """
    What there is to be read, and whether it is one image by nature.

    Args:
        images: an image, a file, an http(s) address, a folder (all images in and below it, sorted), or a list of
            these.

    Returns:
        paths as text and images in memory as they are; and False for folders and lists.

    Raises:
        NoImagesError: a folder without images, or a path that is empty or not there.
    """
    if isinstance(images, (list, tuple)):
        return [source for item in images for source in _expand(item)], False
    is_folder = isinstance(images, (str, os.PathLike)) and os.path.isdir(images)
    return _expand(images), not is_folder


def _expand(item: ImageLike) -> list:
    if not isinstance(item, (str, os.PathLike)):
        return [item]
    if not os.fspath(item):  # a Path would make the working directory of it
        raise NoImagesError("one of the paths is empty: give an image, or a folder ('.' for the working directory)")
    if is_address(item):
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


def open_image(source: Any, bits: int | None = None) -> Image.Image:
    """An RGB image of a path, an http(s) address, an image, or an array of uint8: (H, W, 3), or (H, W) or (H, W, 1) in
    grey.

    `bits` says how many are in use in images with more than 8; by default the image itself tells, as far as it can.
    Files and images in memory are turned upright as their EXIF data says; an array is taken as it is.

    Raises:
        UnreadableFileError: the file is no image, or cannot be downloaded.
        SSPromptError: an array that is no image by its type, shape or values.
    """
    if isinstance(source, Image.Image):
        upright = upright_image(source, bits=bits)
        return upright.copy() if upright is source else upright  # the caller may go on to draw on it
    if is_address(source):
        return read_upright({"path": None, "bytes": download(source)}, source, bits)
    if isinstance(source, str):
        return read_upright({"path": source, "bytes": None}, source, bits)
    return Image.fromarray(_image_array(source)).convert("RGB")


def image_description(source: str) -> str:
    """An image's path, and its size as far as its file tells that without being decoded."""
    try:
        height, width = image_size({"path": source, "bytes": None}, source)
    except (UnreadableFileError, MemoryError):  # an address, say
        return source
    return f"{source} ({width}x{height} pixels)"


def _image_array(source: Any) -> np.ndarray:
    """uint8 (H, W), or (H, W, C) of 1 to 4 channels: what Pillow makes an image of without clipping a value."""
    array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]  # the only channel of a grey image, which Pillow knows without it
    fix = None
    if array.dtype.kind == "f":
        fix = "(255 * image).round().astype('uint8') where 1 is white"
    elif array.dtype.kind not in "iu":
        fix = "convert it first"
    elif not array.size or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (2, 3, 4)):
        fix = "the channels come last"
    elif array.dtype != np.uint8 and not 0 <= array.min() <= array.max() <= 255:
        fix = f"these values go from {array.min()} to {array.max()}, scale them (16 bits: image >> 8)"
    if fix is not None:
        raise SSPromptError(
            f"an array of {array.dtype}, shape {array.shape}, is no image: it must be uint8 (H, W, 3), 0 to 255; {fix}"
        )
    return array.astype(np.uint8, copy=False)
