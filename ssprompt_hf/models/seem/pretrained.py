"""From the name of a base model to a folder that `from_pretrained` loads.

An official checkpoint is downloaded with the Hub client and converted once. The results are kept, by the identity of
the official file, in `<HF_HOME>/ssprompt_hf/converted`:

    <name>/<etag>/              the converted model
    <name>/refs/<revision>      the etag that `revision` had when last asked
    <name>/local/               a file that the user converted under this name

so that a later load needs neither the official file nor, offline, the Hub.
"""

import os
import shutil
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers.utils import logging

from ...errors import DownloadError, UnknownNameError
from ...utils.files import atomic_path
from ...utils.hub import checked_file
from ...utils.names import file_name
from ..registry import ASSETS, BASE_MODELS, BaseModel, check_name
from .conversion import convert_seem_checkpoint
from .converted import converted_models_dir, is_converted, load_tokenizer, local_model_dir

logger = logging.get_logger(__name__)


def resolve_base_model(
    name_or_path: str | os.PathLike,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> str:
    """
    What `from_pretrained` of transformers can load, for a folder, a Hub id or the name of a base model.

    Args:
        name_or_path: a name in `BASE_MODELS`; a folder of that name in the working directory comes first, as for Hub
            ids. Another folder, a file or a Hub id is returned as it is.
        revision: branch, tag or commit of the repository with the official checkpoint.
        cache_dir: holds the download and the converted models, in place of the Hub's cache and `HF_HOME`.
        token: as in `from_pretrained`.
        local_files_only: use what has been downloaded or converted before; touch no network.
        force_download: download and convert again.

    Returns:
        a folder with `config.json` and `model.safetensors`, or `name_or_path`.

    Raises:
        DownloadError: the official file cannot be had: no network and nothing cached, no such revision, no access.
        UnknownNameError: no such name; or no file is published for it, and the message says how to pass one.
        CheckpointError: the official file is not what it should be.
    """
    name = os.fspath(name_or_path)
    if os.path.exists(name):
        return name
    if name not in BASE_MODELS:
        check_name(name)
        return name
    model = BASE_MODELS[name]
    if model.family != "seem":
        raise UnknownNameError(f"{name!r} is no SEEM model: load it by SSPromptModel.from_pretrained({name!r})")
    if model.embedded:
        folder = ASSETS / name
        if not (folder / "config.json").is_file():
            raise UnknownNameError(
                f"{name!r} is not in this installation: {folder} is missing; install the package again"
            )
        return str(folder)
    local = local_model_dir(name, cache_dir)
    if revision is None and is_converted(local):
        logger.info(f"{name} is loaded from {local}, a file that was converted under this name")
        return str(local)
    if model.filename is None:
        raise UnknownNameError(
            f"no file is published for {name!r} ({model.description}). If you have the checkpoint, make it known by "
            f"`ssprompt-hf convert CHECKPOINT.pt --name {name}`, or add `--output DIR` and load DIR."
        )
    access = {"cache_dir": cache_dir, "token": token}
    folder = None if local_files_only else _find_online(model, revision, force_download, **access)
    folder = folder or _find_offline(model, revision, cache_dir)
    if folder is None:
        raise DownloadError(
            f"{name!r} has not been converted on this machine and {model.filename} of {model.repo_id} cannot be "
            f"downloaded: {_why_offline(local_files_only)}. Load it once with access to {constants.ENDPOINT}, or "
            f"convert a copy of the file with `ssprompt-hf convert {model.filename} --name {name}`."
        )
    return str(folder)


def _ref(model: BaseModel, revision: str | None, cache_dir) -> Path:
    return converted_models_dir(cache_dir) / model.name / "refs" / file_name(quote(revision or "main", safe=""))


def _find_online(model: BaseModel, revision: str | None, force_download: bool, cache_dir, token) -> Path | None:
    """The converted model of the file that the Hub has now; None if the Hub cannot be reached."""
    url = hf_hub_url(model.repo_id, model.filename, revision=revision)
    try:
        etag = get_hf_file_metadata(url, token=token).etag
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, GatedRepoError) as error:
        raise DownloadError(_explain(model, revision, error)) from error
    except (HTTPError, OfflineModeIsEnabled) as error:
        logger.warning_once(f"{constants.ENDPOINT} cannot be asked for {model.filename}: {error}")
        return None
    folder = converted_models_dir(cache_dir) / model.name / file_name(quote(etag, safe=""))
    if force_download or not is_converted(folder):
        download = {"revision": revision, "cache_dir": cache_dir, "token": token, "force_download": force_download}
        _convert_once(model, folder, download)
    ref = _ref(model, revision, cache_dir)
    with atomic_path(ref) as temporary:
        temporary.write_text(folder.name)
    return folder


def _find_offline(model: BaseModel, revision: str | None, cache_dir) -> Path | None:
    """The converted model that `revision` was when last asked, or that of an official file in the Hub's cache."""
    ref = _ref(model, revision, cache_dir)
    if ref.is_file():
        folder = ref.parent.parent / file_name(ref.read_text(errors="replace").strip())
        if is_converted(folder):
            return folder
    download = {"revision": revision, "cache_dir": cache_dir, "local_files_only": True}
    try:
        path = Path(hf_hub_download(model.repo_id, model.filename, **download))
    except LocalEntryNotFoundError:
        return None
    # In the Hub's cache the real file is called by its etag; where there are no links, its folder is the commit.
    blob = path.resolve()
    folder = ref.parent.parent / (blob.name if blob.parent.name == "blobs" else path.parent.name)
    if not is_converted(folder):
        _convert_once(model, folder, download)
    return folder


def _convert_once(model: BaseModel, folder: Path, download: dict):
    """Download and convert the official file to `folder`, or wait for the process that is doing so."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f"{folder.name}.lock"):
        force = download.get("force_download", False)
        if is_converted(folder) and not force:
            return
        try:
            path = checked_file(
                lambda: hf_hub_download(model.repo_id, model.filename, **download),
                f"{model.filename} of {model.repo_id}",
            )
        except (HTTPError, LocalEntryNotFoundError) as error:
            raise DownloadError(_explain(model, download.get("revision"), error)) from error
        if force:
            shutil.rmtree(folder, ignore_errors=True)
        logger.info(f"converting {path} to {folder}")
        access = {key: download[key] for key in ("cache_dir", "token", "local_files_only") if key in download}
        tokenizer = load_tokenizer(**access)
        convert_seem_checkpoint(path, model.name, folder, tokenizer=tokenizer)


def _why_offline(local_files_only: bool) -> str:
    if local_files_only:
        return "local_files_only=True"
    return "offline mode is on (HF_HUB_OFFLINE)" if constants.is_offline_mode() else "there is no connection"


def _explain(model: BaseModel, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        what = "is gated; ask for access on its page and log in with `hf auth login`"
    elif isinstance(error, RevisionNotFoundError):
        what = f"has no revision {revision!r}"
    elif isinstance(error, EntryNotFoundError):
        what = f"has no file {model.filename}" + (f" at revision {revision!r}" if revision else "")
    elif isinstance(error, RepositoryNotFoundError):
        what = "was not found, or is private and you are not logged in (`hf auth login`)"
    else:
        what = f"could not be read ({str(error).strip().splitlines()[0]})"
    return (
        f"{model.name!r} cannot be downloaded: the repository {model.repo_id} at {constants.ENDPOINT} {what}. A copy "
        f"of {model.filename} can be converted with `ssprompt-hf convert {model.filename} --name {model.name}`."
    )
