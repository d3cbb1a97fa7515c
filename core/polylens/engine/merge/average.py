"""The mean of several models (a model soup, Wortsman et al. 2022, arXiv 2203.05482), weight by weight."""

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
from polylens.engine.merge.names import DiskNames
from polylens.engine.sources import ModelSource, find_model
from polylens.engine.tensor_files import Entry, Read, TensorFile, weight_files
from polylens.engine.weights import outline_of
from polylens.errors import InputError


def average_models(
    folders: Sequence[str | Path], output: str | Path, *, plugin: str | None = None, dtype: str | None = None
) -> Merged:
    """Write the mean of models of one shape; everything but the weights is that of the first.

    Sums are float64, so that the order of the models does not show. One weight of each is in memory at a time, beside
    pages of their files.

    Args:
        plugin: that knows the models; by default the one that the first one's ``polylens.json`` names.
        dtype: of the result; by default that of the first model.

    Raises:
        InputError: fewer than two models, models of another shape or family, adapters; ``output`` exists.
    """
    if len(folders) < 2:
        raise InputError("--average needs two models or more")
    plugin = plugin or plugin_of(str(folders[0]))
    hooks, wanted = plugins.load(plugin), wanted_dtype(dtype)
    sources = [_model(str(folder), hooks, plugin) for folder in folders]
    if len({source.family.name for source in sources}) > 1:
        families = ", ".join(f"{source.folder} is {source.family.name}" for source in sources)
        raise InputError(f"models of several families have no mean: {families}")
    names = [DiskNames(outline_of(hooks, source), source.family) for source in sources]
    models = [Weights(source, of) for source, of in zip(sources, names, strict=True)]
    for other in models[1:]:
        _check_same(models[0], other)
    files = models[0].files
    named = zip(shard_names(files), files, strict=True)
    shards = [MeanShard(name, file, models, wanted) for name, file in named]
    with explained("then start it again"), new_folder(Path(output)) as partial:
        count = write_shards(partial, shards)
        first = sources[0]
        card = first.card or ModelCard(plugin, first.family.name, **first.family.defaults)
        write_around(partial, first.folder, first.config, card, wanted)
    return Merged(Path(output), count, f"the mean of {len(models)} models")


def _model(folder: str, hooks: object, plugin: str) -> ModelSource:
    found = find_model(folder, hooks.families(), plugin)  # type: ignore[attr-defined]
    if found.adapter is not None:
        raise InputError(f"{folder} is an adapter: merge it first, then average the models")
    if found.is_preset:
        raise InputError(f"{folder} is a preset: its weights are random")
    return found


class Weights:
    """The weights of a model folder by their names in the model, wherever they lie."""

    def __init__(self, source: ModelSource, names: DiskNames) -> None:
        self.folder, self.files, self.names = source.folder, weight_files(source.folder, source.parts), names
        self.places = {names(key)[0]: (file, key) for file in self.files for key in file.entries}

    def entry(self, name: str) -> Entry:
        file, key = self.places[name]
        return file.entries[key]


def _check_same(one: Weights, other: Weights) -> None:
    apart = sorted(one.places.keys() ^ other.places.keys())
    if apart:
        raise InputError(f"{one.folder} and {other.folder} have no mean: only one of them has {apart[0]}")
    for name in one.places:
        shapes = [list(model.entry(name).shape) for model in (one, other)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{one.folder} and {other.folder} have no mean: {name} is {shapes[0]} and {shapes[1]}")


@dataclass(frozen=True, slots=True)
class MeanShard:
    """A file of the first model on its way into the mean."""

    name: str
    file: TensorFile
    models: Sequence[Weights]
    dtype: torch.dtype | None

    @property
    def entries(self) -> dict[str, Entry]:
        return {name: entry.cast(self.dtype) for name, entry in self.file.entries.items()}

    @contextmanager
    def reading(self) -> Iterator[Read]:
        """Files are open as long as one tensor is read: what they have in memory does not add up."""
        yield self._mean

    def _mean(self, key: str) -> Tensor:
        name = self.models[0].names(key)[0]
        kind = self.entries[key].dtype
        with ExitStack() as stack:
            tensors = (stack.enter_context(file.reading())(at) for file, at in (m.places[name] for m in self.models))
            if kind.is_floating_point:
                return _mean(tensors, len(self.models)).to(kind)
            return self._equal(name, list(tensors))

    def _equal(self, name: str, tensors: list[Tensor]) -> Tensor:
        if not all(torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
            raise InputError(f"{name} holds whole numbers that differ between the models: they have no mean")
        return tensors[0]


def _mean(tensors: Iterator[Tensor], count: int) -> Tensor:
    total = next(tensors).to(torch.float64)
    for tensor in tensors:
        total += tensor
    return total.div_(count)
