"""Goes on from a checkpoint without running what is in it.

A pickle may name any function of the machine. ``torch.load`` with ``weights_only`` builds tensors and plain values and
nothing else, but DeepSpeed asks for more, although its own checkpoints need three small classes besides.
"""

from __future__ import annotations

import json
import os
from _pickle import UnpicklingError  # what torch.load raises; nothing here unpickles
from collections.abc import Iterator
from contextlib import contextmanager
from enum import EnumType
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals as of_random_states

from polylens.engine.reading import refusing
from polylens.errors import InputError

__all__ = ["check_checkpoint", "only_values"]

_FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PICKLED = (".pt", ".pth", ".bin")


@contextmanager
def only_values(*, deepspeed: bool) -> Iterator[None]:
    """Whatever is loaded inside the block, by whom and how ever, is tensors and plain values.

    Args:
        deepspeed: whether the classes of its checkpoints are let through.
    """
    before = os.environ.get(_FORCED)
    os.environ[_FORCED] = "1"
    try:
        with of_random_states(), torch.serialization.safe_globals(_of_deepspeed() if deepspeed else []):
            yield
    finally:
        if before is None:
            del os.environ[_FORCED]
        else:
            os.environ[_FORCED] = before


def _of_deepspeed() -> list[Any]:
    """Classes in DeepSpeed's checkpoints; none of them does anything when it is made.

    Python before 3.11.4 pickles a member of an enumeration as ``getattr`` of its class.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address, (_member, "builtins.getattr")]


def _member(kind: Any, name: str) -> Any:
    """What stands for ``getattr`` in a checkpoint: a member of an enumeration, and nothing else."""
    if not isinstance(kind, EnumType):
        raise UnpicklingError(f"a checkpoint asks for {name!r} of {kind!r}")
    return kind[name]


def check_checkpoint(folder: Path) -> None:
    """Look at what a run would go on from, before anything is built.

    Raises:
        InputError: a file is damaged, is no state of a run, or holds code.
    """
    path = folder / TRAINER_STATE_NAME
    with refusing(f"{path}: no state of a run"):
        state = TrainerState(**json.loads(path.read_text(encoding="utf-8")))
    if type(state.global_step) is not int or state.global_step < 1:
        raise InputError(f"{path}: /global_step is {state.global_step!r}, not the number of a step")
    deepspeed = any(folder.glob("global_step*"))
    for file in sorted(file for file in folder.rglob("*") if file.suffix in _PICKLED and file.is_file()):
        with only_values(deepspeed=deepspeed), refusing(f"{file}: damaged, or more than numbers: it is not loaded"):
            torch.load(file, map_location="meta", mmap=True, weights_only=True)
