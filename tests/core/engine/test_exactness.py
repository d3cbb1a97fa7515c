"""The gradient does not depend on how a batch is cut."""

from __future__ import annotations

import lm_exactness
import pytest
from exactness import CASES, single_process
from support import ROOT, torchrun

SCRIPT = ROOT / "tests" / "exactness.py"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_one_process(case):
    assert single_process(case) <= 1e-10


def test_on_two_ranks_of_ddp():
    ranks = torchrun(SCRIPT, "ddp")
    assert all(rank.output.count("at most 1e-10") == len(CASES) for rank in ranks)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("kind", "cases"),
    [("zero", 2 * len(CASES) + 2 * len(CASES) // 3), pytest.param("all", 4 * len(CASES), marks=pytest.mark.long)],
)
def test_on_two_ranks_of_zero(kind, cases):
    ranks = torchrun(SCRIPT, kind, timeout=1100)
    low_memory, lm, granularity = 5, 3, 1
    assert all(rank.output.count("at most 1e-05") == cases + low_memory + lm + granularity for rank in ranks)
    assert all(rank.output.count("at most 1e-10") == 2 for rank in ranks)  # conversations under DDP


@pytest.mark.parametrize("case", lm_exactness.CASES[1:3], ids=str)
def test_lm_on_one_process(case):
    assert lm_exactness.exact(case) <= 1e-10
