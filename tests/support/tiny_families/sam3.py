"""SAM 3."""

import pytest
from tiny_sam3 import images, reference, tiny_sam3, tokenizer

from ssprompt_hf.models.sam3.family import FAMILY
from tiny_families import NAMES, THINGS, TinyFamily


class TinySam3(TinyFamily):
    family = FAMILY
    learning_rate = 0.3
    tasks = ("semantic", "instance", "panoptic")

    def make(self, class_names, seed):
        model = tiny_sam3(class_names=class_names, seed=seed)
        if class_names is not None:
            model.name_classes(class_names, THINGS)
        return model

    def tokenizer(self):
        return tokenizer()

    def pixel_values(self, count=1):
        return images(count)

    def reference(self, model, pixel_values):
        return reference(model, pixel_values, NAMES)

    def their_image_processor(self, ours):
        pytest.importorskip("torchvision", reason="transformers' Sam3ImageProcessor needs torchvision")
        from transformers import Sam3ImageProcessor

        return Sam3ImageProcessor(size=ours.size)


TINY = TinySam3()
