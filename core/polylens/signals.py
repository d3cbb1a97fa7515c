"""How a command ends when it is told to from outside."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

LAUNCHED = "POLYLENS_LAUNCHED"
"""Set by a command that starts others and waits for them."""

_LAUNCHERS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK", LAUNCHED)
"""Set by torchrun and ``accelerate launch``, and by ``deepspeed``, for the ranks that they start and look after."""

_GRACE = 20.0
"""Seconds in which a rank without launcher may end in an orderly way."""


@contextmanager
def ends_when_told() -> Iterator[None]:
    """SIGTERM counts as Ctrl-C, and a rank ends when its launcher is killed, which could not pass anything on."""
    if any(name in os.environ for name in _LAUNCHERS):
        import threading  # not needed by the commands that must be quick

        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        yield  # not in the main thread: signals are the business of whoever has that
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_with_parent() -> None:
    """Of a worker process: end when the process that started it has been killed, even if another one forked it."""
    import threading  # not needed by the commands that must be quick

    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)  # it may be in a call that waits for other ranks and does not come back
    os._exit(130)
