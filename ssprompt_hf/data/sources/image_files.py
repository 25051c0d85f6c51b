"""Reading single image and label files, with errors that name the file."""

import struct
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from ...errors import ImageSizeError, LabelFormatError, UnreadableFileError

ORIENTATION = 0x0112  # EXIF tag; values from 5 on exchange rows and columns
TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image of this orientation upright."""


def open_image(value: Any, source: str, decode: bool = True) -> Image.Image:
    """Opens an image given as `{"path": ..., "bytes": ...}`; decodes it, or only reads its header."""
    if not isinstance(value, dict):
        raise UnreadableFileError(f"{source}: expected an image file, found {type(value).__name__}.")
    try:
        image = Image.open(BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"])
        if decode:
            image.load()
        return image
    # Pillow reports damaged files as OSError, broken PNG chunks as SyntaxError or ValueError
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableFileError(
            f"{source}: cannot be read as an image ({error}). Replace or remove it (and its label)."
        ) from error


def read_image(value: Any, source: str) -> np.ndarray:
    """uint8 (H, W, 3), RGB, of an image file; see `upright_pixels`."""
    return upright_pixels(open_image(value, source), source)


def upright_pixels(image: Image.Image, source: str = "image") -> np.ndarray:
    """uint8 (H, W, 3), RGB, turned upright as its EXIF data says; 16-bit images lose their lower byte.

    Raises:
        UnreadableFileError: pixels of floating point or of more than 16 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # Pillow would clip at 255
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
            raise UnreadableFileError(
                f"{source}: pixels of mode {image.mode!r} from {pixels.min()} to {pixels.max()}, where 0 to 255 or "
                "65535 are known. Save the image with 8 or 16 bits."
            )
        # 32 bits may hold 8; 16 bits are what they are
        shift = 0 if image.mode == "I" and pixels.max() < 256 else 8
        image = Image.fromarray((pixels >> shift).astype(np.uint8))
    return np.asarray(image.convert("RGB"))


def image_size(value: Any, source: str) -> tuple[int, int]:
    """(H, W) of the upright image, without decoding it; raises as `stored_size`."""
    size, orientation = stored_size(value, source)
    return size[::-1] if orientation >= 5 else size


def stored_size(value: Any, source: str) -> tuple[tuple[int, int], int]:
    """(H, W) of an image as it is stored, and its EXIF orientation (1 to 8), without decoding it.

    Raises:
        UnreadableFileError: the file is no image.
    """
    with open_image(value, source, decode=False) as image:
        try:
            # for EXIF data behind its pixels Pillow would decode a PNG file
            has_none = image.format == "PNG" and "exif" not in image.info and not _has_exif_chunk(image.fp)
            orientation = 1 if has_none else image.getexif().get(ORIENTATION, 1)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise UnreadableFileError(
                f"{source}: cannot be read as an image ({error}). Replace or remove it (and its label)."
            ) from error
        return image.size[::-1], orientation


def _has_exif_chunk(file: BinaryIO) -> bool:
    """
    Whether a PNG file has EXIF data, or a text that may hold them: the heads of its chunks tell. The position in the
    file stays the same.

    Raises:
        OSError: the file is cut off.
    """
    before = file.tell()
    try:
        file.seek(8)
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise OSError("the file is cut off")
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            if kind == b"IEND":
                return False
            file.seek(length + 4, 1)
    finally:
        file.seek(before)


def read_map(value: Any, source: str) -> np.ndarray:
    """The stored numbers of a label file or array column: (H, W), or (H, W, C) for colour images.

    Palette images give their indices.
    """
    if not isinstance(value, dict):
        array = np.asarray(value)
        return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    image = open_image(value, source)
    if image.format == "JPEG":
        raise LabelFormatError(f"{source}: a JPEG, which changes class ids. Save labels as PNG.")
    return np.asarray(image.getchannel(0) if image.mode == "LA" else image)


def check_size(shape: tuple[int, ...], size: tuple[int, int], source: str, image: str) -> None:
    """Raises `ImageSizeError` unless a label has the (H, W) of its image."""
    if tuple(shape) != tuple(size):
        if tuple(shape) == tuple(size)[::-1]:  # resizing would hide that one of them lies on its side
            advice = (
                "The label seems to fit the image as it is stored, before its EXIF orientation is applied. Rotate the "
                "label upright, too, or remove the orientation from the image's EXIF data; do not resize."
            )
        else:
            advice = "Both must have the same size; resize labels with nearest-neighbour only."
        raise ImageSizeError(
            f"{source}: {shape[1]}x{shape[0]} pixels, but the image {image} has {size[1]}x{size[0]}. {advice}"
        )
