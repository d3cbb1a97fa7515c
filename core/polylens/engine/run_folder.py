"""The folder of a run: one run at a time, and nothing in it that a killed run had not finished."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from polylens.engine.saving import remove_leftovers
from polylens.errors import InputError

_PATIENCE = 5.0
"""Seconds in which ranks that have lost their launcher end."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Rank 0 holds the folder of its run, so that ranks which outlived a killed launcher and a new run do not mix.

    Raises:
        InputError: another run holds it, or it cannot be made.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output-dir {folder}: the folder cannot be made: {error.strerror or error}") from error
    lock = _locked(folder / ".lock")
    try:
        remove_leftovers(folder)
        yield
    finally:
        Path(lock.name).unlink(missing_ok=True)
        lock.close()
        with suppress(OSError):
            folder.rmdir()  # if nothing was written, as after a mistake in the options


def _locked(path: Path) -> TextIOWrapper:
    """A record lock, which data workers do not inherit; where a file system has none, the file alone."""
    end = time.monotonic() + _PATIENCE
    while True:
        file = path.open("a")
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
                    f"{path.parent}: another run is writing into it; wait for its end, or choose another place"
                ) from error
        file.close()
        time.sleep(0.05)
