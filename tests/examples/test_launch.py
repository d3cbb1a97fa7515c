"""The scripts of ``examples/launch`` with two processes, and the DeepSpeed files beside them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from support import ROOT, free_port
from toy import write_toy

from polylens.config.deepspeed import check_deepspeed

LAUNCH = ROOT / "examples" / "launch"
SRUN = """#!/usr/bin/env bash
# Starts two tasks with the variables that srun sets for each.
while [[ $1 == --* ]]; do shift; done
for id in 0 1; do SLURM_PROCID=$id SLURM_LOCALID=$id "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || exit; done
"""
JOB = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node1", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, Path]:
    return write_toy(tmp_path_factory.mktemp("toy"))


def options(data: tuple[Path, Path], output: Path) -> list[str]:
    pairs, store = data
    return [
        *("--model-plugin", "minicpmv", "--model", "tiny", "--train", str(pairs), "--documents", str(store)),
        *("--output-dir", str(output), "--per-device-train-batch-size", "4", "--max-steps", "2"),
        *("--micro-batch-size", "4", "--dataloader-num-workers", "0", "--disable-tqdm", "true"),
    ]


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(*commands: list[str], env: dict[str, str]) -> list[str]:
    """What the commands print, all running at the same time; they must end with 0."""
    started = [
        subprocess.Popen(c, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for c in commands
    ]
    end = time.monotonic() + 280
    try:
        outputs = [process.communicate(timeout=end - time.monotonic())[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), outputs
    return outputs


def test_slurm(data, tmp_path):
    """Tasks of srun find each other and become ranks of one run."""
    program(tmp_path / "srun", SRUN)
    program(tmp_path / "scontrol", "#!/bin/sh\necho 127.0.0.1\n")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (output,) = run([str(LAUNCH / "slurm.sh"), *options(data, tmp_path / "out")], env={**JOB, **path})
    assert output.count("2 steps, mean loss") == 1, "one of two ranks reports"


@pytest.mark.long
def test_two_nodes(data, tmp_path):
    """Two agents, as on two machines, one process each."""
    env = {"PROCESSES": "1", "PORT": str(free_port())}
    commands = [
        [str(LAUNCH / "two_nodes.sh"), str(node), "127.0.0.1", *options(data, tmp_path / "out")] for node in (0, 1)
    ]
    first, second = run(*commands, env=env)
    assert (first.count("2 steps, mean loss"), second.count("mean loss")) == (1, 0)


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.json")), ids=lambda path: path.name)
def test_deepspeed_files_are_taken(path):
    assert check_deepspeed(str(path), "bf16")["zero_optimization"]["stage"] in (2, 3)


def test_precision_is_left_to_the_run():
    """accelerate would set it behind the run's back."""
    assert yaml.safe_load((LAUNCH / "accelerate.yaml").read_text())["mixed_precision"] == "no"
