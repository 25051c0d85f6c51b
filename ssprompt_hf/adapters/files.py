"""Adapter files: fetched from the Hub, read with care, written so that they appear whole or not at all."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging

from ..errors import AdapterError, DownloadError
from ..models.registry import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from ..tuners import PromptConfig
from ..tuners.base.checks import PROMPT_DTYPES
from ..tuners.base.config import check_digest
from ..tuners.peft_compat import PromptPeftType, config_class
from ..utils.files import give_usual_modes, place, told_when_full
from ..utils.hub import checked_file, is_damaged, status_of, tried_again
from ..utils.temporary_folders import temporary_folder
from .names import resolve_adapter_name

logger = logging.get_logger(__name__)

CARD = "README.md"


class AdapterFiles(NamedTuple):
    """What an adapter's folder holds: its configuration, and its tensors by the names they have in the file."""

    config: PromptConfig
    tensors: dict[str, torch.Tensor]


def fetch_adapter(
    name: str | os.PathLike,
    namespace: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> str:
    """
    The folder of an adapter, downloaded if need be.

    Args:
        name: a folder, a Hub id `user/name`, or a bare name under `namespace` (see `resolve_adapter_name`).
        namespace, revision, cache_dir, token, local_files_only: where and how to look on the Hub.

    Returns:
        the folder; that of an earlier download, with a warning, if the Hub cannot be reached.

    Raises:
        UnknownNameError: a text that is neither a folder nor a possible Hub id.
        DownloadError: the repository cannot be had.
    """
    resolved = resolve_adapter_name(name, namespace)
    if os.path.isdir(resolved):
        return resolved
    access = {"revision": revision, "cache_dir": cache_dir, "token": token}

    def download(local_files_only: bool = local_files_only) -> str:
        if not (local_files_only or constants.is_offline_mode()):
            # asked first, as the download would take what is in the cache after any failure, and say nothing of it
            HfApi(token=token).repo_info(resolved, revision=revision)
        # Named one by one: whatever else lies there, pickles above all, stays there.
        patterns = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD]
        return snapshot_download(resolved, allow_patterns=patterns, local_files_only=local_files_only, **access)

    try:
        folder = download() if local_files_only else tried_again(download, f"adapter {resolved!r}")
    except RevisionNotFoundError as error:
        raise DownloadError(f"adapter {resolved!r} has no revision {revision!r} at {constants.ENDPOINT}") from error
    except GatedRepoError as error:
        raise DownloadError(f"adapter {resolved!r} is gated: ask for access on its page and log in") from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"there is no adapter {os.fspath(name)!r}: no folder of that name that holds an {ADAPTER_CONFIG}, and no "
            f"repository {resolved!r} at {constants.ENDPOINT} (or it is private and you are not logged in)"
        ) from error
    except (HTTPError, LocalEntryNotFoundError, DownloadError) as error:
        if status_of(error) in (401, 403):
            raise DownloadError(
                f"{constants.ENDPOINT} does not accept your token for adapter {resolved!r} ({status_of(error)}): log "
                "in anew with `hf auth login`, or pass token=False for what is public"
            ) from error
        cached = None if local_files_only else _cached(lambda: download(True))
        reason = str(error).strip().splitlines()[0]
        if cached is None:
            if isinstance(error, DownloadError):
                raise
            raise DownloadError(
                f"adapter {resolved!r} is not in the cache and {constants.ENDPOINT} cannot be reached: {reason}"
            ) from error
        folder = cached
        logger.warning(f"adapter {resolved!r} is taken from the cache, as it was when last asked for: {reason}")
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = os.path.join(folder, file)
        if is_damaged(path):
            there_or_again = partial(_there_or_again, path, download)
            checked_file(there_or_again, f"{file} of {resolved!r}")
    return folder


def _cached(download: Callable[[], str]) -> str | None:
    """The folder in the Hub's cache, if the adapter is there as a whole."""
    try:
        folder = download()
    except (HTTPError, LocalEntryNotFoundError):
        return None
    return folder if os.path.isfile(os.path.join(folder, ADAPTER_WEIGHTS)) else None


def _there_or_again(path: str, download: Callable[[], str]) -> str:
    if os.path.exists(path):
        return path
    try:
        return os.path.join(download(), os.path.basename(path))
    except (HTTPError, LocalEntryNotFoundError) as error:
        raise DownloadError(
            f"{path} was damaged, and cannot be downloaded again now: {str(error).strip().splitlines()[0]}"
        ) from error


def read_adapter(folder: str | os.PathLike) -> AdapterFiles:
    """
    Read and check an adapter's files, without a base model.

    Raises:
        AdapterError: a file is missing, damaged or of an unknown kind, holds values that are not finite, or is not the
            one that the other was written with.
    """
    folder = Path(folder)
    config, tensors = _read_config(folder / ADAPTER_CONFIG), _read_tensors(folder / ADAPTER_WEIGHTS)
    check_digest(config, tensors, folder / ADAPTER_WEIGHTS)
    return AdapterFiles(config, tensors)


def _read_config(path: Path) -> PromptConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path.parent} holds no adapter: there is no {path.name} in it") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise AdapterError(f"{path} is damaged: it is not JSON ({error})") from error
    kind = values.get("peft_type") if isinstance(values, dict) else None
    config_cls = config_class(kind)
    if config_cls is None:
        known = sorted(member.value for member in PromptPeftType)
        raise AdapterError(f"{path} has peft_type {kind!r}; this package reads {', '.join(known)}")
    try:
        return config_cls.from_peft_type(**values)
    except AdapterError as error:
        raise AdapterError(f"{path}: {error}") from error
    except TypeError as error:
        raise AdapterError(f"{path} holds a value of the wrong type: {error}") from error


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        pickles = [name for name in ("adapter_model.bin", "adapter_model.pt") if (path.parent / name).is_file()]
        why = f"; {pickles[0]} is a pickle, which could run any code and is not read" if pickles else ""
        raise AdapterError(f"{path.parent} lacks {path.name}{why}")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise AdapterError(
            f"{path} is damaged ({path.stat().st_size} bytes: {error}); copy or download it again"
        ) from error
    for name, tensor in tensors.items():
        if tensor.dtype not in PROMPT_DTYPES:
            raise AdapterError(f"{path}: {name} has the type {tensor.dtype}; prompts are floats of 16 bits or more")
        if not tensor.isfinite().all():
            raise AdapterError(f"{path}: {name} holds values that are not finite")
    return tensors


@contextmanager
def replacing_folder(folder: str | os.PathLike) -> Iterator[str]:
    """
    Yields a temporary folder on the file system of `folder`; on a clean exit its files take their places in `folder`,
    on an error they vanish. Configurations come first: they name the digest of their tensors, so that where a process
    is killed on the way, neither the tensors of an earlier adapter nor none at all are taken for theirs. What a
    process that was killed while it saved has left beside `folder` disappears first.
    """
    folder = Path(os.path.realpath(folder))
    with told_when_full(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        # a mount point is no neighbour of what is beside it
        beside = folder if os.path.ismount(folder) else folder.parent
        with temporary_folder(folder, beside) as temporary:
            yield str(temporary)
            give_usual_modes(temporary)
            files = [path for path in temporary.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: (path.name != ADAPTER_CONFIG, path)):
                target = folder / path.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                place(path, target)
