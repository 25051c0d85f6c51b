"""What families read from the folder or the Hub id of a model of transformers."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, TypeVar

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from torch import nn
from transformers import PretrainedConfig

from ..errors import CheckpointError, DownloadError

ACCESS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
Processor = TypeVar("Processor")


def access_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those arguments of `from_pretrained` that say how to reach the files."""
    return {name: kwargs[name] for name in ACCESS if kwargs.get(name) is not None}


def read_config(source: str, **access: Any) -> dict[str, Any]:
    """
    The configuration of a model, as its file has it.

    Args:
        source: a folder or a Hub id.
        access: see `access_of`.

    Raises:
        CheckpointError: it names no `model_type`, or there is none in the folder.
        OSError: as transformers raises it.
    """
    config = PretrainedConfig.get_config_dict(source, **access)[0]
    if "model_type" not in config:
        raise CheckpointError(f"{source!r} has no config.json that names a model_type: it is no model of transformers")
    return config


def read_image_processor(processor_class: type[Processor], source: str, model: nn.Module, **access: Any) -> Processor:
    """
    The image processor that lies beside the weights of `model`; its default one if a folder has none, as
    `model.save_pretrained` alone writes none.

    Args:
        processor_class: one of transformers'.
        source: a folder or a Hub id.
        model: a [`PromptableModel`].
        access: see `access_of`.

    Raises:
        OSError: as transformers raises it, if a Hub id has none.
    """
    try:
        return processor_class.from_pretrained(source, **access)
    except OSError:
        if not os.path.isdir(source):
            raise
        return model.default_image_processor()


@contextlib.contextmanager
def explained_refusal(source: str) -> Iterator[None]:
    """Turns "no access", in whatever words, into a `DownloadError` that says how to get it."""
    try:
        yield
    except OSError as error:
        if isinstance(error, DownloadError) or not _is_refusal(error):
            raise
        raise DownloadError(
            f"{source!r} may not be read with this token, if any: the repository is gated or private, or not there. "
            f"Ask for access and accept the licence at https://huggingface.co/{source}, then log in with "
            "`hf auth login` (or pass token=...)"
        ) from error


def _is_refusal(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, (GatedRepoError, RepositoryNotFoundError, LocalTokenNotFoundError)):
            return True
        if isinstance(error, HfHubHTTPError) and getattr(error.response, "status_code", None) in (401, 403):
            return True
        error = error.__cause__ or error.__context__
    return False
