"""Representations of all ranks in one order, and gradients back to where they belong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polylens.contracts import Representation
from polylens.engine import distributed


@dataclass(slots=True)
class Gathered:
    """The vectors of the global batch, in the order of their positions.

    Attributes:
        values: name -> [n_global, D].
        own: name -> int64 [n], positions of this rank's vectors in the order in which its micro-batches made them.
        order: name -> int64 [n_global], position of each vector in rank order.
        lengths: name -> number of vectors of each rank.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    order: dict[str, Tensor] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, float]:
        return {name: len(values) for name, values in self.values.items()}


def gather(made: Mapping[str, Sequence[Representation]]) -> Gathered:
    """Collect the vectors of all micro-batches of all ranks; ranks may have different numbers, or none.

    Raises:
        ValueError: positions are not a permutation of ``0 .. n_global - 1``, or only some vectors have one.
    """
    local = {name: _joined(parts) for name, parts in made.items()}
    placed = {name: {part.positions is not None for part in parts} for name, parts in made.items()}
    shapes = distributed.gather_objects({n: (len(v), v.shape[1], v.dtype, placed[n]) for n, (v, _) in local.items()})
    found = Gathered()
    for name in sorted({name for shape in shapes for name in shape}):
        lengths = [shape[name][0] if name in shape else 0 for shape in shapes]
        known = [shape[name] for shape in shapes if name in shape]
        if len(set.union(*(places for *_, places in known))) > 1:  # known to all ranks, which fail together
            raise ValueError(f"some micro-batches give positions for representation {name!r}, and some do not")
        _, size, dtype, _ = known[0]
        values, positions = local[name] if name in local else (distributed.empty(size, dtype), None)
        if positions is None:
            start = sum(lengths[: distributed.rank()])
            positions = torch.arange(start, start + len(values), device=values.device)
        order = distributed.gather_ragged(positions, lengths)
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError(f"positions of representation {name!r} are not a permutation of 0 to {len(order) - 1}")
        in_rank_order = distributed.gather_ragged(values, lengths)
        found.values[name] = torch.empty_like(in_rank_order).index_copy_(0, order, in_rank_order)
        found.own[name], found.order[name], found.lengths[name] = positions, order, lengths
    return found


def return_gradients(gathered: Gathered, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum the gradients [n_global, D] of all ranks and give each rank those of its own vectors, in its own order."""
    return {
        name: distributed.reduce_scatter_ragged(gradient[gathered.order[name]], gathered.lengths[name])
        for name, gradient in gradients.items()
    }


def _joined(parts: Sequence[Representation]) -> tuple[Tensor, Tensor | None]:
    values = torch.cat([part.values.detach() for part in parts])
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    positions = [part.positions for part in parts if part.positions is not None]
    return values, torch.cat(positions) if positions else None
