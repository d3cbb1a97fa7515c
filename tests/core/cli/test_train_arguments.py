"""``polylens train``: from a command line to the run that is started."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import torchrun

from polylens import cli
from polylens.config.run import RunConfig
from polylens.engine.training import TrainingResult

BASE = ["train", "--model-plugin", "minicpmv", "--model", "tiny", "--output-dir", "out"]


@pytest.fixture
def started(monkeypatch):
    """Runs that were handed to ``polylens.api.train``."""
    runs: list[RunConfig] = []

    def train(config: RunConfig) -> TrainingResult:
        runs.append(config)
        return TrainingResult(Path(config.output_dir), 7, 0.5, None, is_main=True)

    api = ModuleType("polylens.api")
    vars(api)["train"] = train
    monkeypatch.setitem(sys.modules, "polylens.api", api)
    return runs


def test_a_run_is_started_and_its_last_line_printed(started, capsys):
    line = [
        *BASE,
        "--train",
        "pairs.jsonl",
        "--documents",
        "store",
        "--learning_rate",
        "2e-5",
        "--max_slice_nums",
        "4",
    ]
    assert cli.main(line) == 0
    assert capsys.readouterr().out == "7 steps, mean loss 0.5000: the model is in out\n"
    (run,) = started
    assert (run.data.train, run.data.documents) == (["pairs.jsonl"], ["store"])
    assert (run.training, run.options) == ({"learning_rate": 2e-5}, {"max_slice_nums": 4})


def test_the_resolved_run_is_printed_instead(started, capsys, tmp_path):
    assert cli.main([*BASE, "--temperature", "0.1", "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert not started
    (tmp_path / "run.yaml").write_text(printed)
    assert cli.main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    assert started[0].objective.options == {"temperature": 0.1}


def test_nothing_is_started_on_a_wrong_line(started, capsys):
    assert cli.main([*BASE, "--lerning_rate", "1"]) == 2
    assert not started
    assert "did you mean 'learning_rate'?" in capsys.readouterr().err


def test_help_shows_the_options_of_the_named_plugin(capsys):
    assert cli.main(["train", "--help"]) == 0
    without = capsys.readouterr().out
    assert cli.main([*BASE, "--help"]) == 0
    named = capsys.readouterr().out
    assert "--max_slice_nums" in named
    assert "--max_slice_nums" not in without
    for option in ("--train list of str", "--temperature float (default: 0.02)", "--learning_rate float"):
        assert f"  {option}" in without
        assert f"  {option}" in named


def test_help_shows_the_options_of_the_named_objective(capsys):
    assert cli.main(["train", "--objective", "multi_granularity", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--local_weight float (default: 0.01)" in shown
    assert "--learned_temperature" not in shown


def test_ranks_end_alike_and_only_the_first_says_everything():
    first, second = torchrun(
        "-m", "polylens", "--local_rank=0", "train", "--model-plugin", "minicpvm", nproc=2, timeout=120, check=False
    )
    assert (first.returncode, second.returncode) == (2, 2)
    assert first.output.startswith("polylens: error: no plugin named 'minicpvm' (did you mean 'minicpmv'?)")
    assert second.output.startswith("polylens: rank 1: error: no plugin named")
