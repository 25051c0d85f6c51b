"""CLIPSeg as a family of base models: found, loaded, and built with random weights."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers import CLIPSegConfig

from ...errors import AdapterError
from ..interface import BaseModelInfo, ModelFamily
from ..model_files import access_of, read_config, read_image_processor
from ..registry import BASE_MODELS, published_id
from .image_processing_clipseg import CLIPSegImageProcessorPil
from .modeling_clipseg import CLIPSegForPromptedSegmentation


class CLIPSegFamily(ModelFamily):
    """See [`ModelFamily`]."""

    name = "clipseg"
    model_types = ("clipseg",)
    lacks = {
        "points": "CLIPSeg has no points as spatial prompts",
        "instances": "CLIPSeg has no masks of single objects",
    }

    def resolve(self, name: str, **access: Any) -> str:
        """The Hub id of a name in `models/registry.py`; a folder of that name comes first."""
        return published_id(name, self.name)

    def info(self, source: str, **access: Any) -> BaseModelInfo:
        """
        See [`ModelFamily.info`].

        Raises:
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        config = read_config(source, **access)
        return BaseModelInfo(config["model_type"], config.get("class_names"), config.get("has_text_encoder", True))

    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[CLIPSegForPromptedSegmentation, CLIPSegImageProcessorPil]:
        """
        See [`ModelFamily.load`]. Without `"text"` the text encoder is neither read nor held. `"spatial"` asks for
        nothing: CLIPSeg has no points.

        Raises:
            AdapterError: the files lack the text encoder.
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        access = access_of(kwargs)
        has_text_encoder = self.info(source, **access).has_text_encoder
        config = CLIPSegConfig.from_pretrained(source, **access)
        if "text" not in prompt_encoders:
            config.has_text_encoder = False
        elif not has_text_encoder:
            raise AdapterError(
                f"{source!r} has no text encoder: it was saved after drop_text_encoder(). Load a copy that has one, "
                "or do without new class names and words"
            )
        model = CLIPSegForPromptedSegmentation.from_pretrained(source, config=config, **kwargs)
        return model.eval(), self.load_image_processor(source, model, **access)

    def load_image_processor(
        self, source: str, model: CLIPSegForPromptedSegmentation, **access: Any
    ) -> CLIPSegImageProcessorPil:
        """See [`ModelFamily.load_image_processor`]; raises OSError, as transformers does, if a Hub id has none."""
        processor = read_image_processor(CLIPSegImageProcessorPil, source, model, **access)
        processor.patch_size = model.config.vision_config.patch_size
        return processor

    def random_model(
        self, name: str, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[CLIPSegForPromptedSegmentation, CLIPSegImageProcessorPil]:
        """See [`ModelFamily.random_model`]: `clipseg-rd64-refined`, or the model of a folder. Under
        `torch.device("meta")` nothing is allocated. The image processor makes squares of the usual size, as the model
        takes no other images."""
        if name in BASE_MODELS and not os.path.exists(name):
            config = CLIPSegConfig(
                vision_config={"patch_size": 16}, reduce_dim=64, use_complex_transposed_convolution=True
            )
        else:
            config = CLIPSegConfig.from_pretrained(name)
        config.class_names = None  # those of its files, if it is a folder's
        config.has_text_encoder = "text" in prompt_encoders
        text_layers = config.text_config.num_hidden_layers
        if not config.has_text_encoder:
            config.text_config.num_hidden_layers = 0  # they would be made and thrown away
        torch.manual_seed(0)
        model = CLIPSegForPromptedSegmentation(config)
        config.text_config.num_hidden_layers = text_layers
        model.class_embeddings.weight = torch.randn(len(class_names), config.projection_dim)
        model.name_classes(class_names)
        return model.eval().requires_grad_(False), model.default_image_processor()


FAMILY = CLIPSegFamily()
