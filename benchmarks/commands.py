"""What a whole command takes: the processor time of its process and of those that it started."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class CommandCost(NamedTuple):
    """Attributes:
    seconds: processor time, user and system, of all processes together.
    wall: seconds by the clock.
    """

    seconds: float
    wall: float


def output(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a command prints.

    Raises:
        CalledProcessError: it fails.
    """
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def cost(command: Sequence[str], environment: Mapping[str, str] | None = None) -> CommandCost:
    """Run a command to its end; it must not leave processes behind."""
    before, start = _children(), time.perf_counter()
    output(command, environment)
    return CommandCost(_children() - before, time.perf_counter() - start)


def least(one: CommandCost | None, other: CommandCost) -> CommandCost:
    """The lower processor time and the lower wall time of two runs; programs beside them can only add to either."""
    return other if one is None else CommandCost(*map(min, one, other))


def compiled(folder: str) -> dict[str, str]:
    """The environment, with modules compiled into ``folder`` on their first import, as pip leaves them."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": folder}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
