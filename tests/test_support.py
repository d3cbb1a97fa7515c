"""The launcher that the multi-process tests stand on."""

from __future__ import annotations

import os
import re

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
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"
    with pytest.raises(RanksFailed, match="not done after 2 s") as failure:
        torchrun("-c", code, nproc=2, timeout=2)
    children = re.findall(r"^\d+$", str(failure.value), re.MULTILINE)
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)
