"""SAM."""

import transformers
from tiny_sam import SIDE, images, reference, tiny_sam

from ssprompt_hf.models.sam.family import FAMILY
from tiny_families import TinyFamily

NO_WORDS = "it knows no words; test_sam_words.py lends it a text encoder"


class TinySam(TinyFamily):
    family = FAMILY
    make_model = staticmethod(tiny_sam)
    learning_rate = 0.2
    skips = {
        "test_words_can_be_learned": NO_WORDS,
        "test_no_text_encoder_is_needed_once_there_are_class_prompts": NO_WORDS,
    }

    def make(self, class_names, seed):
        return self.make_model(class_names, seed)

    def pixel_values(self, count=1):
        return images(count)

    def reference(self, model, pixel_values):
        return reference(model, pixel_values)

    def their_image_processor(self, ours):
        settings = {"size": {"longest_edge": SIDE}, "pad_size": {"height": SIDE, "width": SIDE}}
        return transformers.SamImageProcessorPil(**settings)


TINY = TinySam()
