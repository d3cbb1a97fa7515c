"""Data workers: processes that prepare ahead of the model what it asks for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from polylens.files import uninterrupted
from polylens.signals import leave_with_parent

START_METHOD = "forkserver"
"""A rank must not be forked. Another thread, such as gloo's, may hold a lock at that moment that no one opens in the
child: under Python 3.11 one worker of some hundred waited for ever, for the lock on Python's list of threads."""

_PRELOADED = ["torch", "PIL.Image", "transformers.tokenization_utils_tokenizers", "polylens.engine.stream"]


def expect_workers(loader: dict[str, Any], parts: Iterable[object]) -> None:
    """Have the libraries that workers need imported meanwhile, once: it takes 3 s.

    Args:
        loader: as ``served`` takes it.
        parts: what workers will have to unpickle, of modules of a plugin.
    """
    if _is_served(loader):
        _context(type(part).__module__ for part in parts)


def served(dataset: Dataset[Any], requests: Iterable[Any], loader: dict[str, Any]) -> Iterator[Any]:
    """What a data set gives for each request, in order, prepared by workers ahead of time.

    Args:
        dataset: picklable where there are workers; an error is its result, not raised.
        loader: keyword arguments of ``torch.utils.data.DataLoader``, such as ``num_workers``. With
            ``multiprocessing_context="fork"`` workers share the memory of the data set, and may hang.
    """
    if _is_served(loader):
        loader = {**loader, "multiprocessing_context": _context()}
    source: DataLoader[Any] = DataLoader(
        dataset,
        sampler=requests,
        batch_size=None,
        collate_fn=_same,
        generator=torch.Generator(),  # an iterator draws a number when it is made; the run's own belong to dropout
        worker_init_fn=_leave_quietly,
        **loader,
    )
    with uninterrupted(), _main_left_out():  # a Ctrl-C while a worker starts would be lost
        return iter(source)


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Have workers not run the program again that was started, as a new process does to find its classes.

    What they unpickle comes from packages alone; and a script needs no ``if __name__ == "__main__"`` then.
    """
    main: Any = sys.modules["__main__"]
    spec, file = main.__spec__, vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


def _is_served(loader: dict[str, Any]) -> bool:
    return bool(loader.get("num_workers")) and loader.get("multiprocessing_context") is None


def _context(modules: Iterable[str] = ()) -> ForkServerContext:
    """Workers come from a server that has imported the large libraries once and never sees a Ctrl-C."""
    context = multiprocessing.get_context(START_METHOD)
    context.set_forkserver_preload([*_PRELOADED, *dict.fromkeys(modules)])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _leave_quietly(worker: int) -> None:
    """SIGTERM to a whole run is the business of its ranks, which end their workers.

    The loader's own watch is over the process that forked the worker: the server, which lives as long as its workers.
    """
    leave_with_parent()
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(0))


def _same(value: Any) -> Any:
    return value
