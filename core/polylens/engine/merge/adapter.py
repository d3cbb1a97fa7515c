"""An adapter over its base as one model, shard by shard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.engine.adapters import Adapter, read_adapter
from polylens.engine.failures import explained
from polylens.engine.loading import plugin_of
from polylens.engine.merge.folder import (
    Merged,
    Shard,
    new_folder,
    shard_names,
    wanted_dtype,
    write_around,
    write_shards,
)
from polylens.engine.merge.low_rank import LowRankLayers
from polylens.engine.merge.names import DiskNames
from polylens.engine.saving import OBJECTIVE_FILE, PARTIAL, copy_small_files
from polylens.engine.sources import ModelSource, find_model
from polylens.engine.tensor_files import Entry, Read, TensorFile, weight_files
from polylens.engine.weights import load_model, outline_of, weight_shapes
from polylens.errors import InputError


def merge_adapter(
    folder: str | Path,
    output: str | Path,
    *,
    plugin: str | None = None,
    base: str | None = None,
    dtype: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Merged:
    """Write the model that an adapter and its base make together, under the names of the base's own files.

    Weights pass through memory one at a time, beside the pages of one file. The result is that of peft's
    ``merge_and_unload`` on a base that was loaded with the same ``dtype``, bit for bit.

    Args:
        plugin: that knows the model; by default the one that ``polylens.json`` names.
        base: instead of the one that the adapter names.
        dtype: of the result; by default every weight keeps the type that it has in the base.
        options: of the model family, some of which say where parts of the base are.

    Raises:
        InputError: the folder is no adapter, was made for another base, or cannot be merged; ``output`` exists.
    """
    source, target = str(folder), Path(output)
    plugin = plugin or plugin_of(source)
    hooks = plugins.load(plugin)
    found = find_model(source, hooks.families(), plugin, base, options=options)
    if found.adapter is None:
        raise InputError(
            f"{source} is no adapter folder: there is nothing to merge; --average and --from-zero do others"
        )
    wanted = wanted_dtype(dtype)
    outline = outline_of(hooks, found)
    adapter = read_adapter(found.adapter, found.family, weight_shapes(outline))
    names = DiskNames(outline, found.family)
    again = explained("then merge again")
    with again, new_folder(target) as partial, _base(hooks, found, partial) as weights:
        plan = Plan(names, adapter, LowRankLayers(outline, adapter))
        shards = plan.shards(weight_files(weights, found.parts), wanted)
        count = write_shards(partial, shards)
        card = found.card or ModelCard(plugin, found.family.name, **found.family.defaults)
        write_around(partial, weights, found.config, card, wanted)
        if (found.adapter / OBJECTIVE_FILE).is_file():
            shutil.copyfile(found.adapter / OBJECTIVE_FILE, partial / OBJECTIVE_FILE)
    said = f"{len(plan.layers.layers)} adapted layers and {len(adapter.whole)} replaced weights over {found.base}"
    return Merged(target, count, said)


@contextmanager
def _base(hooks: Any, found: ModelSource, partial: Path) -> Iterator[Path]:
    """A folder with the weights of the base; one is made for a preset, and for a base that lies in several places."""
    if not found.is_preset and found.weights is None:
        yield found.folder
        return
    folder = partial / f".base{PARTIAL}"
    try:
        folder.mkdir()
        seed = found.card.base_seed if found.card is not None and found.card.base_seed is not None else 0
        model = load_model(hooks, found, "auto", "sdpa", seed)
        for source in found.folders:
            copy_small_files(source, folder)
        model.save_pretrained(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of every weight of the base."""

    names: DiskNames
    adapter: Adapter
    layers: LowRankLayers

    def shards(self, files: Sequence[TensorFile], dtype: torch.dtype | None) -> list[Shard]:
        """The files of the merged model.

        Raises:
            InputError: the adapter changes a weight that the files do not hold as such.
        """
        found = []
        for name, file in zip(shard_names(files), files, strict=True):
            found.append(MergedShard(name, file, self._places(file), self, dtype))
        changed = self.layers.weights.keys() | self.adapter.whole.keys()
        missing = sorted(changed - {place for shard in found for place in shard.places.values()})
        if missing:
            raise self.adapter.mismatch(
                f"{missing[0]} is in none of the files of the base, where it may be tied to another weight"
            )
        return found

    def _places(self, file: TensorFile) -> dict[str, str]:
        """Names on disk -> names in the model, of the weights that the adapter changes."""
        places = {}
        for name in file.entries:
            place, plain = self.names(name)
            if place in self.layers.weights or place in self.adapter.whole:
                if not plain:
                    raise InputError(f"{file.path}: {name} is only a part of {place}, which cannot be merged in parts")
                places[name] = place
        return places

    def weight(self, place: str, read: Read, name: str, dtype: torch.dtype | None) -> Tensor:
        """A changed weight, with the type that it has in the result."""
        base = read(name)
        dtype = dtype or base.dtype
        if place in self.adapter.whole:
            base = self.adapter.whole[place].read().to(dtype)
            if place not in self.layers.weights:
                return base
        layer = self.layers.weights.get(place)
        return base if layer is None else self.layers.merged(layer, base.to(dtype))


@dataclass(frozen=True, slots=True)
class MergedShard:
    """A file of the base on its way into the merged model.

    Attributes:
        places: names on disk -> names in the model, of the weights that change.
    """

    name: str
    file: TensorFile
    places: dict[str, str]
    plan: Plan
    dtype: torch.dtype | None

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: entry.cast(self.dtype) for name, entry in self.file.entries.items()}

    @contextmanager
    def reading(self) -> Iterator[Read]:
        with self.file.reading() as read:
            yield lambda name: self._make(name, read)

    def _make(self, name: str, read: Read) -> Tensor:
        if name in self.places:
            return self.plan.weight(self.places[name], read, name, self.dtype)
        tensor = read(name)
        return tensor.to(self.entries[name].dtype)
