"""Adapters on their way to the Hub."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HTTPError

from ..errors import UploadError


@dataclass
class Upload:
    """
    Args:
        repo_id: where it goes.
        folder: what is uploaded.
        address: of the commit, when it is done.
    """

    repo_id: str
    folder: Path
    address: str = ""


@contextmanager
def uploaded_folder(
    repo_id: str,
    commit_message: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> Iterator[Upload]:
    """
    Makes a repository if it is not there, and yields a temporary folder, which is uploaded on a clean exit.

    Args:
        repo_id: `user/name`, or a name under your own account.
        commit_message, private, token, revision, create_pr: as for transformers' models.

    Raises:
        UploadError: the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    with _upload_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        upload = Upload(repo_id, Path(folder))
        yield upload
        with _upload_errors(repo_id):
            if revision is not None and not revision.startswith("refs/") and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=upload.folder,
                commit_message=commit_message or "Upload adapter",
                revision=revision,
                create_pr=create_pr,
            )
        upload.address = str(commit.commit_url)


@contextmanager
def _upload_errors(repo_id: str) -> Iterator[None]:
    """What the Hub's library and the network say, in one line: an `UploadError`."""
    try:
        yield
    # ValueError: names that are none; all others, those of the network too, are errors of HTTP or of the system
    except (HTTPError, OSError, ValueError) as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise UploadError(
            f"{repo_id!r} cannot be uploaded to {constants.ENDPOINT} ({text}): check the connection, log in with "
            "`hf auth login`, and see that you may write there. save_pretrained keeps the adapter in a folder"
        ) from error
