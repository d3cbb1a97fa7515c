"""The one error that a user of polylens is meant to read."""

from __future__ import annotations

import errno
from collections.abc import Iterable


class InputError(Exception):
    """Something that the user gave cannot be used: a file, a record, an option, a model folder.

    The message says what was found, where (file, line, JSON pointer, record id), what is allowed, and what to do.
    The command line prints it without a traceback and exits with code 2.
    """


def closest(name: str, allowed: Iterable[str]) -> str:
    """A hint for a misspelt name: ``" (did you mean 'x'?)"``, or an empty string if nothing is near.

    >>> closest("minicpm", ["minicpmv", "tinyllava"])
    " (did you mean 'minicpmv'?)"
    """
    import difflib  # needed by few, and imported by all

    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def is_disk_full(error: OSError) -> bool:
    """Whether there was no room to write: on the disk, in a quota, or under a limit on the size of files."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
