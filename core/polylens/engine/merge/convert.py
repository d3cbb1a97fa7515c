"""A model in the layout of another family of its plugin, weight by weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import WeightRenaming, apply_renamings

from polylens import plugins
from polylens.composition import Export
from polylens.config.card import ModelCard
from polylens.contracts import ModelFamily
from polylens.engine.borrowing import lent_files
from polylens.engine.failures import explained
from polylens.engine.loading import plugin_of
from polylens.engine.merge.folder import Merged, new_folder, shard_name, wanted_dtype, write_around, write_shards
from polylens.engine.merge.names import DiskNames, SavedNames
from polylens.engine.sources import ModelSource, find_model
from polylens.engine.tensor_files import Entry, Read, TensorFile, weight_files
from polylens.engine.weights import outline_of, weight_shapes
from polylens.errors import InputError, closest


def convert_model(
    source: str | Path,
    family: str,
    output: str | Path,
    *,
    plugin: str | None = None,
    options: Mapping[str, Any] | None = None,
    dtype: str | None = None,
) -> Merged:
    """Write a model as one of another family.

    Of a weight that has more rows there (an embedding), each further row is the mean of the others; of one that has
    fewer, the first ones are kept where the family says so.

    Args:
        family: what the result is to be.
        plugin: that knows both; by default the one that ``polylens.json`` names.
        options: of the model's own family, which may say where parts of it are.
        dtype: of the result; by default every weight keeps its type.

    Raises:
        InputError: the model cannot be one of that family; it is an adapter, or has no weights; ``output`` exists.
    """
    plugin = plugin or plugin_of(str(source))
    hooks, wanted = plugins.load(plugin), wanted_dtype(dtype)
    found = find_model(str(source), hooks.families(), plugin, options=options)
    if found.adapter is not None or found.is_preset or found.weights is not None:
        raise InputError(f"{source} is no folder with the weights of a model: merge an adapter first")
    target, export = _target(found, family, hooks.families())
    tokenizer = hooks.tokenizer(family=found.family, source=found.folder)
    config = export.config(found.config, len(tokenizer))
    made = dataclasses.replace(found, config=config, family=target, card=None)
    plan = Plan(found, export, outline_of(hooks, found), outline_of(hooks, made), target)
    shards = plan.shards(wanted)
    with explained("then start it again"), new_folder(Path(output)) as partial:
        count = write_shards(partial, shards)
        card = found.card or ModelCard(plugin, target.name, **target.defaults)
        write_around(partial, found.folder, config, dataclasses.replace(card, family=target.name), wanted)
        export.finish(partial, tokenizer, config)
    return Merged(Path(output), count, f"{source} as {target.name}")


def _target(found: ModelSource, name: str, families: Any) -> tuple[ModelFamily, Export]:
    exports = found.family.exports
    if name not in exports:
        names = f"it can become {', '.join(exports)}" if exports else "it has no other layout"
        raise InputError(
            f"a model of family {found.family.name!r} cannot become {name!r}{closest(name, exports)}; {names}"
        )
    return next(family for family in families if family.name == name), exports[name]


class Plan:
    """Where every weight of the result comes from.

    Args:
        outline, new: the model and the result, without weights.

    Raises:
        InputError: a weight is in no file, or does not fit.
    """

    def __init__(self, found: ModelSource, export: Export, outline: Any, new: Any, target: ModelFamily) -> None:
        names, self.shapes = DiskNames(outline, found.family), weight_shapes(new)
        self.saved, self.tied = SavedNames(new, target), getattr(new, "all_tied_weights_keys", {})
        self.renames = [WeightRenaming(*pair) for pair in export.renames.items()]
        self.folder, self.cuts = found.folder, export.cuts
        self.files = weight_files(found.folder, found.parts)
        own = {name for file in self.files for name in (names(key)[0] for key in file.entries)}
        lent = lent_files(found, weight_shapes(outline).keys() - own)
        self.places = [{key: names(key)[0] for key in file.entries} for file in self.files]
        self.places += [{key: key for key in file.entries} for file in lent]
        self.files = [*self.files, *lent]

    def shards(self, dtype: torch.dtype | None) -> list[ConvertedShard]:
        found, count = [], len(self.files)
        for number, (file, places) in enumerate(zip(self.files, self.places, strict=True)):
            named = {key: apply_renamings(name, self.renames) for key, name in places.items()}
            own = {self.saved(name): (key, self.shapes[name]) for key, name in named.items() if name in self.shapes}
            found.append(ConvertedShard(shard_name(number, count), file, own, self.cuts, dtype))
        written = {key for shard in found for key in shard.origin}
        missing = sorted({self.saved(name) for name in self.shapes if name not in self.tied} - written)
        if missing:
            raise InputError(f"{self.folder}: {len(missing)} weights are in none of its files, such as {missing[0]}")
        return [shard for shard in found if shard.origin]


@dataclass(frozen=True, slots=True)
class ConvertedShard:
    """A file of the model on its way into the result.

    Attributes:
        origin: name in the result -> name in the file, and shape in the result.
    """

    name: str
    file: TensorFile
    origin: Mapping[str, tuple[str, tuple[int, ...]]]
    cuts: bool
    dtype: torch.dtype | None

    @property
    def entries(self) -> dict[str, Entry]:
        return {
            name: Entry(self.file.entries[key].dtype, shape).cast(self.dtype)
            for name, (key, shape) in self.origin.items()
        }

    @contextmanager
    def reading(self) -> Iterator[Read]:
        with self.file.reading() as read:
            yield lambda name: self._make(name, read)

    def _make(self, name: str, read: Read) -> Tensor:
        key, shape = self.origin[name]
        return fitted(read(key), shape, f"{self.file.path}: {key}", cuts=self.cuts).to(self.entries[name].dtype)


def fitted(weight: Tensor, shape: tuple[int, ...], what: str = "the weight", *, cuts: bool = False) -> Tensor:
    """The weight with the rows that it lacks, each the mean of the others, or without those that are too many.

    Raises:
        InputError: it differs in more than rows, or has too many and may not be cut.

    >>> fitted(torch.tensor([[1.0, 2.0], [3.0, 6.0]]), (3, 2))
    tensor([[1., 2.],
            [3., 6.],
            [2., 4.]])
    """
    if tuple(weight.shape) == shape:
        return weight
    if weight.dim() == 0 or tuple(weight.shape[1:]) != shape[1:] or (len(weight) > shape[0] and not cuts):
        raise InputError(f"{what} is {list(weight.shape)}, and {list(shape)} is wanted")
    mean = weight.float().mean(dim=0, keepdim=True).to(weight.dtype)
    return torch.cat([weight[: shape[0]], mean.expand(max(shape[0] - len(weight), 0), *shape[1:])])
