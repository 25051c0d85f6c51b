"""Images that users hand over."""

import numpy as np
import pytest
from PIL import Image

from ssprompt_hf.data.image_inputs import open_image
from ssprompt_hf.errors import UnreadableFileError


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
