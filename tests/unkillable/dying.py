"""What a worker does that is killed while it answers, as when memory runs out in the middle of a page."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path


def half_an_answer(mark: Path) -> bytes:
    """Dies in the middle of sending, if the file ``mark`` is not there yet."""
    if not mark.exists():
        mark.touch()
        Connection._send = _send_half  # type: ignore[attr-defined]
    return bytes(40_000)


def _send_half(self: Connection, data: memoryview) -> None:
    os.write(self.fileno(), data[: len(data) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
