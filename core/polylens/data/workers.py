"""A pool of spawned processes that keeps order, holds little in memory, and outlives the death of a worker."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
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


@dataclass(slots=True)
class _Order(Generic[T, R]):
    """A task, what becomes of it, and how many workers have died of it."""

    task: T
    result: Future[R | None] = field(default_factory=Future)
    deaths: int = 0


class WorkerPool(Generic[T, R]):
    """Runs a function over tasks in other processes. Use it as a context manager.

    Each worker has a pipe of its own, and a thread here that waits at it. ``ProcessPoolExecutor`` has one for all, at
    which it waits for ever when a worker is killed while it sends: the others hold the pipe open.

    Args:
        function: of a task; importable by name, as the workers are spawned.
        workers: how many processes.
        ahead: tasks that a worker has beside the one that it works at, so that it need not wait for this process. No
            other worker can take them, so it should be 0 for tasks that take seconds.
    """

    def __init__(self, function: Callable[[T], R], workers: int, *, ahead: int = 0) -> None:
        self._function, self._held = function, 1 + ahead
        self._limit = (2 + ahead) * workers + _AHEAD
        self._orders: SimpleQueue[_Order[T, R] | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._drive, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def results(self, tasks: Iterable[T]) -> Iterator[tuple[T, R | None]]:
        """Each task with its result, in order; ``None`` if the task kills every worker that tries it."""
        pending: deque[_Order[T, R]] = deque()
        for task in tasks:
            pending.append(self._ordered(task))
            if len(pending) >= self._limit:
                yield _next(pending)
        while pending:
            yield _next(pending)

    def alone(self, task: T) -> R | None:
        """The result of one task; ``None`` if it kills every worker that tries it."""
        return self._ordered(task).result.result()

    def _ordered(self, task: T) -> _Order[T, R]:
        order: _Order[T, R] = _Order(task)
        self._orders.put(order)
        return order

    def _drive(self) -> None:
        """Keep one worker busy, in a thread of its own."""
        worker: _Worker | None = None
        held: deque[_Order[T, R]] = deque()
        while self._fetch(held):
            try:
                if worker is None:
                    worker = _Worker(self._function)
            except OSError as error:  # there is no room for another process
                held.popleft().result.set_exception(error)
                continue
            if not _served(worker, held):
                worker.end()
                worker = None
        if worker is not None:
            worker.end()

    def _fetch(self, held: deque[_Order[T, R]]) -> bool:
        """Take orders until there are enough; whether there is something to do."""
        while len(held) < self._held and not self._stopping.is_set():
            try:
                order = self._orders.get(block=not held)
            except Empty:
                break
            if order is None:
                break
            held.append(order)
        return bool(held)

    def __enter__(self) -> WorkerPool[T, R]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopping.set()
        for _thread in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()


def _next(pending: deque[_Order[T, R]]) -> tuple[T, R | None]:
    order = pending.popleft()
    return order.task, order.result.result()


def _served(worker: _Worker, held: deque[_Order[T, R]]) -> bool:
    """Whether the worker has brought the first order to an end; otherwise it is of no more use.

    Of several orders, the first is what a worker has died of; the others were not begun.
    """
    try:
        worker.serve(held)
    except (EOFError, OSError):
        held[0].deaths += 1
        if held[0].deaths >= _ATTEMPTS:
            held.popleft().result.set_result(None)
    except Exception as error:  # noqa: BLE001 (raised again where the result is asked for)
        held.popleft().result.set_exception(error)
    else:
        return True
    return False


class _Worker:
    """A process and this side of its pipe; the other side is nobody else's, so the pipe ends with the process."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self._process.start()
        theirs.close()
        self._sent = 0

    def serve(self, held: deque[_Order[Any, Any]]) -> None:
        """Send what it has not got yet, and wait for the result of the first order, which is then done.

        Raises:
            EOFError, OSError: the process was killed.
        """
        for order in itertools.islice(held, self._sent, None):
            self._pipe.send(order.task)
            self._sent += 1
        result, error = self._pipe.recv()
        self._sent -= 1
        done = held.popleft().result
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

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
