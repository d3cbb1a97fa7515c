"""A job and every process that it starts, wherever they stand in the process tree, so that none is missed."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from support import free_port

_MARK = "POLYLENS_TEST_JOB"
_PARENT, _SESSION = 1, 3  # fields of /proc/PID/stat, from its state on
_PRELOADED = [
    "polylens.api",
    "polylens.retrieval.encoding",
    "polylens.data.render",
    "polylens_minicpmv.models.minicpmv2",
    "peft",
]
_PRELOADED += [
    "deepspeed",
    "transformers.trainer",
    "transformers.models.llama.modeling_llama",
    "accelerate",
    "pymupdf",
]


class Running:
    """A command line of polylens that is running, and its descendants: launchers start sessions of their own.

    Args:
        arguments: of ``polylens``.
        ranks: processes that run it together.
        log: where standard output and standard error go.
        launched: start it as users do, with ``python -m`` or torchrun. Otherwise the ranks are forked from a process
            that has imported everything, which saves most of the time of a short job, and have no launcher.
        largest_file: bytes; what is longer cannot be written. Not for ``launched``.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        ranks: int = 1,
        *,
        launched: bool = False,
        largest_file: int | None = None,
    ) -> None:
        self.log, self._mark = log, uuid.uuid4().hex
        log.write_bytes(b"")
        self._leaders = [_launch(arguments, log, ranks, self._mark)] if launched else []
        if not launched:
            self._leaders = _fork(arguments, log, ranks, self._mark, largest_file)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    @property
    def leaders(self) -> list[int]:
        """The ranks, or their launcher."""
        return [leader.pid for leader in self._leaders]

    def children(self, pid: int) -> list[int]:
        """What a process of the job has started."""
        return [member for member in self.members() if _stat(member, _PARENT) == pid]

    def data_workers(self, rank: int) -> list[int]:
        """What the server of a rank's data workers has forked."""
        return [worker for child in self.children(rank) for worker in self.children(child)]

    def codes(self) -> list[int | None]:
        """Exit codes of the ranks, or of their launcher; ``None`` while one is running."""
        return [leader.poll() for leader in self._leaders]

    def is_running(self) -> bool:
        return None in self.codes()

    def members(self) -> list[int]:
        """Every living process of the job, oldest first."""
        mark, leaders = f"{_MARK}={self._mark}".encode(), self.leaders
        return sorted(pid for pid in _processes() if _stat(pid, _SESSION) in leaders or mark in _environment(pid))

    def kill(self) -> None:
        """SIGKILL to all of them at once, as when a machine or a job's memory limit ends it."""
        for leader in self._leaders:
            if leader.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(leader.pid, signal.SIGKILL)
        while members := self.members():
            for pid in members:
                send(pid, signal.SIGKILL)
            time.sleep(0.001)
        while self.is_running():
            time.sleep(0.001)

    def wait(self, timeout: float) -> list[int | None]:
        """The exit codes, when the command and all that it started have ended by themselves.

        Raises:
            AssertionError: a process is still there after ``timeout`` seconds; the message holds the output.
        """
        end = time.monotonic() + timeout
        while self.is_running() or self.members():
            if time.monotonic() > end:
                left = "; ".join(f"{pid} {command_line(pid)}" for pid in self.members()) or "no process"
                raise AssertionError(f"after {timeout:.0f} s, {self.codes()}: {left} left\n{self.output[-4000:]}")
            time.sleep(0.02)
        return self.codes()

    def wait_for(self, seconds: float) -> bool:
        """Whether the command ends within ``seconds``."""
        end = time.monotonic() + seconds
        while self.is_running() and time.monotonic() < end:
            time.sleep(min(0.002, seconds))
        return not self.is_running()

    def describe(self, pid: int) -> str:
        """What a process of the job is."""
        if pid in self.leaders:
            return f"process {self.leaders.index(pid)} of the command"
        return f"{pid}, {command_line(pid)[:60]}"

    def wait_until(self, condition: Callable[[], object], timeout: float = 300, pause: float = 0.002) -> bool:
        """Whether ``condition`` came true before the command ended."""
        end = time.monotonic() + timeout
        while self.is_running():
            if condition():
                return True
            if time.monotonic() > end:
                raise AssertionError(f"nothing happened for {timeout:.0f} s\n{self.output[-4000:]}")
            time.sleep(pause)
        return False


@contextmanager
def running(arguments: Sequence[str], log: Path, ranks: int = 1, **options: Any) -> Iterator[Running]:
    """A job of which nothing is left after the block, however it ends; ``options`` are those of ``Running``."""
    job = Running(arguments, log, ranks, **options)
    try:
        yield job
    finally:
        job.kill()


def send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _launch(arguments: Sequence[str], log: Path, ranks: int, mark: str) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "polylens", *arguments],
            env={**os.environ, _MARK: mark, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class _Rank:
    """A process of the fork server, with the manners of ``subprocess.Popen``."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid is not None
        self.pid, self._process = process.pid, process

    def poll(self) -> int | None:
        return self._process.exitcode


def _fork(arguments: Sequence[str], log: Path, ranks: int, mark: str, largest_file: int | None) -> list[_Rank]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    shared = {_MARK: mark}
    if ranks > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
        shared |= {"LOCAL_WORLD_SIZE": str(ranks)}
    started = []
    for rank in range(ranks):
        env = {**shared, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})}
        process = context.Process(target=_run, args=(list(arguments), env, str(log), largest_file))
        process.start()
        started.append(_Rank(process))
    return started


def _run(arguments: list[str], env: dict[str, str], log: str, largest_file: int | None) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was started by itself
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The server that forked it may have been started for data workers, which are to see no Ctrl-C.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the call that writes, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    from polylens.cli import main

    sys.exit(main(arguments))


def _processes() -> Iterator[int]:
    yield from (int(name) for name in os.listdir("/proc") if name.isdigit())


def _stat(pid: int, field: int) -> int | None:
    """A field of the status of a living process; zombies have none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[field])


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
