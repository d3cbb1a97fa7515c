"""Ends of a run that no option and no record is to blame for, told in one line: a killed process, a full disk."""

from __future__ import annotations

import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from safetensors import SafetensorError

from polylens.errors import InputError, is_disk_full

_FULL_WORDS = re.compile(
    r"No space left|Disk quota exceeded|File too large|PytorchStreamWriter failed|iostream error|unexpected pos"
)
_WORKER_PIPES = ("multiprocessing/connection.py", "multiprocessing/resource_sharer.py")


@contextmanager
def explained(again: str) -> Iterator[None]:
    """Errors that a killed data worker, a lost rank or a full disk causes become one line.

    Args:
        again: how to go on, such as ``start it again``.

    Raises:
        InputError: in their place.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError, SafetensorError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        _forget_workers()
        raise InputError(f"{reason}; {again}") from error


def _reason(error: Exception) -> str | None:
    if _is_of_worker(error):
        killed = re.search(r"killed by signal: [^.]*", str(error))
        how = f" ({killed[0].strip()})" if killed else ""
        return f"a data worker ended{how}, as when memory runs out: have fewer workers, or smaller micro-batches"
    if _is_of_rank(error):
        return f"another rank ended, whose own message says why ({_first_line(error)})"
    if (isinstance(error, OSError) and is_disk_full(error)) or _FULL_WORDS.search(str(error)):
        return f"the disk is full ({_first_line(error)}): make room"
    return None


def _first_line(error: Exception, limit: int = 160) -> str:
    line = str(error).strip().partition("\n")[0]
    return line if len(line) <= limit else f"{line[:limit]}..."


def _forget_workers() -> None:
    """The loaders' handler of SIGCHLD would raise once more while they are taken down, and print a traceback."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _is_of_worker(error: Exception) -> bool:
    """Whether a ``DataLoader`` noticed it, or a pipe to a worker broke before it could."""
    if "DataLoader worker" in str(error):
        return True
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return isinstance(error, OSError | EOFError) and any(file.endswith(_WORKER_PIPES) for file in files)


def _is_of_rank(error: Exception) -> bool:
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or "gloo" in str(error)
