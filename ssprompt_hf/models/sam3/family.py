"""SAM 3 and SAM 3 LiteText as a family of base models: found, loaded, and built with random weights."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from transformers import Sam3Config, Sam3LiteTextConfig

from ...errors import AdapterError
from ..interface import BaseModelInfo, ModelFamily
from ..model_files import access_of, explained_refusal, read_config, read_image_processor
from ..registry import BASE_MODELS, published_id
from .image_processing_sam3 import Sam3ImageProcessorPil
from .modeling_sam3 import Sam3Decoding, Sam3ForPromptedSegmentation, Sam3LiteTextForPromptedSegmentation

LITE_TEXT = "sam3_lite_text"

LITE_TEXT_ENCODERS = {
    "sam3-litetext-s0": {"num_hidden_layers": 6},
    "sam3-litetext-s1": {"use_repmixer_blocks": False},
    "sam3-litetext-l": {
        "use_repmixer_blocks": False,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
}
"""What sets the text encoders apart (MobileCLIP-S0, S1 and MobileCLIP2-L): 42.5, 63.5 and 123.8 M parameters."""

RANDOM_TOKENS = 4
"""Tokens of a random class: start, two words, end."""


class Sam3Family(ModelFamily):
    """See [`ModelFamily`]."""

    name = "sam3"
    model_types = ("sam3", "sam3_video", LITE_TEXT)
    lacks = {"points": "SAM 3 has no points as spatial prompts"}

    def resolve(self, name: str, **access: Any) -> str:
        """The Hub id of a name in `models/registry.py`; a folder of that name comes first."""
        return published_id(name, self.name)

    def info(self, source: str, **access: Any) -> BaseModelInfo:
        """
        See [`ModelFamily.info`].

        Raises:
            DownloadError: the repository is gated, private or not there, and this token may not read it.
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        config = _config_dict(source, **access)
        return BaseModelInfo(config["model_type"], config.get("class_names"), config.get("has_text_encoder", True))

    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[Sam3Decoding, Sam3ImageProcessorPil]:
        """
        See [`ModelFamily.load`]. Without `"text"` the text encoder is neither read nor held. `"spatial"` asks for
        nothing: SAM 3 has no points, and boxes are always there.

        Raises:
            AdapterError: the files lack the text encoder.
            DownloadError: the repository is gated, private or not there, and this token may not read it.
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        access = access_of(kwargs)
        model_class = _model_class(_config_dict(source, **access)["model_type"])
        with explained_refusal(source):
            config = model_class.config_class.from_pretrained(source, **access)
            if "text" not in prompt_encoders:
                config.has_text_encoder = False
            elif not getattr(config, "has_text_encoder", True):
                raise AdapterError(
                    f"{source!r} has no text encoder: it was saved after drop_text_encoder(). Load a copy that has "
                    "one, or do without new class names and words"
                )
            model = model_class.from_pretrained(source, config=config, **kwargs)
            return model.eval(), self.load_image_processor(source, model, **access)

    def load_image_processor(self, source: str, model: Sam3Decoding, **access: Any) -> Sam3ImageProcessorPil:
        """See [`ModelFamily.load_image_processor`]; raises OSError, as transformers does, if a Hub id has none."""
        processor = read_image_processor(Sam3ImageProcessorPil, source, model, **access)
        processor.patch_size = model.config.vision_config.backbone_config.patch_size
        return processor

    def load_tokenizer(self, source: str, **access: Any) -> Any:
        """
        CLIP's, of the same folder or Hub id.

        Raises:
            DownloadError: the repository is gated, private or not there, and this token may not read it.
            OSError: as transformers raises it.
        """
        with explained_refusal(source):
            return super().load_tokenizer(source, **access)

    def random_model(
        self, name: str, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[Sam3Decoding, Sam3ImageProcessorPil]:
        """See [`ModelFamily.random_model`]; a class has four random tokens. Under `torch.device("meta")` nothing is
        allocated. The image processor makes squares of 1008, as the model takes no other images."""
        if name in BASE_MODELS and not os.path.exists(name):
            config = Sam3Config()
            if name in LITE_TEXT_ENCODERS:
                text_config = {"max_position_embeddings": 16} | LITE_TEXT_ENCODERS[name]
                config = Sam3LiteTextConfig(text_config=text_config)
        else:
            config = _model_class(_config_dict(name)["model_type"]).config_class.from_pretrained(name)
        config.has_text_encoder = "text" in prompt_encoders
        config.class_tokens_shape = None  # that of its files, if it is a folder's
        text_layers = config.text_config.num_hidden_layers
        if not config.has_text_encoder:
            config.text_config.num_hidden_layers = 0  # they would be made and thrown away, 1.2 GB of them
        torch.manual_seed(0)
        model = _model_class(config.model_type)(config)
        config.text_config.num_hidden_layers = text_layers
        width = model.config.detr_encoder_config.hidden_size
        model.class_tokens.weight = torch.randn(len(class_names), RANDOM_TOKENS, width)
        model.name_classes(class_names)
        model.prompts_written()
        return model.eval().requires_grad_(False), model.default_image_processor()


FAMILY = Sam3Family()


def _model_class(model_type: str) -> type[Sam3Decoding]:
    return Sam3LiteTextForPromptedSegmentation if model_type == LITE_TEXT else Sam3ForPromptedSegmentation


def _config_dict(source: str, **access: Any) -> dict:
    """The configuration of the image model, which that of a video model contains."""
    with explained_refusal(source):
        config = read_config(source, **access)
    return config.get("detector_config") or config
