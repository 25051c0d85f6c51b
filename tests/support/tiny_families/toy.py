"""The family of `docs/add_a_base_model.md`."""

import torch
from tiny_sam import images
from toy_family import FAMILY, ToyConfig, ToyImageProcessor, ToyModel

from tiny_families import THINGS, TinyFamily

NO_ORIGINAL = "it is our own invention"
NO_WORDS = "it has no text encoder"
NO_PIXELS = "its forward takes features only"


class TinyToy(TinyFamily):
    family = FAMILY
    learning_rate = 0.5
    skips = {
        "test_answers_are_those_of_transformers": NO_ORIGINAL,
        "test_images_are_those_of_transformers": NO_ORIGINAL,
        "test_words_can_be_learned": NO_WORDS,
        "test_no_text_encoder_is_needed_once_there_are_class_prompts": NO_WORDS,
        "test_unknown_arguments_are_type_errors": NO_PIXELS,
        "test_return_dict": NO_PIXELS,
        "test_published_names_are_known_to_the_class": "it is not published",
        "test_the_stock_trainer_predicts": NO_PIXELS,
        "test_classes_that_nobody_asked_about_learn_nothing": "all classes are decoded at once",
    }

    def make(self, class_names, seed):
        torch.manual_seed(seed)
        model = ToyModel(ToyConfig()).eval()
        if class_names is not None:
            model.set_class_names(class_names, None, THINGS)
        return model

    def image_processor(self, model):
        return ToyImageProcessor()

    def pixel_values(self, count=1):
        return images(count)

    def save(self, folder, **arguments):
        self.model(**{"class_names": None, **arguments}).save_pretrained(folder)
        return folder


TINY = TinyToy()
