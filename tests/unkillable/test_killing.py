"""A few kills of every job; ``python -m unkillable.killing`` makes as many as one likes."""

from __future__ import annotations

import pytest
from unkillable.killing import Series

SHORT = [
    pytest.param("encode", 2, False),
    pytest.param("train", 1, False),
    pytest.param("merge", 1, True),
    pytest.param("render", 3, True, marks=pytest.mark.long),
    pytest.param("checkpoint", 3, True, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("name", "moments", "inside"), SHORT)
def test_a_job_that_is_killed_and_started_again_makes_the_same(tmp_path, name, moments, inside):
    tally = Series(name, tmp_path, seed=1, inside=inside, steps=4).run(moments)
    assert tally.kills == moments
    assert tally.compared >= 1


def test_a_job_that_makes_something_else_is_noticed(tmp_path):
    """The comparison itself can fail."""
    series = Series("encode", tmp_path)
    series.run(0)
    shard = tmp_path / "undisturbed" / "vectors-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(AssertionError, match=r"not as in the undisturbed run: \['vectors-00001.safetensors'\]"):
        series.compare(tmp_path / "undisturbed")
