from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polylens.benchmark.steps import Step, StepFailed, fingerprint, run_step, seconds_of
from polylens.config import schemas

WAITS = """
import sys, time
from pathlib import Path
from polylens.benchmark.steps import Step, run_step
from polylens.signals import ends_when_told
from test_steps import OwnStep
with ends_when_told():
    run_step(OwnStep("x", ("import time; print('at work', flush=True); time.sleep(60)",), Path("o"), Path("x")))
"""


class OwnStep(Step):
    """Runs a piece of Python in place of a command of polylens."""

    @property
    def command(self) -> list[str]:
        guard = "from polylens.signals import ends_when_told\nwith ends_when_told():\n "
        return [sys.executable, "-c", guard + self.arguments[0]]


def step(folder: Path, code: str) -> OwnStep:
    return OwnStep("train", (code,), folder / "output", folder / "sub" / "train-1")


def attempts(one: Step) -> list[dict]:
    value = json.loads(one.record.read_text())
    schemas.check("comparison_step", value, str(one.record))
    return value["attempts"]


def test_a_step_runs_once(tmp_path):
    one = step(tmp_path, f"print('hello'); open({str(tmp_path / 'output')!r}, 'a').write('x')")
    run_step(one)
    run_step(one)
    assert (tmp_path / "output").read_text() == "x"
    assert "hello" in one.log.read_text()
    assert len(attempts(one)) == 1
    assert 0 < seconds_of(one) < 60
    (tmp_path / "output").unlink()
    run_step(one)
    assert (tmp_path / "output").read_text() == "x"
    assert len(attempts(one)) == 2


def test_a_step_that_fails_says_why_and_is_tried_again(tmp_path):
    one = step(tmp_path, "print('polylens: error: no memory left'); print('the end'); raise SystemExit(2)")
    with pytest.raises(StepFailed, match=r"^no memory left$"):
        run_step(one)
    assert attempts(one)[0]["seconds"] is None
    assert attempts(one)[0]["lost"] > 0
    with pytest.raises(StepFailed):
        run_step(one)
    assert len(attempts(one)) == 2
    with pytest.raises(StepFailed, match=r"^at work$"):
        run_step(step(tmp_path / "b", "print('at work')"))  # it made nothing


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_the_comparison(tmp_path, number):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", WAITS], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    log = tmp_path / "x.log"
    end = time.monotonic() + 30
    while not (log.exists() and "at work" in log.read_text().splitlines()):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
    child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.send_signal(number)
    process.wait(20)
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end, "the command outlived the comparison"
        time.sleep(0.05)


def test_fingerprints_follow_from_values_alone():
    assert fingerprint({"a": [1, 2], "b": Path("x")}) == fingerprint({"b": Path("x"), "a": [1, 2]})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2}) != fingerprint({"a": "2"})


def test_several_ranks_are_started_by_torchrun(tmp_path):
    one = Step("train", ("train", "--config", "a b.yaml"), tmp_path, tmp_path / "x", processes=2)
    assert one.line == "torchrun --nproc-per-node=2 -m polylens train --config 'a b.yaml'"
    assert one.command[1:6] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
