"""Offload, half precision and activation checkpointing under DeepSpeed leave the gradient right."""

from __future__ import annotations

import re

import pytest
from support import ROOT, torchrun


@pytest.mark.timeout(900)
def test_on_two_ranks():
    main, _ = torchrun(ROOT / "tests" / "deepspeed_ways.py", timeout=800)
    assert len(re.findall(r"at most", main.output)) == 3
