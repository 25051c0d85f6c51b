"""SAM as a family of base models: found, loaded, and built with random weights. SAM 2 does the same."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, SamConfig, SamVisionConfig

from ..interface import BaseModelInfo, ModelFamily, PromptableImageProcessor
from ..model_files import access_of, read_config, read_image_processor
from ..registry import published_id
from .decoding import SamDecoding
from .image_processing_sam import SamImageProcessorPil
from .modeling_sam import SamForPromptedSegmentation

SETTINGS = ("point_grid_size", "num_class_tokens")
"""Of `CONFIG_DEFAULTS`; `load` takes them as arguments."""


def _sam_config(**vision: Any) -> SamConfig:
    return SamConfig(vision_config=SamVisionConfig(**vision))


class SamFamily(ModelFamily):
    """
    See [`ModelFamily`].

    Attributes:
        model_class, processor_class: of the family.
        full_size: what makes the configuration of each published model, by its name, as transformers'
            `convert_sam_to_hf.py` does.
    """

    name = "sam"
    model_types: tuple[str, ...] = ("sam",)
    lacks: Mapping[str, str] = {"words": "SAM knows no words", "instances": "SAM is asked for one mask a class"}
    model_class: type[SamDecoding] = SamForPromptedSegmentation
    processor_class: type[PromptableImageProcessor] = SamImageProcessorPil
    full_size: dict[str, Callable[[], PretrainedConfig]] = {
        "sam-vit-b": lambda: _sam_config(),
        "sam-vit-l": lambda: _sam_config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, global_attn_indexes=[5, 11, 17, 23]
        ),
        "sam-vit-h": lambda: _sam_config(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31]
        ),
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
        return BaseModelInfo(config["model_type"], config.get("class_names"), has_text_encoder=False)

    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[SamDecoding, PromptableImageProcessor]:
        """
        See [`ModelFamily.load`]. There is no text encoder to be asked for, and that of points is always there.

        Args:
            source, prompt_encoders: as there.
            kwargs: as there, and `point_grid_size` and `num_class_tokens`; see `CONFIG_DEFAULTS`.

        Raises:
            SSPromptError: a setting below 1.
            CheckpointError: a folder without a model.
            OSError: as transformers raises it.
        """
        access = access_of(kwargs)
        config = self._config(source, **access)
        for name in SETTINGS:
            if name in kwargs:
                setattr(config, name, kwargs.pop(name))
        model = self.model_class.from_pretrained(source, config=config, **kwargs)
        return model.eval(), self.load_image_processor(source, model, **access)

    def load_image_processor(self, source: str, model: SamDecoding, **access: Any) -> PromptableImageProcessor:
        """See [`ModelFamily.load_image_processor`]; raises OSError, as transformers does, if a Hub id has none."""
        return read_image_processor(self.processor_class, source, model, **access)

    def load_tokenizer(self, source: str, **access: Any) -> None:
        """None: there are no words."""

    def random_model(
        self, name: str, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[SamDecoding, PromptableImageProcessor]:
        """See [`ModelFamily.random_model`]. Under `torch.device("meta")` nothing is allocated."""
        if name in self.full_size and not os.path.exists(name):
            config = self.full_size[name]()
        else:
            config = self._config(name)
            config.prompt_shapes = None
        torch.manual_seed(0)
        model = self.model_class(config).eval().requires_grad_(False)
        model.set_class_names(class_names)
        model.class_tokens.weight = torch.randn_like(model.class_tokens.weight)
        return model, model.default_image_processor()

    def _config(self, source: str, **access: Any) -> PretrainedConfig:
        read_config(source, **access)
        config_class = self.model_class.config_class
        config = config_class.from_pretrained(source, **access)
        config.model_type = config_class.model_type  # the published ones are those of a video model
        return config


FAMILY = SamFamily()
