"""A pool of spawned processes that keeps order, holds little in memory, and outlives the death of a worker."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, TypeVar

from polylens.signals import leave_with_parent

__all__ = ["WorkerPool"]

T = TypeVar("T")
R = TypeVar("R")

_ATTEMPTS = 2
"""A worker may be killed for reasons of its own, such as want of memory; a task that two die of is to blame."""

_AHEAD = 4
"""Tasks for workers to go on with while what they made is being stored."""


class WorkerPool(Generic[T, R]):
    """Runs a function over tasks in other processes. Use it as a context manager.

    Each worker has a pipe of its own, and a thread here that waits at it. ``ProcessPoolExecutor`` has one for all, at
    which it waits for ever when a worker is killed while it sends: the others hold the pipe open.

    Args:
        function: of a task; importable by name, as the workers are spawned.
        workers: how many processes.
    """

    def __init__(self, function: Callable[[T], R], workers: int) -> None:
        self._function, self._limit = function, 2 * workers + _AHEAD
        self._threads = ThreadPoolExecutor(workers)
        self._idle: deque[_Worker] = deque()

    def results(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | None]]:
        """Each task with its result, in order; ``None`` if the task kills every worker that tries it."""
        pending: deque[tuple[T, Future[R | None]]] = deque()
        for task in tasks:
            pending.append((task, self._threads.submit(self._run, task)))
            if len(pending) >= self._limit:
                yield _next(pending)
        while pending:
            yield _next(pending)

    def alone(self, task: T) -> R | None:
        """The result of one task; ``None`` if it kills every worker that tries it."""
        return self._threads.submit(self._run, task).result()

    def _run(self, task: T) -> R | None:
        for _ in range(_ATTEMPTS):
            worker = self._idle.pop() if self._idle else _Worker(self._function)
            try:
                result, error = worker.run(task)
            except (EOFError, OSError):  # it is dead
                worker.end()
                continue
            self._idle.append(worker)
            if error is not None:
                raise error
            return result
        return None

    def __enter__(self) -> WorkerPool[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._idle:
            self._idle.pop().end()


def _next(pending: deque[tuple[T, Future[R | None]]]) -> tuple[T, R | None]:
    task, future = pending.popleft()
    return task, future.result()


class _Worker:
    """A process and this side of its pipe; the other side is nobody else's, so the pipe ends with the process."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, task: Any) -> tuple[Any, Exception | None]:
        """The result of a task, or the error that it raised.

        Raises:
            EOFError, OSError: the process was killed.
        """
        self._pipe.send(task)
        return self._pipe.recv()

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """Ctrl-C is the parent's to handle, and a worker whose parent was killed must not stay behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_with_parent()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(function, task))


def _outcome(function: Callable[[Any], Any], task: Any) -> tuple[Any, Exception | None]:
    try:
        return function(task), None
    except Exception as error:  # noqa: BLE001 (raised again in the parent)
        error.add_note(traceback.format_exc())
        return None, error
