"""What is asked of the Hub: within a time limit, more than once where that may help, and with a look at what came."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError
from transformers.utils import logging

from ..errors import DownloadError
from .files import file_digest

logger = logging.get_logger(__name__)

TIMEOUT_VARIABLE = "SSPROMPT_HUB_TIMEOUT"
DEFAULT_TIMEOUT = 60.0
"""Seconds for all that is asked about an adapter or a data set. The client itself waits for ever for some answers."""

WAITS = (1.0, 3.0)
"""Seconds before the second and the third try."""

TRANSIENT = (429, 500, 502, 503, 504)
"""Answers that may be others in a moment: too many requests, and a server that is not well."""

_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
T = TypeVar("T")


def time_limit() -> float:
    """
    Seconds, from the environment variable `SSPROMPT_HUB_TIMEOUT`.

    Raises:
        DownloadError: it is set to something else.
    """
    text = os.environ.get(TIMEOUT_VARIABLE) or str(DEFAULT_TIMEOUT)
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not limit > 0:
        raise DownloadError(f"{TIMEOUT_VARIABLE} is {text!r}; it must be a number of seconds, above 0")
    return limit


def within_time_limit(call: Callable[[], T], what: str) -> T:
    """
    What `call` returns or raises, if that does not take longer than `time_limit()`; otherwise it is left to itself.

    Args:
        call: whatever asks the Hub.
        what: is asked for, for the message.

    Raises:
        DownloadError: it took longer.
    """
    outcome: dict = {}

    def work():
        try:
            outcome["value"] = call()
        except BaseException as error:  # handed to whoever waits
            outcome["error"] = error

    limit = time_limit()
    worker = threading.Thread(target=work, daemon=True, name="ssprompt-hub")
    worker.start()
    worker.join(limit)
    if worker.is_alive():
        raise DownloadError(
            f"{constants.ENDPOINT} has not answered within {limit:g} seconds about {what}: try again later, or set "
            f"{TIMEOUT_VARIABLE} to more seconds"
        )
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]


def status_of(error: BaseException | None) -> int | None:
    """The status of the answer behind an error of the client; None where no answer came."""
    while error is not None:
        if isinstance(error, HfHubHTTPError) and getattr(error, "response", None) is not None:
            return error.response.status_code
        error = error.__cause__
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same question may be answered in a moment."""
    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    if isinstance(error, LocalEntryNotFoundError):  # what the client makes of it after a look at the cache
        error = error.__cause__
    # who refuses connections, or cannot be found, will do so in a moment, too; a connection that breaks may not
    return isinstance(error, HTTPError) and type(error).__name__ != "ConnectError"


def tried_again(call: Callable[[], T], what: str) -> T:
    """
    As `within_time_limit`; after a transient failure it is tried twice more.

    Raises:
        whatever the last try raises.
    """
    end = time.monotonic() + time_limit()
    for wait in WAITS:
        try:
            return within_time_limit(call, what)
        except DownloadError:
            raise
        except Exception as error:
            if not is_transient(error) or time.monotonic() + wait > end:
                raise
            logger.info(f"{what}: {error}; tried again in {wait:g} seconds")
        time.sleep(wait)
    return within_time_limit(call, what)


def is_damaged(path: str | os.PathLike) -> bool:
    """Whether a file of the Hub's cache is not what the Hub said it would be: the cache calls each file by its digest,
    SHA-256 for large files and Git's for others. False for files from elsewhere, and always where the file system has
    no symbolic links: there the cache keeps files under their own names, without a digest."""
    blob = Path(os.path.realpath(path))
    if blob.parent.name != "blobs" or not blob.is_file():
        return False
    if _SHA256.fullmatch(blob.name):
        return file_digest(blob) != blob.name
    if _GIT_SHA1.fullmatch(blob.name):
        return file_digest(blob, "sha1", b"blob %d\0" % blob.stat().st_size) != blob.name
    return False


def remove_cached(path: str | os.PathLike) -> None:
    """Take a file out of the Hub's cache, so that it is downloaded again."""
    blob = Path(os.path.realpath(path))
    Path(path).unlink(missing_ok=True)
    blob.unlink(missing_ok=True)


def checked_file(download: Callable[[], str], what: str) -> str:
    """
    The path of a file of the Hub's cache, which is downloaded once more if it is damaged.

    Args:
        download: returns the path.
        what: the file, for the message.

    Raises:
        DownloadError: it is damaged again.
    """
    for _ in range(2):
        path = download()
        if not is_damaged(path):
            return path
        logger.warning(f"{path} is not what the Hub says of it; it is removed from the cache")
        remove_cached(path)
    raise DownloadError(
        f"{what} comes damaged from {constants.ENDPOINT}: its digest is not the one that the Hub names. Try again "
        "later, or from another network"
    )


@contextmanager
def checked_downloads(
    source: str | os.PathLike, cache_dir: str | os.PathLike | None = None, kind: str = "models"
) -> Iterator[None]:
    """
    Around a call of another library that may download files of a repository: see, also after an error, that what came
    is what the Hub said.

    Args:
        source: the repository; nothing is looked at for a folder.
        cache_dir: of the Hub; the usual one when None.
        kind: `"models"` or `"datasets"`.

    Raises:
        DownloadError: a file is not; it is removed from the cache.
    """
    began = time.time()
    try:
        yield
    finally:
        if not os.path.isdir(source):
            _check_fresh_files(os.fspath(source), began, cache_dir, kind)


def _check_fresh_files(repo_id: str, began: float, cache_dir: str | os.PathLike | None, kind: str) -> None:
    blobs = Path(cache_dir or constants.HF_HUB_CACHE, f"{kind}--{repo_id.replace('/', '--')}", "blobs")
    for blob in blobs.iterdir() if blobs.is_dir() else ():
        if not (_SHA256.fullmatch(blob.name) or _GIT_SHA1.fullmatch(blob.name)):
            continue  # such as the file of a download that goes on, which another process renames when it is done
        try:
            # older ones were looked at when they came; file systems count in seconds
            is_wrong = blob.stat().st_mtime >= began - 2 and is_damaged(blob)
        except FileNotFoundError:  # another process found it damaged, and removed it
            continue
        if is_wrong:
            remove_cached(blob)
            raise DownloadError(
                f"a file of {repo_id!r} has come damaged from {constants.ENDPOINT} ({blob.name[:16]}... is not its "
                "digest), and is removed from the cache: try again"
            )
