"""The model out of a DeepSpeed checkpoint; ``test_training.py`` has one of two ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import torchrun
from toy import write_toy

from polylens.cli import main
from polylens.engine.loading import load_checkpoint
from polylens.engine.merge import merge_zero, zero
from polylens.errors import InputError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """Of ZeRO 3: a frozen tower, a learned temperature."""
    folder = tmp_path_factory.mktemp("zero")
    pairs, store = write_toy(folder)
    config = folder / "zero3.json"
    config.write_text('{"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}')
    torchrun(
        *("-m", "polylens", "train", "--model-plugin", "minicpmv", "--model", "tiny", "--objective", "contrastive"),
        *("--train", str(pairs), "--documents", str(store), "--output-dir", str(folder / "run")),
        *("--per-device-train-batch-size", "2", "--max-steps", "1", "--save-steps", "1", "--learned-temperature"),
        *("--learning-rate", "1e-2", "--deepspeed", str(config), "--tune", "connector", "llm"),
        *("--disable-tqdm", "true"),
        nproc=1,
    )
    return folder / "run" / "checkpoint-1"


def test_the_weights_are_those_that_training_saved(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(zero, "SHARD_BYTES", 400_000)
    said = merge_zero(checkpoint, tmp_path / "out")
    expected = load_file(checkpoint / "model.safetensors")
    found = {n: v for path in (tmp_path / "out").glob("model-*") for n, v in load_file(path).items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(list((tmp_path / "out").glob("model-*"))) > 3
    same = load_file(checkpoint / "objective.safetensors")
    assert torch.equal(load_file(tmp_path / "out" / "objective.safetensors")["log_scale"], same["log_scale"])
    assert load_checkpoint(None, str(tmp_path / "out")).card.objective["name"] == "contrastive"
    assert said.parameters == sum(value.numel() for value in expected.values())
    assert capsys.readouterr().out == ""


def test_by_the_command_and_in_another_type(checkpoint, tmp_path, capsys):
    assert main(["merge", "--from-zero", str(checkpoint), "--output-dir", str(tmp_path), "--dtype", "bfloat16"]) == 0
    assert f"is in {tmp_path}\n" in capsys.readouterr().out
    expected = load_file(checkpoint / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], value.bfloat16()) for name, value in expected.items())


def test_the_checkpoint_of_another_model_is_refused(checkpoint, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    config = json.loads((checkpoint / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "vocab_size": 99}))
    with pytest.raises(InputError, match=r"is no weight of this model: name another with --base"):
        merge_zero(checkpoint, tmp_path / "out", plugin="minicpmv", base=str(base))


def test_a_folder_without_a_checkpoint(checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"no DeepSpeed checkpoint, which has a file named latest$"):
        merge_zero(tmp_path, tmp_path / "out")
    inside = next(checkpoint.glob("global_step*"))
    with pytest.raises(InputError, match=f"a file named latest: take {checkpoint}"):
        merge_zero(inside, tmp_path / "out")
    (tmp_path / "latest").write_text("global_step9")
    with pytest.raises(InputError, match="no checkpoint of ZeRO 1, 2 or 3: FileNotFoundError"):
        merge_zero(tmp_path, tmp_path / "out", base=str(checkpoint))


def test_an_adapter_needs_no_such_thing(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="the checkpoint of an adapter, which it holds whole: polylens merge"):
        merge_zero(tmp_path, tmp_path / "out")
