"""Where a model runs, by name."""

from __future__ import annotations

import os

import torch

from polylens.errors import InputError


def resolve_device(name: str) -> torch.device:
    """The device of a name; under torchrun ``cuda`` is the GPU of the local rank.

    Args:
        name: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` for a GPU if there is one.

    Raises:
        InputError: another name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"unknown device {name!r}: use cpu, cuda, cuda:1 or auto") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"give cpu or cuda as the device, not {device.type!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: this machine has no GPU that torch can use")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def own_device(name: str | None) -> torch.device:
    """The device of this rank: the named one, by default the accelerator if there is one."""
    if name is not None:
        return resolve_device(name)
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))
