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


def read_image(value: Any, source: str, bits: int | None = None) -> np.ndarray:
    """uint8 (H, W, 3), RGB, of an image file; see `upright_image`."""
    return np.asarray(read_upright(value, source, bits))


def read_upright(value: Any, source: str, bits: int | None = None) -> Image.Image:
    """An RGB image of an image file; see `upright_image`."""
    image = open_image(value, source)
    deep = _deep_colors(value, image, source)
    if deep is not None:
        bits = bits or significant_bits(deep)
        eight = Image.fromarray(np.minimum(deep >> bits - 8, 255).astype(np.uint8))
        eight.getexif()[ORIENTATION] = image.getexif().get(ORIENTATION, 1)
        image = eight
    return upright_image(image, source, bits)


def significant_bits(pixels: np.ndarray) -> int:
    """How many bits of 16-bit numbers are in use, as far as the largest of them tells: 8, 10, 12 (as cameras and
    microscopes give) or 16."""
    return next(bits for bits in (8, 10, 12, 16) if bits == 16 or int(pixels.max(initial=0)) < 1 << bits)


def file_bits(value: Any, source: str) -> int | None:
    """`significant_bits` of a file with more than 8 bits, else None; without decoding what has 8.

    Raises:
        UnreadableFileError: the file cannot be read.
    """
    with open_image(value, source, decode=False) as image:
        if not _is_deep(image) and not image.mode.startswith("I"):
            return None
    image = open_image(value, source)
    deep = _deep_colors(value, image, source)
    return significant_bits(np.asarray(image) if deep is None else deep)


def _is_deep(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet is a PNG of colours with 16 bits each."""
    tiles = getattr(image, "tile", ())
    return image.format == "PNG" and any(tile.args in ("RGB;16B", "RGBA;16B") for tile in tiles)


def _deep_colors(value: Any, image: Image.Image, source: str) -> np.ndarray | None:
    """uint16 (H, W, 3): the colours of a PNG with 16 bits a channel, of which Pillow gives the upper byte; None for
    any other file. Read once more as if the bytes were in the other order, it gives the lower byte."""
    if image.format != "PNG" or image.mode not in ("RGB", "RGBA"):
        return None
    try:
        again = open_image(value, source, decode=False)
        if not _is_deep(again):
            return None
        again.tile = [tile._replace(args=f"{tile.args[:-1]}L") for tile in again.tile]
        lower = np.asarray(again)[..., :3]
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise UnreadableFileError(f"{source}: cannot be read with 16 bits ({error}). Save it with 8 bits.") from error
    return np.asarray(image)[..., :3].astype(np.uint16) << 8 | lower


def upright_image(image: Image.Image, source: str = "image", bits: int | None = None) -> Image.Image:
    """An RGB image, turned upright as its EXIF data says; the very same one where that changes nothing, as copies of
    large images take much memory.

    Args:
        image: of any mode.
        source: what to call it in an error.
        bits: of images with more than 8 bits, how many are in use, so that all images of a data set are scaled alike;
            by default as the image itself tells (`significant_bits`). The upper 8 of them are kept.

    Raises:
        UnreadableFileError: pixels of floating point or of more than 16 bits.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # Pillow would clip at 255
        pixels = np.asarray(image)
        if image.mode == "F" or pixels.min() < 0 or pixels.max() >= 2**16:
            raise UnreadableFileError(
                f"{source}: pixels of mode {image.mode!r} from {pixels.min()} to {pixels.max()}, where 0 to 255 or "
                "65535 are known. Save the image with 8 or 16 bits."
            )
        bits = bits or significant_bits(pixels)
        image = Image.fromarray(np.minimum(pixels >> bits - 8, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


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
