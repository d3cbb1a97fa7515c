"""The launcher that the multi-process tests stand on."""

from __future__ import annotations

import re
import time

import psutil
import pytest
from support import RanksFailed, torchrun


def test_ranks_get_the_variables_of_torchrun():
    code = "import os; print(*(os.environ[k] for k in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')))"
    ranks = torchrun("-c", code, nproc=2, timeout=60)
    assert [rank.output.split() for rank in ranks] == [["0", "0", "2", "127.0.0.1"], ["1", "1", "2", "127.0.0.1"]]


def test_a_failure_is_reported_with_the_output_of_every_rank():
    code = "import os, sys; print('I am', os.environ['RANK']); sys.exit(int(os.environ['RANK']) * 3)"
    with pytest.raises(RanksFailed, match=r"(?s)rank 0, exit 0\nI am 0.*rank 1, exit 3\nI am 1"):
        torchrun("-c", code, nproc=2, timeout=60)
    assert [rank.returncode for rank in torchrun("-c", code, nproc=2, timeout=60, check=False)] == [0, 3]


def test_ranks_that_hang_are_killed_with_their_children(tmp_path):
    code = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"
    with pytest.raises(RanksFailed, match="not done after 2 s") as failure:
        torchrun("-c", code, nproc=2, timeout=2)
    children = re.findall(r"^\d+$", str(failure.value), re.MULTILINE)
    assert len(children) == 2
    end = time.monotonic() + 10
    while any(_runs(int(child)) for child in children):
        assert time.monotonic() < end


def _runs(pid: int) -> bool:
    """An orphan that nobody has reaped yet is a zombie: it does not run."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
