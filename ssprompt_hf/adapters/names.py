"""From the name of an adapter to a folder or a Hub id."""

import os
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import UnknownNameError
from ..models.registry import ADAPTER_CONFIG

DEFAULT_NAMESPACE = "ssprompt-hf"
NAMESPACE_VARIABLE = "SSPROMPT_HUB_NAMESPACE"


def resolve_adapter_name(name: str | os.PathLike, namespace: str | None = None) -> str:
    """
    What to load an adapter from: a folder's path or a Hub id.

    A bare name that is a folder holding an adapter stands for that folder, otherwise for a repository under
    `namespace`.

    Args:
        name: a folder, a Hub id `user/name`, or a bare name.
        namespace: where bare names are looked up; by default the environment variable `SSPROMPT_HUB_NAMESPACE`, or
            `"ssprompt-hf"`.

    Returns:
        the folder as given, or the Hub id.

    Raises:
        UnknownNameError: a path that is no adapter folder, or a text that cannot be a Hub id.
    """
    text = os.fspath(name)
    folder = Path(text)
    if (folder / ADAPTER_CONFIG).is_file():
        return text
    is_bare = bool(text) and "/" not in text and os.sep not in text and text not in (".", "..")
    if folder.is_dir() and not is_bare:
        raise UnknownNameError(f"the folder {text!r} holds no adapter: there is no {ADAPTER_CONFIG} in it")
    repo_id = text
    if is_bare:
        namespace = namespace or os.environ.get(NAMESPACE_VARIABLE) or DEFAULT_NAMESPACE
        repo_id = f"{namespace}/{text}"
    try:
        # The client would take a one-part id for a repository; adapters have an owner.
        if repo_id.count("/") != 1:
            raise HFValidationError(f"{repo_id!r} has not the form 'user/name'")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UnknownNameError(
            f"{text!r} is neither a folder that holds an adapter, nor a Hub id 'user/name', nor a bare name: {error}"
        ) from None
    return repo_id
