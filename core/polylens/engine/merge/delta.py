"""A model of its difference from a base, as checkpoints over LLaMA had to be published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from polylens import plugins
from polylens.config.card import ModelCard
from polylens.engine.failures import explained
from polylens.engine.loading import plugin_of
from polylens.engine.merge.folder import Merged, new_folder, shard_names, wanted_dtype, write_around, write_shards
from polylens.engine.sources import find_folder, find_model
from polylens.engine.tensor_files import Entry, Read, TensorFile, weight_files
from polylens.errors import InputError


def merge_delta(
    delta: str | Path, base: str, output: str | Path, *, plugin: str | None = None, dtype: str | None = None
) -> Merged:
    """Write the sum of two folders, weight by weight; everything but the weights is that of the difference.

    Weights that the base does not have (a projector) are taken as they are. Where the base has fewer rows (an
    embedding of a smaller vocabulary), it is added to the first ones.

    Args:
        base: folder or hub id of the base.
        plugin: that knows the result; by default the one that ``polylens.json`` names.
        dtype: of the result; by default every weight keeps the type that it has in the difference.

    Raises:
        InputError: the base has weights that the difference has not, or of another shape; ``output`` exists.
    """
    plugin = plugin or plugin_of(str(delta))
    hooks, wanted = plugins.load(plugin), wanted_dtype(dtype)
    found = find_model(str(delta), hooks.families(), plugin)
    if found.adapter is not None or found.is_preset or found.weights is not None:
        raise InputError(f"{delta} is no folder with the weights of a difference")
    files = weight_files(found.folder)
    origin = {key: file for file in weight_files(find_folder(base, [found.family], plugin)[0]) for key in file.entries}
    _check(files, origin, found.folder, base)
    named = zip(shard_names(files), files, strict=True)
    shards = [SumShard(name, file, origin, wanted) for name, file in named]
    with explained("then start it again"), new_folder(Path(output)) as partial:
        count = write_shards(partial, shards)
        card = found.card or ModelCard(plugin, found.family.name, **found.family.defaults)
        write_around(partial, found.folder, found.config, card, wanted)
    return Merged(Path(output), count, f"{delta} over {base}")


def _check(files: Sequence[TensorFile], origin: dict[str, TensorFile], delta: Path, base: str) -> None:
    entries = {key: entry for file in files for key, entry in file.entries.items()}
    alone = sorted(key for key in origin.keys() - entries.keys() if origin[key].entries[key].dtype.is_floating_point)
    alone = [key for key in alone if not key.endswith("inv_freq")]  # a buffer that older transformers stored
    if alone:
        raise InputError(f"{delta} is no difference from {base}, which has {alone[0]} beside its weights")
    for key in origin.keys() & entries.keys():
        here, there = entries[key].shape, origin[key].entries[key].shape
        if here[1:] != there[1:] or here[0] < there[0]:
            raise InputError(f"{delta} is no difference from {base}: {key} is {list(here)} and {list(there)}")


@dataclass(frozen=True, slots=True)
class SumShard:
    """A file of the difference on its way into the model."""

    name: str
    file: TensorFile
    origin: dict[str, TensorFile]
    dtype: torch.dtype | None

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: entry.cast(self.dtype) for name, entry in self.file.entries.items()}

    @contextmanager
    def reading(self) -> Iterator[Read]:
        with self.file.reading() as read:
            yield lambda name: self._sum(name, read(name))

    def _sum(self, name: str, delta: Tensor) -> Tensor:
        """The sum is rounded once, to the type of the result."""
        if name in self.origin and delta.is_floating_point():
            with ExitStack() as stack:
                base = stack.enter_context(self.origin[name].reading())(name).float()
            delta = delta.float()
            delta[: len(base)] += base
        return delta.to(self.entries[name].dtype)
