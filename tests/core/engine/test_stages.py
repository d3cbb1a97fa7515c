"""Stages as their users start them: the tiny VLM, real pages, one process and two."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import torchrun
from toy import write_conversations

from polylens.cli import main

STAGES = {
    "model_plugin": "minicpmv",
    "model": "tiny",
    "objective": {"name": "lm"},
    "training": {
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "save_steps": 1,
    },
    "stages": [
        {"name": "pretrain", "tune": ["connector"]},
        {"name": "finetune", "tune": ["connector", "llm"], "zero": 3, "data": {"batches": "modality"}},
        {"name": "lora", "lora": {"enable": True, "dropout": 0}},
    ],
}


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("talk")
    data = {"train": [str(write_conversations(folder))], "max_length": 512}
    path = folder / "stages.yaml"
    path.write_text(yaml.safe_dump({**STAGES, "data": data, "output_dir": str(folder / "out")}))
    return path


@pytest.fixture(scope="module")
def trained(file) -> Path:
    assert main(["train", "--config", str(file)]) == 0
    return file.parent / "out"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    name = "adapter_model.safetensors" if (folder / "adapter_config.json").exists() else "model.safetensors"
    return load_file(folder / name)


def test_a_dry_run_counts_and_writes_nothing(file, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["train", "--config", str(file), "--output-dir", str(output), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert f"finetune: {output}/pretrain -> {output}/finetune\n" in told
    assert told.count("lm on 8 conversations: 2 steps of 4, 2 an epoch") == 3
    trained = [line.split(":")[1].split() for line in told.splitlines() if " weights: " in line]
    assert [words[::2] for words in trained] == [["connector"], ["connector", "llm"], ["adapters"]]
    assert not output.exists()


def test_a_dry_run_counts_what_is_trained(file, trained, capsys):
    """Against the weights that came out different."""
    capsys.readouterr()
    assert main(["train", "--config", str(file), "--dry-run"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if " weights: " in line]
    before, after = weights(trained / "pretrain"), weights(trained / "finetune")
    changed = sum(after[name].numel() for name in after if not torch.equal(before[name], after[name]))
    assert f"trains {changed:,} of {sum(tensor.numel() for tensor in after.values()):,} weights" in told[1]
    adapter = sum(tensor.numel() for name, tensor in weights(trained / "lora").items() if ".lora_" in name)
    assert f"adapters {adapter:,}" in told[2]


def test_a_stage_starts_from_the_weights_of_the_one_before_it(file, trained):
    untouched = [name for name in weights(trained / "pretrain") if name.startswith("vpm.")]
    pretrain, finetune = weights(trained / "pretrain"), weights(trained / "finetune")
    assert untouched
    assert all(torch.equal(pretrain[name], finetune[name]) for name in untouched)
    assert json.loads((trained / "lora" / "polylens.json").read_text())["base_model"] == str(trained / "finetune")
    first = json.loads((trained / "finetune" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert first < json.loads((trained / "pretrain" / "metrics.jsonl").read_text().splitlines()[0])["loss"]


def test_what_is_done_is_not_done_again(file, trained, capsys):
    capsys.readouterr()
    assert main(["train", "--config", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1] for line in lines] == [" was done before"] * 3


def test_a_stage_that_was_begun_with_other_options_is_refused(file, trained, capsys):
    assert main(["train", "--config", str(file), "--learning-rate", "2e-3"]) == 2
    told = capsys.readouterr().err
    assert "stage 'pretrain' was begun with other options (training.learning_rate)" in told


def test_two_ranks_take_all_stages_in_one_group_of_processes(file, trained, tmp_path):
    half = ("--per-device-train-batch-size", "2")
    torchrun("-m", "polylens", "train", "--config", str(file), "--output-dir", str(tmp_path / "two"), *half)
    for stage in ("pretrain", "finetune", "lora"):
        one, two = weights(trained / stage), weights(tmp_path / "two" / stage)
        assert one.keys() == two.keys()
        distance = sum(float((one[name] - two[name]).double().pow(2).sum()) for name in one) ** 0.5
        assert distance / sum(float(one[name].double().pow(2).sum()) for name in one) ** 0.5 < 1e-3


@pytest.mark.long
def test_a_killed_stage_goes_on_to_the_same_weights_bit_for_bit(file, trained, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(trained / "pretrain", output / "pretrain")
    run = yaml.safe_load((output / "pretrain" / "run.yaml").read_text())
    (output / "pretrain" / "run.yaml").write_text(yaml.safe_dump({**run, "output_dir": str(output / "pretrain")}))
    command = ["train", "--config", str(file), "--output-dir", str(output)]
    process = subprocess.Popen([sys.executable, "-m", "polylens", *command], start_new_session=True)
    while not (output / "finetune" / "checkpoint-1").exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert main(command) == 0
    for stage in ("finetune", "lora"):
        ours, theirs = weights(output / stage), weights(trained / stage)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
