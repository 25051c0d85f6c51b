"""Images that users hand over."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from ssprompt_hf.data.image_inputs import open_image
from ssprompt_hf.data.sources.image_files import image_size, read_image
from ssprompt_hf.errors import UnreadableFileError


def png(orientation: int | None = None, late: bool = False) -> bytes:
    """An image of 4 by 6 pixels, with EXIF data before its pixels, or `late`, behind them."""
    picture, exif, file = Image.new("RGB", (4, 6)), Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    picture.save(file, "PNG", **({} if orientation is None or late else {"exif": exif}))
    content = file.getvalue()
    if orientation is not None and late:
        data = exif.tobytes().removeprefix(b"Exif\0\0")
        chunk = b"eXIf" + data
        end = content.rindex(b"IEND") - 4
        crc = struct.pack(">I", zlib.crc32(chunk))
        content = content[:end] + struct.pack(">I", len(data)) + chunk + crc + content[end:]
    return content


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6])
def test_sizes_are_those_of_the_upright_image(orientation, late):
    value = {"path": None, "bytes": png(orientation, late)}
    size = image_size(value, "a.png")
    assert size == read_image(value, "a.png").shape[:2] == ((4, 6) if orientation == 6 else (6, 4))


def test_the_size_of_a_png_file_costs_no_decoding(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    for content in (png(), png(6)):
        assert image_size({"path": None, "bytes": content}, "a.png") in ((6, 4), (4, 6))


def test_sizes_of_damaged_files():
    for content in (b"no image", png()[:20], b""):
        with pytest.raises(UnreadableFileError, match=r"a\.png: cannot be read as an image"):
            image_size({"path": None, "bytes": content}, "a.png")


def test_images_of_many_bits():
    small = Image.fromarray(np.full((4, 6), 51, np.int32))
    large = Image.fromarray(np.full((4, 6), 51 * 257, np.int32))
    assert small.mode == large.mode == "I"
    for picture in (small, large):
        assert (np.asarray(open_image(picture)) == 51).all()
    for picture in (
        Image.fromarray(np.full((4, 6), 0.5, np.float32)),
        Image.fromarray(np.full((4, 6), 70000, "int32")),
    ):
        with pytest.raises(UnreadableFileError, match="Save the image with 8 or 16 bits"):
            open_image(picture)
