"""Data workers as a program starts them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support import ParentProcess

from polylens.engine.loaders import served

SCRIPT = """
print("started", flush=True)
import sys
from polylens.engine.loaders import served
spec, file = __spec__, __file__
print(list(served([10, 20, 30], [2, 0], {"num_workers": 2})), (__spec__, __file__) == (spec, file))
"""


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.returncode) == ("started\n[30, 10] True\n", 0), run.stderr


def test_a_worker_is_not_forked_from_the_rank_whose_threads_may_hold_locks():
    (parent,) = served(ParentProcess(), [0], {"num_workers": 1})
    assert parent != os.getpid()
    (parent,) = served(ParentProcess(), [0], {"num_workers": 1, "multiprocessing_context": "fork"})
    assert parent == os.getpid()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterator_draws_nothing_from_the_generator_of_dropout(workers):
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert list(served([1, 2], [1], {"num_workers": workers})) == [2]  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)
