"""A pool of spawned processes that keeps order, holds little in memory, and outlives the death of a worker."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Generic, TypeVar

__all__ = ["WorkerPool"]

T = TypeVar("T")
R = TypeVar("R")


class WorkerPool(Generic[T, R]):
    """Runs a function over tasks in other processes. Use it as a context manager.

    Args:
        function: of a task; importable by name, as the workers are spawned.
        workers: how many processes.
    """

    def __init__(self, function: Callable[[T], R], workers: int) -> None:
        self._function, self._workers = function, workers
        self._pool = self._start()

    def results(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | None]]:
        """Each task with its result, in order; ``None`` if the task kills every worker that tries it."""
        window = self._workers + self._workers // 2 + 1
        pending: deque[tuple[T, Future[R | None] | None]] = deque()
        for task in tasks:
            pending.append((task, self._submit(task)))
            if len(pending) >= window:
                yield self._next(pending)
        while pending:
            yield self._next(pending)

    def alone(self, task: T) -> R | None:
        """The result of a task that runs while no other does; ``None`` if it kills its worker."""
        future = self._submit(task)
        try:
            return None if future is None else future.result()
        except BrokenProcessPool:
            self._restart()
            return None

    def _next(self, pending: deque[tuple[T, Future[R | None] | None]]) -> tuple[T, R | None]:
        task, future = pending.popleft()
        try:
            if future is not None:
                return task, future.result()
        except BrokenProcessPool:
            pass
        # Any of the tasks under way may have killed its worker: only one that does so alone is to blame.
        self._restart()
        lost = [waiting for waiting, _ in pending]
        pending.clear()
        result = self.alone(task)
        pending.extend((waiting, _done(self.alone(waiting))) for waiting in lost)
        return task, result

    def _submit(self, task: T) -> Future[Any] | None:
        try:
            return self._pool.submit(self._function, task)
        except BrokenProcessPool:
            return None

    def _start(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_prepare_worker)

    def _restart(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = self._start()

    def __enter__(self) -> WorkerPool[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future


def _prepare_worker() -> None:
    """Ctrl-C is the parent's to handle, and a worker whose parent was killed must not stay behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
