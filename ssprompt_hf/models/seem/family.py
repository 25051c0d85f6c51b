"""How SEEM models are found and loaded."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ...errors import AdapterError
from ..interface import BaseModelInfo, ModelFamily
from . import architectures
from .configuration_seem import SeemConfig
from .conversion import convert_seem_checkpoint
from .image_processing_seem import SeemImageProcessor
from .modeling_seem import SeemForUniversalSegmentation
from .pretrained import resolve_base_model

logger = logging.get_logger(__name__)


class SeemFamily(ModelFamily):
    """SEEM: official checkpoints are converted on first use; `seem-lite` and `seem-nano` lie in the package."""

    name = "seem"
    model_types = ("seem",)

    def resolve(self, name: str | os.PathLike, **access: Any) -> str:
        """See [`ModelFamily.resolve`] and `resolve_base_model`, also for errors."""
        return resolve_base_model(name, **access)

    def info(self, source: str, **access: Any) -> BaseModelInfo:
        """See [`ModelFamily.info`]."""
        config = SeemConfig.from_pretrained(source, **access)
        return BaseModelInfo(config.model_type, config.class_names, config.use_text_model, takes_class_masks=True)

    def load(
        self, source: str, prompt_encoders: Iterable[str] = (), **kwargs: Any
    ) -> tuple[nn.Module, SeemImageProcessor]:
        """See [`ModelFamily.load`]."""
        access = {key: kwargs[key] for key in ("revision", "cache_dir", "token", "local_files_only") if key in kwargs}
        if "text" in prompt_encoders and not self.info(source, **access).has_text_encoder:
            raise AdapterError(
                f"{source!r} was saved without its text encoder, which class names and methods that learn words need: "
                "take the model that it was made from"
            )
        # The visual sampler is a hundredth of a model: it stays where there is one, so that clicks always work.
        model = SeemForUniversalSegmentation.from_pretrained(
            source, use_text_model="text" in prompt_encoders, **kwargs
        )
        if "spatial" in prompt_encoders and not model.config.use_spatial_prompt_encoder:
            raise AdapterError(
                f"{source!r} was saved without its visual sampler, which points need: take the model that it was made "
                "from"
            )
        return model, self.load_image_processor(source, model, **access)

    def load_image_processor(self, source: str, model: nn.Module, **access: Any) -> SeemImageProcessor:
        """See [`ModelFamily.load_image_processor`]."""
        try:
            return SeemImageProcessor.from_pretrained(source, **access)
        except OSError:
            logger.warning(
                f"{source} has no file for its image processor, so images are resized as for the official models, to "
                "a shorter side of 512: save the processor of the model that it was made from beside it"
            )
            return model.default_image_processor()

    def random_model(
        self, name: str | SeemConfig, class_names: list[str], prompt_encoders: Iterable[str] = ()
    ) -> tuple[SeemForUniversalSegmentation, SeemImageProcessor]:
        """See [`ModelFamily.random_model`]; `name` may be an architecture itself."""
        config = name
        if not isinstance(name, SeemConfig):
            official = name in architectures.convertible_names() and not os.path.exists(name)
            source = None if official else self.resolve(name)
            config = architectures.base_model_config(name) if official else SeemConfig.from_pretrained(source)
        config.use_text_model = "text" in prompt_encoders
        config.use_spatial_prompt_encoder = "spatial" in prompt_encoders
        torch.manual_seed(0)
        model = SeemForUniversalSegmentation(config).eval()
        embeddings = torch.randn(len(class_names) + 1, config.projection_dim)
        model.set_class_embeddings(nn.functional.normalize(embeddings, dim=-1), class_names)
        processor = SeemImageProcessor(do_resize=False, size_divisibility=config.size_divisibility)
        return model.requires_grad_(False), processor

    # Official checkpoints

    TOKENIZER_REPO = architectures.TOKENIZER_REPO

    def convertible_names(self) -> list[str]:
        """Names of official architectures."""
        return architectures.convertible_names()

    def convert_checkpoint(self, *args: Any, **kwargs: Any) -> Path:
        """See `convert_seem_checkpoint`."""
        return convert_seem_checkpoint(*args, **kwargs)


FAMILY = SeemFamily()
