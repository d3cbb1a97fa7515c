"""Run files to copy: their options exist, and what they say is what the original scripts do."""

from __future__ import annotations

from support import ROOT

from polylens.config.parser import parse_run

RUNS = ROOT / "examples" / "runs"


def test_lora_fine_tuning_of_minicpmv():
    run = parse_run(["--config", str(RUNS / "minicpmv_lora.yaml"), "--train", "mine.json", "--learning_rate", "2e-5"])
    assert (run.objective.name, run.data.train, run.tune) == ("lm", ["mine.json"], ["connector", "embed_tokens"])
    assert (run.lora.r, run.lora.target_modules) == (64, ["q_proj", "k_proj", "v_proj", "o_proj"])
    assert run.training["learning_rate"] == 2e-5
