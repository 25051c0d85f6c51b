"""What families read from the folder or the Hub id of a model of transformers."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalTokenNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PretrainedConfig

from ..errors import CheckpointError, DownloadError
from .fingerprint import first_not_finite

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


JSON_FILES = (
    "config.json",
    "model.safetensors.index.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def check_folder(folder: str | os.PathLike) -> None:
    """
    Look at the files of a model before anybody loads them: a damaged one must not count as one that is not there.

    Raises:
        CheckpointError: a file is damaged; the message names it.
    """
    folder = Path(folder)
    for path in (folder / name for name in JSON_FILES):
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: it is not JSON ({error}). Copy or download it again") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} is damaged: it holds no JSON object. Copy or download it again")
        if path.name == "model.safetensors.index.json":
            shards = content.get("weight_map")
            shards = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
            if missing := [name for name in shards if not (folder / name).is_file()]:
                raise CheckpointError(f"{folder} lacks {missing[0]}, a part of the weights. Copy or download it again")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            size = path.stat().st_size
            raise CheckpointError(
                f"{path} is damaged ({size:,} bytes: {error}). Copy, download or convert it again"
            ) from error


def check_weights(model: nn.Module, source: str) -> None:
    """
    Look at what was loaded.

    Raises:
        CheckpointError: weights were not in the files and are random numbers, or are no numbers.
    """
    missing = sorted(getattr(model, "missing_weights", ()))
    if missing:
        raise CheckpointError(
            f"the weights in {source!r} lack {missing[0]} ({len(missing)} tensors missing): the file is damaged, or "
            "of another model. Copy, download or convert it again"
        )
    weights = {name: p for name, p in model.named_parameters() if p.device != torch.device("meta")}
    wrong = first_not_finite(weights)
    if wrong is not None:
        raise CheckpointError(
            f"{wrong} in {source!r} holds values that are not finite: the file is damaged. Copy, download or convert "
            "it again"
        )
