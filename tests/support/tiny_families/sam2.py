"""SAM 2."""

import pytest
from tiny_sam2 import tiny_sam2

from ssprompt_hf.models.sam2.family import FAMILY
from tiny_families.sam import TinySam


class TinySam2(TinySam):
    family = FAMILY
    make_model = staticmethod(tiny_sam2)

    def their_image_processor(self, ours):
        pytest.importorskip("torchvision", reason="transformers' Sam2ImageProcessor needs torchvision")
        from transformers import Sam2ImageProcessor

        return Sam2ImageProcessor(size=ours.size)


TINY = TinySam2()
