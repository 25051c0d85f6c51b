"""A family of base models of our own invention, as `docs/add_a_base_model.md` shows it: `ToyModel` and `FAMILY`.

It looks at an image with one convolution, moves every pixel towards the spatial prompts that are like it, and compares
it with the semantic prompts, one vector a class, made of the letters of its name.
"""

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers import BatchFeature, PretrainedConfig, PreTrainedModel

from ssprompt_hf.models.interface import (
    SEMANTIC,
    SPATIAL,
    BaseModelInfo,
    ModelFamily,
    PromptableImageProcessor,
    PromptableModel,
    PromptSlot,
)
from ssprompt_hf.models.transformers_compat import LoadsPromptAdapters
from ssprompt_hf.segmentation.policy import InferencePolicy
from ssprompt_hf.segmentation.predictions import ClassPrediction


class ToyConfig(PretrainedConfig):
    model_type = "toy"
    width: int = 8
    num_spatial_prompts: int = 4
    class_names: list | None = None
    thing_class_ids: list | None = None


class Prompts(nn.Module):
    """A slot for prompts that are not part of the model."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("weight", None if shape is None else torch.zeros(shape))


# the model
class ToyModel(LoadsPromptAdapters, PromptableModel, PreTrainedModel):
    config_class = ToyConfig
    prompt_slots = {
        "directions": PromptSlot("directions", SPATIAL, is_part_of_model=True),
        "classes": PromptSlot("classes", SEMANTIC),
    }

    def __init__(self, config):
        super().__init__(config)
        self.vision = nn.Conv2d(3, config.width, 8, stride=8)
        self.letters = nn.Embedding(128, config.width)
        self.directions = nn.Embedding(config.num_spatial_prompts, config.width)
        names = config.class_names
        self.classes = Prompts(None if names is None else (len(names), config.width))
        self.post_init()

    @torch.no_grad()
    def set_class_names(self, class_names, tokenizer, thing_class_ids=None):
        letters = [torch.tensor([ord(letter) % 128 for letter in name]) for name in class_names]
        self.classes.weight = torch.stack([self.letters(ids).mean(0) for ids in letters])
        self.name_classes(class_names, thing_class_ids)

    def semantic_shape(self, num_classes):
        return num_classes, self.config.width

    @torch.no_grad()
    def image_features(self, pixel_values, stage):
        return {"pixels": self.vision(pixel_values), "padded_size": torch.tensor(pixel_values.shape[-2:])}

    def feature_bytes(self, padded_size, stage):
        return 4 * self.config.width * (padded_size[0] // 8) * (padded_size[1] // 8)

    def feature_modules(self, stage):
        return [self.vision]

    def decoder_inputs(self, features, device=None):
        return {"pixels": torch.cat([one["pixels"].to(device) for one in features])}

    def forward(self, pixels, image_sizes=None, output_auxiliary_predictions=False):
        directions = self.directions.weight
        likeness = torch.einsum("bdhw,nd->bnhw", pixels, directions).softmax(dim=1)
        pixels = pixels + torch.einsum("bnhw,nd->bdhw", likeness, directions)
        return {"maps": torch.einsum("bdhw,kd->bkhw", pixels, self.classes.weight).sigmoid()}

    def predictions(self, outputs):
        batch_size, num_classes = outputs["maps"].shape[:2]
        image_of = torch.arange(batch_size).repeat_interleave(num_classes)
        class_of = torch.arange(num_classes).repeat(batch_size)
        return [ClassPrediction(outputs["maps"].flatten(0, 1), image_of, class_of, batch_size, num_classes)]


# the image processor
class ToyImageProcessor(PromptableImageProcessor):
    def __init__(self, side=64):
        self.side = side

    def __call__(self, images, return_tensors="pt"):
        image = images if isinstance(images, Image.Image) else Image.fromarray(np.asarray(images))
        pixels = torch.from_numpy(np.array(image.convert("RGB").resize((self.side, self.side)))).permute(2, 0, 1)
        sizes = torch.tensor([[self.side, self.side]])
        return BatchFeature({"pixel_values": pixels[None].float() / 127.5 - 1, "image_sizes": sizes})

    def resized_size(self, size):
        return self.side, self.side

    def with_image_size(self, image_size):
        return ToyImageProcessor(image_size)

    def inference_policy(self):
        return InferencePolicy()

    def to_dict(self):
        return {"side": self.side}


# the family
class ToyFamily(ModelFamily):
    name = "toy"
    model_types = ("toy",)
    lacks = {"words": "it has no text encoder", "points": "it has no points", "instances": "it tells no objects apart"}

    def info(self, source, **access):
        config = ToyConfig.from_pretrained(source, **access)
        return BaseModelInfo("toy", config.class_names, has_text_encoder=False)

    def load(self, source, prompt_encoders=(), **kwargs):
        return ToyModel.from_pretrained(source, **kwargs).eval(), ToyImageProcessor()

    def load_tokenizer(self, source, **access):
        return None

    def random_model(self, name, class_names, prompt_encoders=()):
        torch.manual_seed(0)
        model = ToyModel(ToyConfig()).eval().requires_grad_(False)
        model.set_class_names(class_names, None)
        return model, ToyImageProcessor()


FAMILY = ToyFamily()
