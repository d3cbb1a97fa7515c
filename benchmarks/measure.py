"""How the programs of this folder measure."""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call took.

    Attributes:
        seconds: processor time of this process, all threads together: what other programs do does not count.
        wall: seconds by the clock.
        peak: bytes of resident memory at its highest, above what was resident before the call.
    """

    seconds: float
    wall: float
    peak: int


def measure(call: Callable[[], object]) -> Cost:
    """Run ``call`` once."""
    gc.collect()
    before = _reset_peak()
    wall, seconds = time.perf_counter(), time.process_time()
    call()
    seconds, wall = time.process_time() - seconds, time.perf_counter() - wall
    return Cost(seconds, wall, _status("VmHWM") - before)


def best(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Cost]:
    """The least cost of each call, turn by turn, so that a busy machine disturbs all of them alike."""
    found: dict[str, Cost] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            cost, least = measure(call), found.get(name)
            found[name] = cost if least is None else Cost(*map(min, _fields(cost), _fields(least)))
    return found


def machine() -> str:
    """One line for the record: processor, cores, Python and torch."""
    import torch

    names = [line.split(":")[1] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    processor = names[0].strip() if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"


def _fields(cost: Cost) -> tuple[float, float, int]:
    return cost.seconds, cost.wall, cost.peak


def _reset_peak() -> int:
    """Linux keeps the highest resident size; writing 5 to ``clear_refs`` starts it anew from the present one."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in _lines("/proc/self/status") if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines()
