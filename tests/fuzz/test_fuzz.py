"""A few hundred inputs of each fuzzing kind that needs no model, and the fuzzer itself on kinds that fail.

``python tests/fuzz/run.py`` is the long version.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import kinds, worker
from fuzz.mutators import Raw, dump, mutate_bytes, mutate_lines, mutate_value, several
from fuzz.outcome import Outcome
from support import ROOT

QUICK = ["pairs", "inline pairs", "queries", "documents", "document store", "original HDF5", "pictures", "judgements"]
QUICK += ["conversations", "answers", "benchmark questions", "benchmark answers", "lists", "sentences", "comparisons"]


def test_mutated_input_is_accepted_whole_or_refused(tmp_path):
    command = [sys.executable, str(ROOT / "tests/fuzz/run.py"), "--count", "130", "--seed", "7", "--jobs", "1"]
    command += ["--keep", str(tmp_path), "--kinds", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + "".join(map(_told, tmp_path.glob("*/failure.txt")))
    total = done.stdout.splitlines()[-2].split()
    assert total[0] == "all"
    assert int(total[2]) > 20, "nothing was left to be accepted"
    assert int(total[3]) > 20, "nothing was broken"


def _told(path: Path) -> str:
    return f"{path.parent.name}: {path.read_text()}"


@pytest.fixture
def run(tmp_path):
    """Outcomes of inputs of a kind that fails."""

    def outcomes(kind: str, *numbers: int) -> list[Outcome]:
        subject = worker.Worker(tmp_path, 1.0)
        try:
            return [subject.run(worker.Task(f"fuzz.faults:{kind}", 0, number)) for number in numbers]
        finally:
            subject.close()

    return outcomes


def test_every_failure_is_seen(run):
    found = run("Fault", *range(6))
    assert [outcome.status for outcome in found] == [
        *("accepted", "refused", "traceback", "dropped", "crash"),
        "accepted",  # by the process that took its place
    ]
    assert [outcome.failed for outcome in found] == [False, False, True, True, True, False]
    assert found[0].quarantined == 2
    assert "KeyError" in found[2].detail
    assert "gone" in found[3].detail


@pytest.mark.parametrize(("kind", "status"), [("Hang", "hang"), ("Hungry", "traceback"), ("BadCommand", "traceback")])
def test_hangs_hunger_and_commands_that_fail_are_seen(run, kind, status):
    assert [outcome.status for outcome in run(kind, 5)] == [status]


def test_an_input_follows_from_its_seed():
    def made(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        value = {"a": [1, "x"], "b": {"c": None}}
        texts = [dump(several(rng, mutate_value, value)).encode("utf-8", "surrogatepass") for _ in range(50)]
        return [mutate(rng, text) for text in texts for mutate in (mutate_bytes, mutate_lines)]

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_raw_text_stands_in_the_json_as_it_is():
    assert dump({"a": [Raw("1e999"), "x"]}) == '{"a": [1e999, "x"]}'


def test_every_kind_has_a_share():
    assert kinds.KINDS.keys() == kinds.SHARES.keys()
    assert sum(kinds.SHARES.values()) == 100
