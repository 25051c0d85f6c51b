"""Reading of official SEEM checkpoints: mapped into memory, tensors only, with errors that say what is wrong."""

import os
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch

from ...errors import CheckpointError

# Where training scripts put the state dict, and what wrappers put before its names.
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
_WRAPPER_PREFIXES = ("module.", "model.", "_orig_mod.")
_MAX_LISTED = 5


def read_official_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    The state dict in an official checkpoint, its tensors mapped from the file rather than read.

    Raises:
        CheckpointError: the file is not there, no checkpoint, truncated, damaged, or holds more than tensors.
    """
    path = Path(path)
    _check_file(path)
    try:
        # Only the zip format, torch's default since 1.6, can be mapped into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(_explain_load_error(path, error)) from error
    state_dict = _find_state_dict(content)
    if state_dict is None:
        found = (
            f"a dictionary with {listed(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        )
        raise CheckpointError(
            f"{path} holds no state dict, a dictionary of names and tensors, but {found}. Save model.state_dict() of "
            "the official model."
        )
    return _strip_wrappers(state_dict)


def _check_file(path: Path):
    if not path.exists():
        raise CheckpointError(f"there is no file {path}")
    if not path.is_file():
        raise CheckpointError(f"{path} is a folder; pass the checkpoint file in it")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(b"PK\x03\x04"):
        # The directory of a zip file is at its end.
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} is truncated: it ends before its table of contents, after {path.stat().st_size:,} bytes. "
                "Download it again."
            )
        _check_zip(path)
    elif head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull`")
    elif not head.startswith(b"\x80"):
        what = "is empty" if not head else "is not a file written by torch.save"
        hint = "" if path.suffix != ".safetensors" else "; a safetensors file in the official layout is not supported"
        raise CheckpointError(f"{path} {what}{hint}. Pass an official SEEM checkpoint (.pt).")


def _check_zip(path: Path):
    """Tensors are mapped from where they lie in the file, and nobody else looks whether they lie there as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            if packed:
                raise CheckpointError(
                    f"{path} has been packed again ({packed[0]} in it is compressed), which torch.save does not do: "
                    "pass the original file"
                )
            for info in archive.infolist():
                if info.CRC:  # torch may be told not to compute them
                    with archive.open(info) as entry:
                        while entry.read(1 << 20):
                            pass
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is damaged ({error}). Download it again.") from error


def _explain_load_error(path: Path, error: Exception) -> str:
    text = str(error)
    refused = re.search(r"(?:GLOBAL|global|class|function) `?([\w.]+\.[\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and refused is not None:
        return (
            f"{path} was refused: it refers to {refused[1]}, and a checkpoint needs nothing but tensors. Loading it "
            "could run code hidden in it. If you trust its origin, load it in an isolated environment and save its "
            "state dict alone with torch.save."
        )
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{path} is damaged or truncated, or not a checkpoint ({reason}). Download it again."


def _find_state_dict(content) -> dict[str, torch.Tensor] | None:
    if not isinstance(content, dict) or not content:
        return None
    if all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()):
        return content
    nested = (content.get(key) for key in _STATE_DICT_KEYS)
    return next(filter(None, map(_find_state_dict, nested)), None)


def _strip_wrappers(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = next((p for p in _WRAPPER_PREFIXES if all(name.startswith(p) for name in state_dict)), None)
    if prefix is None:
        return state_dict
    return _strip_wrappers({name[len(prefix) :]: tensor for name, tensor in state_dict.items()})


def listed(items: Iterable[str]) -> str:
    """The first few `items`, and how many more there are."""
    items = list(items)
    rest = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + rest
