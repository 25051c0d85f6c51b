"""Images of more than 8 bits: scaled by the range that is in use."""

import io
import struct
import zlib

import annotation_files as files
import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.data import load_segmentation_dataset
from ssprompt_hf.data.sources.image_files import file_bits, read_image
from ssprompt_hf.training.settings import DataArguments
from ssprompt_hf.tuners import SSPromptConfig


def deep_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("largest", "bits"), [(255, 8), (1023, 10), (4095, 12), (4096, 16), (65535, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bits_in_use(largest, bits, channels):
    pixels = np.linspace(0, largest, 6 * 8).astype(np.uint16).reshape(6, 8, 1).repeat(channels, axis=2)
    content = deep_png(pixels) if channels > 1 else None
    if content is None:
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0]).save(buffer, "PNG")
        content = buffer.getvalue()
    value = {"bytes": content, "path": None}
    assert file_bits(value, "x") == bits
    expected = (pixels >> bits - 8).astype(np.uint8)[..., :3]
    assert (read_image(value, "x") == np.broadcast_to(expected, (6, 8, 3))).all()


def test_images_of_eight_bits_are_not_looked_at(tmp_path):
    path = files.write_image(tmp_path / "a.png")
    assert file_bits({"bytes": None, "path": str(path)}, "a") is None


def test_a_data_set_is_scaled_by_its_own_range(tmp_path):
    """A dark image among others of 12 bits stays dark."""
    for number, largest in enumerate((900, 4000)):
        pixels = np.full(files.SIZE, largest, np.uint16)
        pixels[0] = 0
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        Image.fromarray(files.truth(number)[0]).save(tmp_path / f"{number}_mask.png")
    files.write(tmp_path / "classes.txt", "wall\ncrack\nstone\n")
    dataset = load_segmentation_dataset(data_dir=tmp_path)
    assert dataset[0]["image"].max() == 900 >> 4 and dataset[1]["image"].max() == 4000 >> 4
    assert dataset.image_bits == 12
    # what an adapter was trained with counts, for the images that it is scored on as well
    data = DataArguments(data_dir=tmp_path)
    for config, bits in ((SSPromptConfig(image_bits=16), 16), (SSPromptConfig(), 12)):
        assert [row["image"].max() for row in data.load_evaluation(adapter=config)] == [
            900 >> bits - 8,
            4000 >> bits - 8,
        ]
    assert dataset[1]["image"].max() == 4000 >> 4
