"""The model in a checkpoint of DeepSpeed, whose ranks each hold a part of every weight."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.engine.failures import explained
from polylens.engine.loading import plugin_of
from polylens.engine.merge.folder import Merged, new_folder, shard_name, wanted_dtype, write_around, write_shards
from polylens.engine.merge.names import SavedNames
from polylens.engine.reading import refusing
from polylens.engine.resuming import only_values
from polylens.engine.saving import OBJECTIVE_FILE
from polylens.engine.sources import ADAPTER, find_model
from polylens.engine.tensor_files import Entry, Read
from polylens.engine.weights import outline_of, weight_shapes
from polylens.errors import InputError

SHARD_BYTES = 5 * 10**9
_MODEL, _OBJECTIVE = "model.", "objective_parameters."
"""How training names the model and the objective's own parameters."""


def merge_zero(
    checkpoint: str | Path,
    output: str | Path,
    *,
    plugin: str | None = None,
    base: str | None = None,
    dtype: str | None = None,
) -> Merged:
    """Write the model of a DeepSpeed checkpoint, through DeepSpeed's own reader.

    What it gives piece by piece (the trained weights of ZeRO 3) is written piece by piece; the rest is in memory.

    Args:
        plugin: that knows the model; by default the one that ``polylens.json`` names.
        base: model folder with ``config.json`` and tokenizer, if the checkpoint has none.
        dtype: of the result; by default float32, which the checkpoint's weights are.

    Raises:
        InputError: it is no such checkpoint, belongs to another model, or trained an adapter; ``output`` exists.
    """
    folder = _checked(Path(checkpoint).expanduser())
    plugin = plugin or plugin_of(base or str(folder))
    hooks = plugins.load(plugin)
    found = find_model(base or str(folder), hooks.families(), plugin)
    outline, wanted = outline_of(hooks, found), wanted_dtype(dtype) or torch.float32
    weights, own = _sorted(folder, _read(folder), outline)
    saved = SavedNames(outline, found.family)
    shards = _shards({saved(name): weight for name, weight in weights.items()}, wanted)
    with explained("then start it again"), new_folder(Path(output)) as partial:
        count = write_shards(partial, shards)
        card = found.card or ModelCard(plugin, found.family.name, **found.family.defaults)
        write_around(partial, found.folder, found.config, card, wanted)
        if own:
            save_file({name: tensor.contiguous() for name, tensor in own.items()}, partial / OBJECTIVE_FILE)
    return Merged(Path(output), count, f"{len(weights)} weights of {folder}")


def _checked(folder: Path) -> Path:
    if (folder / ADAPTER).is_file():
        raise InputError(f"{folder} is the checkpoint of an adapter, which it holds whole: polylens merge {folder}")
    if not (folder / "latest").is_file():
        hint = f": take {folder.parent}" if (folder.parent / "latest").is_file() else ""
        raise InputError(f"{folder}: no DeepSpeed checkpoint, which has a file named latest{hint}")
    return folder


def _read(folder: Path) -> dict[str, Any]:
    """Weights by name: tensors, or what gives one when its ``contiguous`` is called."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    talk = contextlib.redirect_stdout(io.StringIO())  # it prints what it finds
    with refusing(f"{folder}: no checkpoint of ZeRO 1, 2 or 3"), only_values(deepspeed=True), talk:
        found: Any = get_fp32_state_dict_from_zero_checkpoint(str(folder), lazy_mode=True)
        return dict(found)


def _sorted(
    folder: Path, state: Mapping[str, Any], outline: PreTrainedModel
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The weights of the model, each once, and the objective's own."""
    shapes, tied = weight_shapes(outline), getattr(outline, "all_tied_weights_keys", {})
    weights: dict[str, Any] = {}
    own: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key if key in shapes else key.removeprefix(_MODEL)
        if key.startswith(_OBJECTIVE):
            own[key.removeprefix(_OBJECTIVE)] = value.contiguous()
        elif name not in shapes or tuple(value.shape) != shapes[name]:
            raise InputError(
                f"{folder}: {key} {list(value.shape)} is no weight of this model: name another with --base"
            )
        elif tied.get(name) not in shapes:
            weights[name] = value
    missing = sorted(shapes.keys() - weights.keys() - tied.keys())
    if missing:
        raise InputError(f"{folder}: {len(missing)} weights are not in the checkpoint, such as {missing[0]}")
    return {name: weights[name] for name in shapes if name in weights}, own


@dataclass(slots=True)
class StateShard:
    """Weights that go into one file.

    Attributes:
        weights: tensors, or what becomes one.
    """

    name: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Read]:
        yield lambda name: self.weights[name].contiguous().to(self.entries[name].dtype)


def _shards(weights: Mapping[str, Any], dtype: torch.dtype) -> list[StateShard]:
    """Files of at most ``SHARD_BYTES``, or of one weight."""
    shards, size = [StateShard()], 0
    for name, weight in weights.items():
        entry = Entry(weight.dtype, tuple(weight.shape)).cast(dtype)
        if size and size + entry.size > SHARD_BYTES:
            shards.append(StateShard())
            size = 0
        shards[-1].entries[name], shards[-1].weights[name] = entry, weight
        size += entry.size
    for number, shard in enumerate(shards):
        shard.name = shard_name(number, len(shards))
    return shards
