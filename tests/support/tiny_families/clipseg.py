"""CLIPSeg."""

import transformers
from tiny_clipseg import images, reference, tiny_clipseg, tokenizer

from ssprompt_hf.models.clipseg.family import FAMILY
from tiny_families import NAMES, THINGS, TinyFamily


class TinyClipseg(TinyFamily):
    family = FAMILY

    def make(self, class_names, seed):
        model = tiny_clipseg(class_names, seed)
        if class_names is not None:
            model.name_classes(class_names, THINGS)
        return model

    def tokenizer(self):
        return tokenizer()

    def pixel_values(self, count=1):
        return images(count)

    def reference(self, model, pixel_values):
        return {"logits": reference(model, pixel_values, NAMES)}

    def their_image_processor(self, ours):
        settings = {"image_mean": ours.image_mean, "image_std": ours.image_std}
        return transformers.ViTImageProcessorPil(size=ours.size, **settings)


TINY = TinyClipseg()
