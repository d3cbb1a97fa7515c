"""Places that one process at a time writes to."""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

from polylens.errors import InputError

_PATIENCE = 5.0
"""Seconds in which ranks that have lost their launcher end."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, place: Path) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs; it ends with its holder, however that ends.

    Args:
        place: what it stands for, as the message names it.

    Raises:
        InputError: another process holds it, or it cannot be made.
    """
    lock = _lock(path, place)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()


def _lock(path: Path, place: Path) -> TextIOWrapper:
    """A record lock, which data workers do not inherit; where a file system has none, the file alone."""
    end = time.monotonic() + _PATIENCE
    while True:
        file = _opened(path, place)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.samefile(f"/dev/fd/{file.fileno()}"):
                return file
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return file
            if error.errno not in (errno.EACCES, errno.EAGAIN) or time.monotonic() > end:
                file.close()
                raise InputError(
                    f"{place}: another run is writing into it; wait for its end, or choose another place"
                ) from error
        file.close()
        time.sleep(0.05)


def _opened(path: Path, place: Path) -> TextIOWrapper:
    try:
        return path.open("a")
    except OSError as error:
        raise InputError(f"{place}: nothing can be written there: {error.strerror or error}") from error
