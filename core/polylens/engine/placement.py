"""One model spread over several devices, the CPU and the disk, for inference."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model
from accelerate.utils import get_balanced_memory, infer_auto_device_map
from transformers import PreTrainedModel

from polylens.errors import InputError, closest

WAYS = ("auto", "balanced", "balanced_low_0", "sequential")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the parts of a model go.

    Attributes:
        device_map: ``auto`` or ``balanced`` (GPUs equally full, then the CPU, then the disk), ``balanced_low_0`` (room
            left on the first GPU), ``sequential`` (one GPU after the other); or a mapping from modules to devices:
            ``{"vpm": 0, "llm": "cpu"}``, with ``disk`` as a device, too.
        max_memory: of each device, such as ``{0: "10GiB", "cpu": "30GiB"}``; by default what is free.
        offload_folder: holds weights of the device ``disk``.
    """

    device_map: str | Mapping[str, str | int] = "auto"
    max_memory: Mapping[str | int, str | int] | None = None
    offload_folder: Path | None = None


def place(model: PreTrainedModel, placement: Placement) -> torch.device:
    """Spread a loaded model; its modules fetch their weights, and their input, when they are called.

    No weight can be trained afterwards.

    Returns:
        The device that batches go to.

    Raises:
        InputError: a device that is not there, a module without a device, or no folder for what goes to the disk.
    """
    device_map = _device_map(model, placement)
    devices = set(device_map.values())
    if "disk" in devices and placement.offload_folder is None:
        raise InputError("the device map puts weights on the disk: name a folder for them with --offload-folder")
    main = _main_device(devices)
    model.requires_grad_(False)
    try:
        dispatch_model(
            model,
            device_map,
            main_device=main,
            offload_dir=_own_folder(model, placement.offload_folder),
            # such a module may look at the device of a weight that lies in one of its parts
            preload_module_classes=list(model._no_split_modules or []),
        )
    except (ValueError, RuntimeError, AssertionError) as error:
        raise InputError(f"the device map {device_map} cannot be followed: {error}") from error
    return main


def _own_folder(model: PreTrainedModel, folder: Path | None) -> Path | None:
    """A new folder that goes with the model: accelerate would take the weights of an older one for its own."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix="weights-", dir=folder))
    except OSError as error:
        raise InputError(f"--offload-folder {folder}: cannot be written to: {error.strerror or error}") from error
    weakref.finalize(model, shutil.rmtree, made, ignore_errors=True)
    return made


def _device_map(model: PreTrainedModel, placement: Placement) -> dict[str, Any]:
    found = _chosen(model, placement)
    if "" not in found:
        return found
    return {name: found[""] for name, _ in model.named_children()}  # accelerate puts no whole model on the disk


def _chosen(model: Any, placement: Placement) -> dict[str, Any]:
    given = placement.device_map
    if isinstance(given, Mapping):
        return _checked(model, {str(name): _device(device) for name, device in given.items()})
    if given not in WAYS:
        raise InputError(
            f"device_map is {given!r}{closest(given, WAYS)}; it may be {', '.join(WAYS)}, or a mapping from modules "
            "to devices"
        )
    whole = model._no_split_modules or []
    limits: Any = None if placement.max_memory is None else {_device(k): v for k, v in placement.max_memory.items()}
    try:
        if given != "sequential":
            limits = get_balanced_memory(model, limits, whole, low_zero=given == "balanced_low_0")
        return dict(infer_auto_device_map(model, limits, whole))
    except ValueError as error:
        raise InputError(f"the device map {given!r} cannot be made: {error}") from error


def _checked(model: PreTrainedModel, device_map: dict[str, Any]) -> dict[str, Any]:
    modules = dict(model.named_modules())
    for name in device_map:
        if name not in modules:
            raise InputError(f"device_map: the model has no module {name!r}{closest(name, modules)}")
    for device in device_map.values():
        if isinstance(device, int) and device >= torch.cuda.device_count():
            raise InputError(f"device_map: there is no GPU {device}; torch sees {torch.cuda.device_count()}")
    left = [name for name, _ in model.named_parameters() if not any(_within(name, part) for part in device_map)]
    if left:
        raise InputError(f"device_map: {len(left)} weights have no device, such as {left[0]}: name their modules, too")
    return device_map


def _within(name: str, module: str) -> bool:
    return module == "" or name.startswith(f"{module}.")


def _device(name: str | int) -> str | int:
    """A GPU by number, ``cpu`` or ``disk``, as accelerate takes them."""
    text = str(name).removeprefix("cuda:")
    if text.isdigit():
        return int(text)
    if text not in ("cpu", "disk"):
        raise InputError(f"{name!r} is no device of a device map: give the number of a GPU, cpu or disk")
    return text


def _main_device(devices: set[Any]) -> torch.device:
    numbers = sorted(device for device in devices if isinstance(device, int))
    return torch.device("cuda", numbers[0]) if numbers else torch.device("cpu")
