"""SEEM: a backbone of four layers, three decoder layers, six queries."""

import torch
from prompted_seem import small_seem
from tiny_seem import images
from tiny_training import tiny_processor

from ssprompt_hf.models.seem.byte_tokenizer import byte_tokenizer
from ssprompt_hf.models.seem.family import FAMILY
from tiny_families import THINGS, TinyFamily

BYTES = {"vocab_size": 514, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
BYTES |= {"num_attention_heads": 2, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}


class TinySeem(TinyFamily):
    family = FAMILY
    tasks = ("semantic", "instance", "panoptic")
    skips = {
        "test_answers_are_those_of_transformers": "transformers has no SEEM; test_seem_parity.py compares it with the "
        "official implementation",
        "test_images_are_those_of_transformers": "transformers has no SEEM; see test_seem_processing.py",
        "test_published_names_are_known_to_the_class": "its checkpoints are converted; see test_base_models.py",
        "test_classes_that_nobody_asked_about_learn_nothing": "all classes are decoded at once",
    }

    def make(self, class_names, seed):
        model = small_seem(class_names=None, seed=seed, text_config=BYTES, prompt_templates=["{}"])
        if class_names is not None:
            model.set_class_names(class_names, self.tokenizer(), THINGS)
        return model

    def tokenizer(self):
        return byte_tokenizer()

    def image_processor(self, model):
        return tiny_processor()

    def pixel_values(self, count=1):
        return images(count, (64, 96)).to(torch.float32)


TINY = TinySeem()
