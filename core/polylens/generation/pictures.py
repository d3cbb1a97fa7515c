"""Pictures that a person shows: files, and addresses that are fetched."""

from __future__ import annotations

import re
from http.client import HTTPException, IncompleteRead
from importlib.metadata import version
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib import request
from urllib.error import HTTPError, URLError

from polylens.data.images import decode_image, encoded_image
from polylens.errors import InputError

__all__ = ["MAX_BYTES", "TIME_LIMIT", "picture_bytes"]

MAX_BYTES = 64 * 2**20
"""Bytes of the largest picture that is fetched."""

TIME_LIMIT = 30.0
"""Seconds that fetching may take, names and redirections included."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HANDLERS = (
    *(request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler),
    *(request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor, request.UnknownHandler),
)
"""urllib's own but for ``file:``, ``ftp:`` and ``data:``, which a redirection could lead to."""


def picture_bytes(
    source: str | Path, *, max_bytes: int = MAX_BYTES, time_limit: float = TIME_LIMIT
) -> tuple[bytes, tuple[int, int]]:
    """A picture as the bytes of its file, with its width and height. It is decoded to its end once.

    Args:
        source: path, or address (http, https); redirections are followed.
        max_bytes, time_limit: of what is fetched; in bytes and seconds.

    Raises:
        InputError: it cannot be read or fetched, or is no picture.
    """
    if isinstance(source, str) and _ADDRESS.match(source):
        data = _fetched(source, max_bytes, time_limit)
    else:
        data = encoded_image(Path(source).expanduser())
    return data, decode_image(data, str(source)).size


def _fetched(url: str, max_bytes: int, time_limit: float) -> bytes:
    """In a thread, because neither the search for a name nor a server that sends a byte at a time ends in time."""
    if not url.lower().startswith(("http://", "https://")):
        raise InputError(f"{url}: pictures are fetched by http and https alone; a file is given by its path")
    done: SimpleQueue[bytes | Exception] = SimpleQueue()
    Thread(target=lambda: done.put(_attempt(url, max_bytes, time_limit)), daemon=True).start()
    try:
        found = done.get(timeout=time_limit)
    except Empty:
        raise InputError(f"{url} was not fetched within {time_limit:g} seconds") from None
    if isinstance(found, Exception):
        raise InputError(_explained(url, found)) from found
    if len(found) > max_bytes:
        raise InputError(f"{url} is larger than {max_bytes} bytes, which is too large for a picture")
    return found


def _attempt(url: str, max_bytes: int, time_limit: float) -> bytes | Exception:
    """The answer of a server, at most one byte longer than allowed, or why there is none."""
    opener = request.OpenerDirector()
    for handler in _HANDLERS:
        opener.add_handler(handler())
    try:
        asked = request.Request(url, headers={"User-Agent": f"polylens/{version('polylens')}", "Accept": "image/*"})
        with opener.open(asked, timeout=time_limit) as response:
            data = response.read(max_bytes + 1)
            is_cut = response.length and len(data) <= max_bytes
            return IncompleteRead(data, response.length) if is_cut else data
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        return error


def _explained(url: str, error: Exception) -> str:
    if isinstance(error, HTTPError):
        return f"{url} cannot be fetched: the server answers {error.code} {error.reason}"
    reason = error.reason if isinstance(error, URLError) else error
    told = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return f"{url} cannot be fetched: {told}; where there is no network, give the path of a picture"
