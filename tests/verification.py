"""Training with ``--verify-gradient`` and without it, under every way to sum the gradients of two ranks.

Run as a script by every rank: ``verification.py FOLDER CASE ...``, or ``verification.py FOLDER all``. It prints one
line a case and ends with an error if a weight differs by a bit, or if a wrong gradient passes. With three ranks and
more, ``ddp of three`` also sees the order in which DistributedDataParallel adds floats.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from toy import write_toy

from polylens.cli import main
from polylens.engine.accumulation import Accumulation, BoundaryAccumulation, CoalescedAccumulation

LORA = ("--use_lora", "true", "--lora_dropout", "0.1", "--learned-temperature")
PARTS = ("--gradient-accumulation-steps", "2", "--hard-negatives", "1")
LOW_MEMORY = ("--low-memory", "true")


def zero(stage: int, *offload: str) -> tuple[str, ...]:
    config = {
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0,
            **{f"offload_{what}": {"device": "cpu"} for what in offload},
        },
        "zero_force_ds_cpu_optimizer": False,
    }
    return ("--deepspeed", json.dumps(config))


CASES: dict[str, tuple[str, ...]] = {
    "ddp": PARTS,
    "ddp lora": LORA,
    "ddp of three": ("--per-device-train-batch-size", "2", "--grad-cache-micro-batch-size", "1"),
    "zero 0": (*zero(0), *LORA),
    "zero 1": (*zero(1), "--keep-graphs-gb", "1"),
    "zero 2": (*zero(2), *LORA),
    "zero 2 low memory": (*zero(2), *LOW_MEMORY, *LORA, *PARTS),
    "zero 3": (*zero(3), *LORA),
    "zero 3 low memory": (*zero(3), *LOW_MEMORY, *PARTS),
    "zero 1 offload": (*zero(1, "optimizer"), *PARTS),
    "zero 2 offload low memory": (*zero(2, "optimizer"), *LOW_MEMORY, *LORA),
    "zero 3 offload": (*zero(3, "optimizer", "param"), *LORA),
}


def train(folder: Path, output: Path, *more: str) -> tuple[int, str]:
    """Exit code, and what was printed."""
    command = [
        *("train", "--model-plugin", "minicpmv", "--model", "tiny", "--save-strategy", "no", "--temperature", "0.1"),
        *("--train", str(folder / "pairs.jsonl"), "--documents", str(folder / "store"), "--output-dir", str(output)),
        *("--per-device-train-batch-size", "3", "--grad-cache-micro-batch-size", "2", "--max-steps", "1"),
        *("--learning-rate", "1e-3", "--dataloader-num-workers", "0", "--disable-tqdm", "true", *more),
    ]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(command)
    AcceleratorState._reset_state(reset_partial_state=True)  # pyright: ignore[reportPrivateUsage]
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)  # which DeepSpeed's arguments set for the whole process
    gc.collect()
    return code, printed.getvalue()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= {f"{file.stem}/{name}": tensor for name, tensor in load_file(file).items()}
    return found


def same_weights(folder: Path, name: str) -> str:
    """The line that the check printed, if two runs end with the same weights."""
    printed = []
    for verify in ("false", "true"):
        code, text = train(folder, folder / name / verify, *CASES[name], "--verify-gradient", verify)
        assert code == 0, text
        printed.append(text)
    dist.barrier()
    without, checked = (weights(folder / name / verify) for verify in ("false", "true"))
    differ = [key for key in without if not torch.equal(without[key], checked[key])]
    assert without
    assert without.keys() == checked.keys()
    assert not differ, f"{name}: {differ[:5]} differ"
    found = [line for line in printed[1].splitlines() if line.startswith("gradient verified")]
    assert len(found) == (dist.get_rank() == 0), printed
    return "".join(found)


def rank_of_its_own(self: Any, loss: torch.Tensor, last: bool) -> None:
    with self._model.no_sync():
        loss.backward()


def without_boundary(self: Any, loss: torch.Tensor, last: bool) -> None:
    """The call pattern of VisRAG's GradCache: plain backward calls."""
    self._engine.backward(loss * 2, scale_wrt_gas=False)


def without_world_size(self: Any, loss: torch.Tensor, last: bool) -> None:
    self._engine.backward(loss, scale_wrt_gas=False)


FAULTS: dict[str, tuple[type[Accumulation], Callable[..., None], tuple[str, ...]]] = {
    "zero 2, only the last micro-batch counts": (BoundaryAccumulation, without_boundary, (*zero(2), *LOW_MEMORY)),
    "zero 3, averaged instead of summed": (CoalescedAccumulation, without_world_size, zero(3)),
}


def refused(folder: Path, name: str) -> str:
    owner, fault, options = FAULTS[name]
    with mock.patch.object(owner, "backward", fault):
        code, printed = train(folder, folder / name, *options, "--verify-gradient")
    assert code == 2, printed
    assert "the cached gradient is wrong" in printed
    return f"refused: {name}"


def run(folder: Path, chosen: Sequence[str]) -> Iterator[str]:
    for name in [*CASES, *FAULTS] if chosen == ["all"] else chosen:
        yield f"{name}: {same_weights(folder, name) if name in CASES else refused(folder, name)}"


if __name__ == "__main__":
    dist.init_process_group("gloo")
    root = Path(sys.argv[1])
    if dist.get_rank() == 0:
        write_toy(root)
    dist.barrier()
    for line in run(root, sys.argv[2:]):
        print(line, flush=True)
    dist.destroy_process_group()
