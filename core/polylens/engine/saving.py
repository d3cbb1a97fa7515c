"""Writes model folders: weights under the names of the original layout, tokenizer, ``polylens.json``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR as CHECKPOINT

from polylens.config.card import NAME as CARD
from polylens.config.card import ModelCard
from polylens.engine.adapters import ADAPTER_FILE, BESIDE_ADAPTER_FILE, PREFIX, names_under, saved_modules
from polylens.engine.loading import Checkpoint
from polylens.engine.reading import refusing
from polylens.engine.weights import has_adapter
from polylens.files import replacing, sync

OBJECTIVE_FILE = "objective.safetensors"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf")
_WRITTEN = ("config.json", "adapter_config.json", CARD)
_TRAINING_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "latest", "zero_to_")
_OF_A_RUN = ("run.yaml", "metrics.jsonl", "quarantine.", *_TRAINING_STATE)
"""Begin the names of files that tell of a run, and are no part of the model that came out of it."""

_LARGEST_COPY = 64 * 2**20

PARTIAL = ".tmp"
"""Ends the names, which begin with a dot, of folders on their way in or out."""

LAST_MODEL = f".model{PARTIAL}"
"""Where the last weights are collected, before they are copied into the folder of the run."""


def save_model_folder(
    checkpoint: Checkpoint,
    folder: Path,
    card: ModelCard,
    *,
    state_dict: dict[str, Tensor] | None = None,
    parameters: dict[str, Tensor] | None = None,
) -> None:
    """Write the model, or its adapter if it has one, into ``folder``.

    The small files of the folder that it came from (tokenizer, preprocessor, remote code of a hub repository) are
    copied as they are, never executed, so that whatever read that folder can read this one.

    Args:
        state_dict: weights of the model, if they were collected from partitions.
        parameters: the objective's own, written beside the model.
    """
    model = checkpoint.model
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict() if state_dict is None else state_dict
    if has_adapter(model):
        _save_adapter(checkpoint, weights, folder)
    else:
        for source in checkpoint.source.folders:
            copy_small_files(source, folder)
        model.save_pretrained(folder, state_dict=weights)
    card.save(folder)
    _save(parameters or {}, folder / OBJECTIVE_FILE)


def _save_adapter(checkpoint: Checkpoint, weights: dict[str, Tensor], folder: Path) -> None:
    """Peft's files, and beside them the weights that were trained as they are."""
    model = checkpoint.model
    model.save_pretrained(folder, state_dict=weights)
    inside = names_under(saved_modules(model), weights)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {name for name in weights if name.replace(".base_layer.", ".") in checkpoint.beside} | trained
    _save({n: weights[n] for n in weights if n in beside - inside and ".lora_" not in n}, folder / BESIDE_ADAPTER_FILE)
    if inside:
        path = folder / ADAPTER_FILE
        whole = {PREFIX + name.replace(".base_layer.", "."): weights[name] for name in weights if name in inside}
        _save({**load_file(path), **whole}, path)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    if tensors:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)


def read_objective_parameters(folder: Path) -> dict[str, Tensor]:
    """The objective's own parameters of a checkpoint; empty if it has none.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / OBJECTIVE_FILE
    with refusing(f"{path}: cannot be read"):
        return load_file(path) if path.is_file() else {}


def copy_small_files(source: Path, target: Path) -> None:
    """Copy what is neither weights, nor written anew, nor of the run that made the source; nothing onto itself."""
    if source.resolve() == target.resolve():
        return
    for path in sorted(source.iterdir()):
        skipped = path.name.startswith((".", *_OF_A_RUN)) or path.name in _WRITTEN or path.name.endswith(".index.json")
        if path.is_file() and not skipped and path.suffix not in _WEIGHTS and path.stat().st_size <= _LARGEST_COPY:
            shutil.copyfile(path, target / path.name)


def copy_model_folder(checkpoint: Path, target: Path) -> list[str]:
    """Copy the model out of a checkpoint, without optimizer and training state; each file appears whole.

    The files without which a folder is no model go first and come last: whoever is killed in between leaves no mixture
    of two models that would load.

    Returns:
        The names of the files.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in _WRITTEN:
        remove(target / name)
    files = [path for path in checkpoint.iterdir() if path.is_file() and not path.name.startswith(_TRAINING_STATE)]
    for path in sorted(files, key=lambda path: (path.name in _WRITTEN, path.name)):
        with replacing(target / path.name) as partial:
            shutil.copyfile(path, partial)
    return sorted(path.name for path in files)


def publish(partial: Path, final: Path) -> None:
    """Make a complete folder appear under its name; everything in it reaches the disk first."""
    for path in [*partial.rglob("*"), partial]:
        sync(path)
    replaced = hide(final) if final.exists() else None
    os.replace(partial, final)
    sync(final.parent)
    if replaced:
        shutil.rmtree(replaced)


def hide(folder: Path) -> Path:
    """Take a folder out of sight before it is deleted: half of a checkpoint must not look like one."""
    hidden = folder.with_name(f".{folder.name}.old{PARTIAL}")
    remove(hidden)
    os.replace(folder, hidden)
    return hidden


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed run had not finished in its folder, and bring back what it was about to replace."""
    for hidden in folder.glob(f".{CHECKPOINT}-*.old{PARTIAL}"):
        name = hidden.name.removeprefix(".").removesuffix(f".old{PARTIAL}")
        replacement = folder / f".{name}{PARTIAL}"
        if replacement.exists() and not (folder / name).exists():
            os.replace(hidden, folder / name)
    for path in [*folder.glob(f".{CHECKPOINT}-*{PARTIAL}"), folder / LAST_MODEL]:
        remove(path)


def remove(path: Any) -> None:
    """Delete a folder or a file if it is there."""
    path = Path(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
