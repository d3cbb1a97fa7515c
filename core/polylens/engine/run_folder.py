"""The folder of a run: one run at a time, and nothing in it that a killed run had not finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polylens.engine.locks import locked
from polylens.engine.saving import remove_leftovers
from polylens.errors import InputError


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
    try:
        with locked(folder / ".lock", folder):
            remove_leftovers(folder)
            yield
    finally:
        with suppress(OSError):
            folder.rmdir()  # if nothing was written, as after a mistake in the options
