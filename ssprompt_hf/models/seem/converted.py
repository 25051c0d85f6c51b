"""Where converted base models are kept, and the tokenizer that they get."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HFValidationError, HTTPError, OfflineModeIsEnabled
from transformers import AutoTokenizer
from transformers.utils import logging

from .architectures import TOKENIZER_REPO

logger = logging.get_logger(__name__)


def converted_models_dir(cache_dir: str | os.PathLike | None = None) -> Path:
    """Where converted base models are kept."""
    return Path(constants.HF_HOME if cache_dir is None else cache_dir) / "ssprompt_hf" / "converted"


def local_model_dir(name: str, cache_dir: str | os.PathLike | None = None) -> Path:
    """Where a file that the user converts under `name` without giving an output folder is kept."""
    return converted_models_dir(cache_dir) / name / "local"


def is_converted(folder: Path) -> bool:
    """Whether a folder holds a converted model."""
    return (folder / "config.json").is_file()


def load_tokenizer(name_or_path: str | os.PathLike = TOKENIZER_REPO, **kwargs: Any) -> Any:
    """
    The tokenizer of SEEM's text encoder, or None, with a warning, if it cannot be had.

    Args:
        name_or_path: folder or Hub id; by default that of the official code.
        kwargs: `cache_dir`, `token`, `local_files_only`, as in `from_pretrained`.
    """
    if not os.path.isdir(name_or_path):
        try:
            # Asked once: without a connection the calls behind AutoTokenizer repeat themselves for most of a minute.
            get_hf_file_metadata(hf_hub_url(name_or_path, "tokenizer_config.json"), token=kwargs.get("token"))
        except (HTTPError, OfflineModeIsEnabled, HFValidationError):
            kwargs["local_files_only"] = True
    try:
        return AutoTokenizer.from_pretrained(name_or_path, **kwargs)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning(
            "the converted model gets no tokenizer, so it cannot encode phrases and class names: "
            f"{name_or_path} was not found ({reason})"
        )
        return None
