"""SAM as a family of base models: found, loaded, and built with random weights. SAM 2 does the same."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PretrainedConfig,
    SamConfig,
    SamHQConfig,
    SamVisionConfig,
)

from ...errors import AdapterError, DownloadError
from ..interface import BaseModelInfo, ModelFamily, PromptableImageProcessor
from ..model_files import access_of, explained_refusal, read_config, read_image_processor
from ..registry import published_id
from .decoding import SamDecoding
from .modeling_sam import SamForPromptedSegmentation
from .modeling_sam_hq import SamHQForPromptedSegmentation
from .words import DEFAULT_TEXT_ENCODER

SETTINGS = ("point_grid_size", "num_class_tokens", "text_encoder")
"""Of `CONFIG_DEFAULTS`; `load` takes them as arguments."""

CLIP_TYPES = ("clip", "clip_text_model")
"""`model_type` of models whose text encoder can be lent."""


def _sam_config(**vision: Any) -> SamConfig:
    return SamConfig(vision_config=SamVisionConfig(**vision))


def _hq_config(make: Callable[[], SamConfig]) -> SamHQConfig:
    vision = make().vision_config.to_dict() | {"model_type": "sam_hq_vision_model"}
    return SamHQConfig(vision_config=vision, mask_decoder_config={"vit_dim": vision["hidden_size"]})


class SamFamily(ModelFamily):
    """
    See [`ModelFamily`].

    Attributes:
        model_classes: by the `model_type` of a configuration.
        full_size: what makes the configuration of each published model, by its name, as transformers'
            `convert_sam_to_hf.py` does.
    """

    name = "sam"
    model_types: tuple[str, ...] = ("sam", "sam_hq")
    borrows_text_encoder = True
    lacks: Mapping[str, str] = {"instances": "SAM is asked for one mask a class"}
    model_classes: dict[str, type[SamDecoding]] = {
        "sam": SamForPromptedSegmentation,
        "sam_hq": SamHQForPromptedSegmentation,
    }
    full_size: dict[str, Callable[[], PretrainedConfig]] = {
        "sam-vit-b": lambda: _sam_config(),
        "sam-vit-l": lambda: _sam_config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, global_attn_indexes=[5, 11, 17, 23]
        ),
        "sam-vit-h": lambda: _sam_config(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
        ),
    }
    full_size |= {name.replace("sam", "sam-hq"): partial(_hq_config, make) for name, make in full_size.items()}

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
        with explained_refusal(source):
            config = read_config(source, **access)
        return BaseModelInfo(config["model_type"], config.get("class_names"), has_text_encoder=False)

    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[SamDecoding, PromptableImageProcessor]:
        """
        See [`ModelFamily.load`]. With `"text"` a text encoder is lent to the model; the prompt encoder of points is
        always there.

        Args:
            source, prompt_encoders: as there.
            kwargs: as there, and `point_grid_size`, `num_class_tokens` and `text_encoder`; see `CONFIG_DEFAULTS`.

        Raises:
            SSPromptError: a setting below 1.
            AdapterError: `text_encoder` is no CLIP.
            DownloadError: it cannot be had.
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        access = access_of(kwargs)
        config = self._config(source, **access)
        for name in SETTINGS:
            if name in kwargs:
                setattr(config, name, kwargs.pop(name))
        with explained_refusal(source):
            model = self.model_classes[config.model_type].from_pretrained(source, config=config, **kwargs)
        if "text" in prompt_encoders:
            model.lend_text_encoder(_text_encoder(model.config.text_encoder, model, access))
        return model.eval(), self.load_image_processor(source, model, **access)

    def load_image_processor(self, source: str, model: SamDecoding, **access: Any) -> PromptableImageProcessor:
        """See [`ModelFamily.load_image_processor`]; raises OSError, as transformers does, if a Hub id has none."""
        return read_image_processor(type(model.default_image_processor()), source, model, **access)

    def load_tokenizer(self, source: str, **access: Any) -> Any:
        """See [`ModelFamily.load_tokenizer`]: that of the text encoder that a model of `source` borrows."""
        return AutoTokenizer.from_pretrained(self._config(source, **access).text_encoder, **_without_revision(access))

    def random_model(
        self, name: str, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[SamDecoding, PromptableImageProcessor]:
        """See [`ModelFamily.random_model`]. Under `torch.device("meta")` nothing is allocated."""
        if name in self.full_size and not os.path.exists(name):
            config = self.full_size[name]()
            config.text_encoder = DEFAULT_TEXT_ENCODER
        else:
            config = self._config(name)
            config.prompt_shapes = None
        torch.manual_seed(0)
        model = self.model_classes[config.model_type](config).eval().requires_grad_(False)
        if "text" in prompt_encoders:
            model.lend_text_encoder(CLIPTextModelWithProjection(_text_config(config.text_encoder)))
        model.set_class_names(class_names)
        model.class_tokens.weight = torch.randn_like(model.class_tokens.weight)
        return model, model.default_image_processor()

    def _config(self, source: str, **access: Any) -> PretrainedConfig:
        with explained_refusal(source):
            model_type = read_config(source, **access)["model_type"]
            config_class = self.model_classes[model_type].config_class
            config = config_class.from_pretrained(source, **access)
        if isinstance(inner := getattr(config, "tracker_config", None), dict):
            config = config_class(**inner)  # a model of videos contains that of images
        config.model_type = config_class.model_type
        config.text_encoder = getattr(config, "text_encoder", None) or DEFAULT_TEXT_ENCODER
        return config


FAMILY = SamFamily()


def _without_revision(access: dict[str, Any]) -> dict[str, Any]:
    """How to reach another repository than that of the model."""
    return {name: value for name, value in access.items() if name != "revision"}


def _text_encoder(name: str, model: SamDecoding, access: dict[str, Any]) -> CLIPTextModelWithProjection:
    """CLIP's text encoder in the precision of `model`, and on its device; for errors see `SamFamily.load`."""
    access = _without_revision(access)
    try:
        model_type = read_config(name, **access)["model_type"]
        if model_type not in CLIP_TYPES:
            raise AdapterError(
                f"text_encoder is {name!r}, a model of the type {model_type!r}; {model.model_title} borrows that of a "
                f"CLIP, for instance {DEFAULT_TEXT_ENCODER!r}"
            )
        encoder = CLIPTextModelWithProjection.from_pretrained(name, dtype=model.dtype, **access)
    except OSError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DownloadError(
            f"the text encoder {name!r}, which {model.model_title} borrows to read words, cannot be loaded: {reason}. "
            "text_encoder names another one"
        ) from error
    return encoder.to(model.device)


def _text_config(name: str) -> CLIPTextConfig:
    """Of the default text encoder nothing is read."""
    return CLIPTextConfig() if name == DEFAULT_TEXT_ENCODER else CLIPTextConfig.from_pretrained(name)
