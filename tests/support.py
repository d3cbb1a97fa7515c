"""What several tests share: real ranks in real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""


@dataclass(frozen=True, slots=True)
class Rank:
    """How one rank ended; ``output`` is its standard output and standard error together."""

    returncode: int
    output: str


class RanksFailed(AssertionError):
    """A rank failed or the time was over; the message holds the end of every rank's output."""


def torchrun(
    *command: str | Path,
    nproc: int = 2,
    timeout: float = 300,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> list[Rank]:
    """Run ``python COMMAND...`` as ``nproc`` ranks, with the variables that ``torchrun`` sets.

    No agent stands in between: it would import torch once more and put its children out of reach. When a rank fails,
    the others get a few seconds to end by themselves and are then killed with all that they started.

    Args:
        command: a script and its arguments, or ``"-m", "module", ...``.
        timeout: seconds until all ranks are killed.
        check: raise ``RanksFailed`` unless every rank ends with 0.

    Raises:
        RanksFailed: see ``check``; and always when the time is over.
    """
    with tempfile.TemporaryDirectory() as folder:
        logs = [Path(folder) / f"rank{rank}.log" for rank in range(nproc)]
        processes = _start([str(part) for part in command], logs, env or {})
        try:
            in_time = _wait(processes, timeout)
        finally:
            _kill(processes)
        ranks = [
            Rank(process.returncode, log.read_text(errors="replace"))
            for process, log in zip(processes, logs, strict=True)
        ]
    if not in_time or (check and any(rank.returncode for rank in ranks)):
        raise RanksFailed(_report(ranks, "failed" if in_time else f"not done after {timeout:.0f} s"))
    return ranks


class ParentProcess:
    """A data set that holds the process from which whoever asks was forked."""

    def __getitem__(self, index: int) -> int:
        return os.getppid()


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _start(command: Sequence[str], logs: Sequence[Path], env: Mapping[str, str]) -> list[subprocess.Popen[bytes]]:
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(logs)),
        "LOCAL_WORLD_SIZE": str(len(logs)),
        "PYTHONUNBUFFERED": "1",
        **env,
    }
    processes = []
    for rank, log in enumerate(logs):
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, *command],
                env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
    return processes


def _wait(processes: Sequence[subprocess.Popen[bytes]], timeout: float, grace: float = 15) -> bool:
    """Whether all ended in time; after the first failure the others have ``grace`` seconds, and that is in time."""
    end, failed = time.monotonic() + timeout, False
    while any(process.poll() is None for process in processes):
        if not failed and any(process.poll() for process in processes):
            end, failed = min(end, time.monotonic() + grace), True
        if time.monotonic() > end:
            return failed
        time.sleep(0.05)
    return True


def _kill(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _report(ranks: Sequence[Rank], what: str) -> str:
    ends = (f"--- rank {i}, exit {rank.returncode}\n{rank.output[-4000:]}" for i, rank in enumerate(ranks))
    return f"{len(ranks)} ranks: {what}\n" + "\n".join(ends)


_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def lock_held(path: Path) -> subprocess.Popen[str]:
    """Another process, which holds the lock file ``path`` until it ends."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def install(folder: Path, name: str, entry_points: Mapping[str, str], modules: Mapping[str, str]) -> Path:
    """Lay out a distribution as pip would; put ``folder`` on the path to have it installed.

    Args:
        name: of the distribution.
        entry_points: plugin name -> module.
        modules: module -> source.
    """
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "\n".join(f"{key} = {value}" for key, value in entry_points.items())
    (info / "entry_points.txt").write_text(f"[polylens.plugins]\n{lines}\n")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source)
    return folder
