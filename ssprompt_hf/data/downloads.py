"""Images behind http(s) addresses, with a limit of time and of size."""

import time
import urllib.request
from http.client import HTTPException

from ..errors import UnreadableFileError

TIME_LIMIT = 30.0
"""Seconds that a download may take in all."""

SIZE_LIMIT = 100 * 2**20
"""Bytes that a download may have."""

CHUNK = 2**16


def is_address(source: object) -> bool:
    """Whether it is the http(s) address of something."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def download(address: str) -> bytes:
    """
    What is behind an address.

    Raises:
        UnreadableFileError: nothing, or not within `TIME_LIMIT`, or more than `SIZE_LIMIT`.
    """
    end = time.monotonic() + TIME_LIMIT
    request = urllib.request.Request(address, headers={"User-Agent": "ssprompt-hf"})
    parts, size = [], 0
    try:
        with urllib.request.urlopen(request, timeout=TIME_LIMIT) as answer:
            while part := answer.read1(CHUNK):
                parts.append(part)
                size += len(part)
                if size > SIZE_LIMIT:
                    raise UnreadableFileError(f"{address}: more than {SIZE_LIMIT >> 20} MiB; download it yourself")
                if time.monotonic() > end:
                    raise UnreadableFileError(
                        f"{address}: not here after {TIME_LIMIT:g} seconds; download it yourself"
                    )
    # urllib's own errors are OSErrors; an address with a space in it and an answer that is no HTTP are HTTPExceptions
    except (OSError, ValueError, HTTPException) as error:
        if isinstance(error, UnreadableFileError):
            raise
        reason = getattr(error, "reason", None) or error
        raise UnreadableFileError(f"{address}: cannot be downloaded ({reason})") from error
    return b"".join(parts)
