"""Checkpoints that are damaged, or hold code: refused before anything is built."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from polylens.cli import main
from polylens.engine.resuming import check_checkpoint, only_values
from polylens.errors import InputError

STATE = "trainer_state.json"


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def command(toy: tuple[Path, Path], output: Path) -> list[str]:
    pairs, store = toy
    return [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--train", str(pairs), "--documents", str(store)),
        *("--output-dir", str(output), "--per-device-train-batch-size", "4", "--max-steps", "1", "--save-steps", "1"),
        *("--dataloader-num-workers", "0", "--disable-tqdm", "true", "--report-to", "none"),
        *("--learned-temperature", "true"),
    ]


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("run")
    assert main(command(toy, output)) == 0
    return output


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def resume(toy: tuple[Path, Path], run: Path, capsys) -> str:
    assert main([*command(toy, run), "--resume-from-checkpoint", "true"]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "global_step1/zero_states.pt"])
def test_code_in_a_checkpoint_is_refused_and_not_run(toy, run, tmp_path, capsys, name):
    path = run / "checkpoint-1" / name
    path.parent.mkdir(exist_ok=True)
    torch.save({"state": Trap(tmp_path / "sprung")}, path)
    told = resume(toy, run, capsys)
    assert f"{path}: damaged, or more than numbers: it is not loaded: UnpicklingError" in told
    assert not (tmp_path / "sprung").exists()


def test_no_one_loads_more_than_values(tmp_path):
    """DeepSpeed asks for whole objects."""
    torch.save(Trap(tmp_path / "sprung"), tmp_path / "state.pt")
    with only_values(deepspeed=True), pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "state.pt", weights_only=False)
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert (tmp_path / "sprung").exists(), "the trap works, and the rule ends with the block"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (STATE, b"[" * 5000, "no state of a run"),
        (STATE, b'{"global_steps": 1}', "no state of a run"),
        (STATE, b"{}", "/global_step is 0, not the number of a step"),
        (STATE, b'{"global_step": "1"}', "/global_step is '1', not the number of a step"),
        ("optimizer.pt", b"", "damaged, or more than numbers"),
        ("optimizer.pt", b"PK\x03\x04", "damaged, or more than numbers"),
        ("objective.safetensors", b"\xff" * 20, "cannot be read: SafetensorError"),
        ("model.safetensors", b"", "the weights cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(toy, run, capsys, name, content, message):
    assert (run / "checkpoint-1" / name).is_file()
    (run / "checkpoint-1" / name).write_bytes(content)
    told = resume(toy, run, capsys)
    assert message in told.splitlines()[-1]
    assert "Traceback" not in told


def test_states_of_another_run_are_refused(toy, run, capsys):
    path = run / "checkpoint-1" / "optimizer.pt"
    state = torch.load(path, weights_only=True)
    state["param_groups"] = state["param_groups"][:1]
    torch.save(state, path)
    assert "its optimizer or scheduler does not fit this run: ValueError" in resume(toy, run, capsys)


def test_a_good_checkpoint_passes(run):
    check_checkpoint(run / "checkpoint-1")
    state = run / "checkpoint-1" / STATE
    state.write_text(json.dumps({**json.loads(state.read_text()), "log_history": [{"grad_norm": float("nan")}]}))
    check_checkpoint(run / "checkpoint-1")


def test_a_folder_without_a_state_is_no_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no state of a run: FileNotFoundError"):
        check_checkpoint(tmp_path)


class Attribute:
    """Is unpickled as ``getattr`` of something: a member of an enumeration, in Python before 3.11.4."""

    def __init__(self, owner, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


def test_of_getattr_only_members_of_enumerations_are_let_through(tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"zero_stage": Attribute(ZeroStageEnum, "weights")}, path)
    with only_values(deepspeed=True):
        assert torch.load(path)["zero_stage"] is ZeroStageEnum.weights
    for owner, name in ((ZeroStageEnum, "__subclasses__"), (LossScaler, "backward")):
        torch.save(Attribute(owner, name), path)
        with only_values(deepspeed=True), pytest.raises((UnpicklingError, KeyError)):
            torch.load(path)
