"""Reads inputs in a process of its own, so that a crash, a hang or a hunger for memory is seen and survived."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.kinds import KINDS
from fuzz.outcome import Dropped, Kind, Outcome

IN_PROCESS, SUBPROCESS = (10, 5), (100, 55)
"""Of so many inputs the one of this number also goes to the commands: through ``main``, and a real ``polylens``."""

MEMORY = 12 * 2**30
"""Bytes of address space: an input that asks for terabytes fails here instead of taking the machine down."""

PATIENCE = 600.0
"""Seconds until a process that does nothing at all is given up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One input: everything about it follows from these."""

    kind: str
    seed: int
    number: int


class Worker:
    """A process that reads inputs.

    Args:
        scratch: folder of its own.
        limit: seconds of processor time for one input.
    """

    def __init__(self, scratch: Path, limit: float) -> None:
        self._limit = limit
        self.folder = scratch / "input"
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(self.folder, self._limit, theirs))
        self._process.start()
        theirs.close()

    def run(self, task: Task) -> Outcome:
        """What becomes of an input; a process that dies or hangs is replaced."""
        self._connection.send(task)
        try:
            if self._connection.poll(PATIENCE):
                return self._connection.recv()
            outcome = Outcome("hang", detail=f"no answer after {PATIENCE:.0f} s")
        except (EOFError, ConnectionError):
            self._process.join()
            outcome = self._ended(self._process.exitcode)
        self.close()
        self._start()
        return outcome

    def _ended(self, code: int | None) -> Outcome:
        if code == -signal.SIGPROF:
            return Outcome("hang", detail=f"more than {self._limit:.0f} s of processor time")
        return Outcome("crash", detail=f"the process ended with {code}")

    def close(self) -> None:
        """End the process; one that waits for its next input ends by itself."""
        self._connection.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()


def _serve(folder: Path, limit: float, connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    kinds: dict[str, Kind] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            task: Task = connection.recv()
            if task.kind not in kinds:
                kinds[task.kind] = _kind(task.kind, folder.with_name(f"base {task.kind}"))
            signal.setitimer(signal.ITIMER_PROF, limit)  # its signal ends the process, whatever it is doing
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # progress bars
                outcome = examine(kinds[task.kind], task, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(outcome)


def _kind(name: str, base: Path) -> Kind:
    _empty(base)
    module, _, kind = (KINDS.get(name) or name).partition(":")
    return getattr(import_module(module), kind)(base)


def examine(kind: Kind, task: Task, folder: Path) -> Outcome:
    """Make an input in ``folder``, read it, and give it to the commands if it is its turn."""
    _empty(folder)
    kind.write(random.Random(f"{task.kind} {task.seed} {task.number}"), folder)
    outcome = _read(kind, folder)
    if not outcome.failed and task.number % IN_PROCESS[0] == IN_PROCESS[1]:
        real = task.number % SUBPROCESS[0] == SUBPROCESS[1]
        for command in kind.commands(folder):
            problem = _in_subprocess(command) if real else _in_process(command)
            if problem:
                return Outcome("traceback", detail=f"polylens {' '.join(map(str, command))}: {problem}")
    return outcome


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _read(kind: Kind, folder: Path) -> Outcome:
    from polylens.errors import InputError

    try:
        return Outcome("accepted", kind.read(folder))
    except InputError as error:
        told = str(error)
        fine = told and "Traceback" not in told
        return Outcome("refused", detail=told) if fine else Outcome("traceback", detail=f"the message is {told!r}")
    except Dropped as error:
        return Outcome("dropped", detail=str(error))
    except BaseException:  # noqa: BLE001 (this is what is looked for; Rust's panics are no Exception)
        return Outcome("traceback", detail=traceback.format_exc())


def _in_process(command: Sequence[str]) -> str:
    from polylens.cli import main

    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            code = main(command)
    except BaseException:  # noqa: BLE001 (as above)
        return traceback.format_exc()
    return _problem(code, told.getvalue())


def _in_subprocess(command: Sequence[str]) -> str:
    done = subprocess.run([sys.executable, "-m", "polylens", *command], capture_output=True, check=False)
    return _problem(done.returncode, done.stderr.decode(errors="replace"))


def _problem(code: int, told: str) -> str:
    if "Traceback" in told:
        return told
    if code not in (0, 2):
        return f"exit code {code}: {told}"
    return ""
