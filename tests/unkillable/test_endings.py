"""Runs that are told to stop, lose a process, or meet a full disk: one clear line, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from unkillable.jobs import JOBS, Job, make_job
from unkillable.processes import running, send

PATIENCE = 120.0
LONG = pytest.mark.long


@pytest.fixture(scope="module")
def jobs(tmp_path_factory) -> dict[str, Job]:
    return {name: make_job(name, tmp_path_factory.mktemp(name), steps=4) for name in JOBS}


def has_begun(output: Path) -> bool:
    """Whether there is something that a later run can go on from."""
    return any(output.glob("pages-*.h5.tmp")) or any(output.glob("*-0000*.safetensors")) or checkpoints(output) > 0


def checkpoints(output: Path) -> int:
    return len(list(output.glob("checkpoint-*")))


def left_over(output: Path) -> list[str]:
    """Names of what is half-written; a shard of the document store is kept on purpose, to be gone on with."""
    return [path.name for path in output.rglob("*.tmp") if not path.name.endswith(".h5.tmp")]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("encode", signal.SIGINT),
        ("train", signal.SIGTERM),
        pytest.param("train", signal.SIGINT, marks=LONG),
        pytest.param("render", signal.SIGTERM, marks=LONG),
    ],
)
def test_a_run_that_is_told_to_stop_ends_with_one_line(jobs, tmp_path, name, number):
    job, output = jobs[name], tmp_path / "output"
    with running(job.command(output), tmp_path / "log", job.ranks) as run:
        assert run.wait_until(lambda: has_begun(output))
        for pid in run.members():  # as a terminal does, or a batch system
            send(pid, number)
        assert run.wait(PATIENCE) == [130] * job.ranks
    told = ("polylens: interrupted", "stopped; run it again to go on: 3 files")
    assert any(line.startswith(told) for line in run.output.splitlines())  # what was printed before may come after it
    assert "Traceback" not in run.output
    assert run.output.count("interrupted") <= 1
    assert left_over(output) == []


@pytest.mark.parametrize("whom", ["rank", "data worker"])
def test_the_other_rank_ends_when_a_process_is_killed(jobs, tmp_path, whom):
    job, output = jobs["train"], tmp_path / "output"
    with running(job.command(output), tmp_path / "log", job.ranks) as run:
        assert run.wait_until(lambda: checkpoints(output))
        send(run.leaders[1] if whom == "rank" else run.data_workers(run.leaders[1])[0], signal.SIGKILL)
        codes = run.wait(PATIENCE)
    assert codes == [2, -9 if whom == "rank" else 2]
    assert "polylens: error: another rank ended, whose own message says why" in run.output
    assert ("rank 1: error: a data worker ended" in run.output) == (whom == "data worker")
    assert "then go on with --resume-from-checkpoint true" in run.output
    assert "Traceback" not in run.output
    assert left_over(output) == []


LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
time.sleep(60)
"""
RANK = """
import os, time
os.environ["TORCHELASTIC_RUN_ID"] = "none"
from polylens.signals import ends_when_told
try:
    with ends_when_told():
        print(os.getpid(), flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_a_rank_does_not_outlive_its_launcher():
    with subprocess.Popen([sys.executable, "-c", LAUNCHER, RANK], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        launcher.kill()
        assert launcher.stdout.readline() == "interrupted\n"
        assert launcher.stdout.read() == "", "the pipe ends with the rank"
    assert not os.path.exists(f"/proc/{rank}") or "zombie" in Path(f"/proc/{rank}/status").read_text()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A file system of its own with room for ``size`` bytes."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


FULL = [
    pytest.param("encode", 16_000, id="vectors"),
    pytest.param("render", 1_500_000, id="pages", marks=LONG),
    pytest.param("checkpoint", 3_300_000, id="weights", marks=LONG),
    pytest.param("checkpoint", 4_600_000, id="optimizer", marks=LONG),
]


@pytest.mark.parametrize(("name", "size"), FULL)
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(jobs, tmp_path, name, size):
    job, disk = jobs[name], tmp_path / "disk"
    with small_disk(disk, size):
        with running(job.command(disk / "output"), tmp_path / "log") as run:
            assert run.wait(PATIENCE) == [2], run.output
        check_full(run.output, disk / "output")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        with running(job.command(disk / "output"), tmp_path / "log") as run:
            assert run.wait(PATIENCE) == [0], run.output
        job.content(disk / "output")


def check_full(log: str, output: Path) -> None:
    assert "No space left on device" in log or "the disk is full" in log
    assert "Traceback" not in log
    assert left_over(output) == []


LIMITS = {"shared memory": (100_000, "no room in shared memory"), "checkpoint": (1_000_000, "the disk is full")}


@pytest.mark.parametrize("what", LIMITS)
def test_what_does_not_fit_leaves_no_checkpoint(jobs, tmp_path, what):
    """A data worker that cannot hand over its pictures, too, which the loader itself would never tell."""
    limit, message = LIMITS[what]
    output = tmp_path / "output"
    with running(jobs["checkpoint"].command(output), tmp_path / "log", largest_file=limit) as run:
        assert run.wait(PATIENCE) == [2], run.output
    assert message in run.output
    assert "Traceback" not in run.output
    assert [path.name for path in output.glob("*checkpoint*")] == []
