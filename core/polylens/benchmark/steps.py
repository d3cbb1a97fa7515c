"""Runs the commands of a comparison as processes of their own, each once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.files import write_text
from polylens.signals import LAUNCHED

__all__ = ["Step", "StepFailed", "fingerprint", "run_step", "seconds_of"]

_LOG = logging.getLogger(__name__)
_GRACE = 30.0
"""Seconds in which a command that is told to end may end."""

_TAIL = 4096
"""Bytes at the end of a log that may hold why a command failed."""


class StepFailed(Exception):
    """A command that ended with an error; the message is its last line."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what it makes.

    Attributes:
        name: ``train``, ``merge``, ``predict`` or ``score``.
        arguments: of ``polylens``.
        output: the file or folder that is there when the command has ended.
        place: path without suffix for its log and its record.
        processes: ranks, started by torchrun if there are several.
    """

    name: str
    arguments: tuple[str, ...]
    output: Path
    place: Path
    processes: int = 1

    @property
    def command(self) -> list[str]:
        ranks = ["torch.distributed.run", "--standalone", f"--nproc-per-node={self.processes}", "-m"]
        return [sys.executable, "-m", *(ranks if self.processes > 1 else []), "polylens", *self.arguments]

    @property
    def line(self) -> str:
        """As one would type it."""
        launcher = ["torchrun", f"--nproc-per-node={self.processes}", "-m"] if self.processes > 1 else []
        return shlex.join([*launcher, "polylens", *self.arguments])

    @property
    def log(self) -> Path:
        return self.place.with_name(self.place.name + ".log")

    @property
    def record(self) -> Path:
        return self.place.with_name(self.place.name + ".step.json")


def fingerprint(*parts: Any) -> str:
    """Sixteen letters that tell settings apart.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_step(step: Step) -> None:
    """Run a command to its end, unless it has ended well before; its output goes to its log.

    Raises:
        StepFailed: it ended with an error.
    """
    attempts = _attempts(step)
    if attempts and attempts[-1]["seconds"] is not None and step.output.exists():
        _LOG.info("%s: done before", step.line)
        return
    _settle(attempts, step)
    attempts.append({"begun": time.time(), "seconds": None})
    _write(step, attempts)
    code = _run(step)
    if code != 0 or not step.output.exists():
        _settle(attempts, step)
        _write(step, attempts)
        raise StepFailed(_last_line(step.log) or f"exit code {code}")
    attempts[-1]["seconds"] = time.time() - attempts[-1]["begun"]
    _write(step, attempts)


def seconds_of(step: Step) -> float:
    """What the step has taken, all attempts together."""
    return sum(attempt["seconds"] or attempt.get("lost", 0.0) for attempt in _attempts(step))


def _attempts(step: Step) -> list[dict[str, Any]]:
    if not step.record.is_file():
        return []
    value = read_json_object(step.record)
    schemas.check("comparison_step", value, str(step.record))
    return value["attempts"]


def _settle(attempts: list[dict[str, Any]], step: Step) -> None:
    """An attempt that was killed lasted until it wrote its last line."""
    if attempts and attempts[-1]["seconds"] is None and "lost" not in attempts[-1] and step.log.exists():
        attempts[-1]["lost"] = max(0.0, step.log.stat().st_mtime - attempts[-1]["begun"])


def _write(step: Step, attempts: Sequence[dict[str, Any]]) -> None:
    value = {"command": step.line, "attempts": attempts}
    write_text(step.record, [json.dumps(value, indent=2, ensure_ascii=False), "\n"])


def _run(step: Step) -> int:
    step.log.parent.mkdir(parents=True, exist_ok=True)
    with step.log.open("ab") as log:
        log.write(f"$ {step.line}\n".encode("utf-8", "backslashreplace"))
        log.flush()
        process = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, LAUNCHED: str(os.getpid())},
        )
        try:
            return process.wait()
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _last_line(log: Path) -> str:
    """The error that a command printed, or its last words."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("polylens: error: ")]
    return (errors or lines or [""])[-1].removeprefix("polylens: error: ")
