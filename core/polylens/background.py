"""Work that goes on beside what this thread does."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec

__all__ = ["Background"]

P = ParamSpec("P")


class Background:
    """Runs one call at a time in a thread of its own. The error of a call is raised where it is waited for."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._running: Future[object] | None = None

    @property
    def busy(self) -> bool:
        """Whether a call has not come to its end."""
        return self._running is not None and not self._running.done()

    def start(self, call: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Wait for the call before, then start this one.

        Raises:
            Exception: that of the call before; this one is not started then.
        """
        self._wait()
        self._running = self._thread.submit(call, *args, **kwargs)

    def end(self) -> None:
        """Wait for the last call, and end the thread.

        Raises:
            Exception: that of the call.
        """
        self._thread.shutdown()
        self._wait()

    def _wait(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.result()
