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
        labels: name -> int64 [n_global, F], of those that have labels.
        totals: counts given to ``gather``, summed over ranks.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, Tensor] = field(default_factory=dict)
    order: dict[str, Tensor] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    labels: dict[str, Tensor] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, float]:
        return {name: len(values) for name, values in self.values.items()}


def gather(made: Mapping[str, Sequence[Representation]], counts: Mapping[str, float] | None = None) -> Gathered:
    """Collect the vectors of all micro-batches of all ranks; ranks may have different numbers, or none.

    All names travel together: one exchange of shapes, and one of bytes.

    Args:
        counts: summed over ranks on the way; a name that some rank lacks counts as 0 there.

    Raises:
        ValueError: positions are not a permutation of ``0 .. n_global - 1``, or only some vectors have one, or labels.
    """
    local = {name: _Joined.of(parts) for name, parts in made.items()}
    blocks, totals = _describe(made, local, counts or {})
    found = Gathered(totals=totals)
    for block in blocks:
        found.own[block.name], found.lengths[block.name] = _positions(block, local), block.lengths
    mine = [_mine(block, found.own[block.name], local.get(block.name)) for block in blocks]
    for block, parts in zip(blocks, _all_ranks(blocks, mine), strict=True):
        numbers, values = _whole([numbers for numbers, _ in parts]), _whole([vectors for _, vectors in parts])
        order, labels = numbers[:, 0], numbers[:, 1:]
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError(
                f"positions of representation {block.name!r} are not a permutation of 0 to {len(order) - 1}"
            )
        found.order[block.name] = order
        found.values[block.name] = _placed(values, order)
        if block.labels:
            found.labels[block.name] = _placed(labels, order)
    return found


def return_gradients(gathered: Gathered, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum the gradients [n_global, D] of all ranks and give each rank those of its own vectors, in its own order."""
    if distributed.world_size() == 1:
        return {name: _taken(gradient, gathered.order[name]) for name, gradient in gradients.items()}
    found: dict[str, Tensor] = {}
    for dtype in sorted({gradient.dtype for gradient in gradients.values()}, key=str):
        alike = {name: gradients[name] for name in sorted(gradients) if gradients[name].dtype == dtype}
        found |= _return_alike(gathered, alike)
    return found


def _return_alike(gathered: Gathered, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of one dtype, in one exchange."""
    orders = {name: gathered.order[name].split(gathered.lengths[name]) for name in gradients}
    parts = [
        torch.cat([gradient[orders[name][rank]].flatten() for name, gradient in gradients.items()])
        for rank in range(distributed.world_size())
    ]
    own = distributed.reduce_scatter_ragged(parts)
    shapes = {name: (len(gathered.own[name]), gradient.shape[1]) for name, gradient in gradients.items()}
    pieces = own.split([rows * size for rows, size in shapes.values()])
    return {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


@dataclass(frozen=True, slots=True)
class _Block:
    """The vectors of one name over all ranks.

    Attributes:
        lengths: vectors of each rank.
        size: D.
        labels: F, or 0.
    """

    name: str
    lengths: list[int]
    size: int
    dtype: torch.dtype
    labels: int

    def empty(self) -> Tensor:
        return distributed.empty(self.size, self.dtype)

    def bytes(self, rank: int) -> tuple[int, int]:
        """Of the positions with labels and of the vectors of a rank, the latter in whole int64, to which all align."""
        rows = self.lengths[rank]
        return 8 * rows * (1 + self.labels), -(-rows * self.size * self.dtype.itemsize // 8) * 8


def _describe(
    made: Mapping[str, Sequence[Representation]],
    local: Mapping[str, _Joined],
    counts: Mapping[str, float],
) -> tuple[list[_Block], dict[str, float]]:
    """The blocks that all ranks together have, the same on every rank, and the sums of counts."""
    placed = {name: {part.positions is not None for part in parts} for name, parts in made.items()}
    widths = {name: {0 if p.labels is None else p.labels.shape[1] for p in parts} for name, parts in made.items()}
    shapes = {
        name: (len(own.values), own.values.shape[1], own.values.dtype, placed[name], widths[name])
        for name, own in local.items()
    }
    told = distributed.gather_objects((shapes, dict(counts)))
    blocks = []
    for name in sorted({name for shapes, _ in told for name in shapes}):
        known = [shapes[name] for shapes, _ in told if name in shapes]
        if len(set.union(*(places for *_, places, _ in known))) > 1:  # known to all ranks, which fail together
            raise ValueError(f"some micro-batches give positions for representation {name!r}, and some do not")
        labels = set.union(*(width for *_, width in known))
        if len(labels) > 1:
            raise ValueError(f"micro-batches give different numbers of labels for representation {name!r}")
        lengths = [shapes[name][0] if name in shapes else 0 for shapes, _ in told]
        blocks.append(_Block(name, lengths, known[0][1], known[0][2], *labels))
    return blocks, distributed.add_counts([part for _, part in told])


def _positions(block: _Block, local: Mapping[str, _Joined]) -> Tensor:
    """Given ones, or those that follow from the order of ranks."""
    own = local.get(block.name)
    rank, device = distributed.rank(), block.empty().device if own is None else own.values.device
    if own is not None and own.positions is not None:
        return own.positions.to(device)
    start = sum(block.lengths[:rank])
    return torch.arange(start, start + block.lengths[rank], device=device)


def _mine(block: _Block, positions: Tensor, own: _Joined | None) -> tuple[Tensor, Tensor]:
    """Positions and labels [n, 1 + F] of this rank's vectors, and the vectors."""
    if own is None:
        return positions.new_empty(0, 1 + block.labels), block.empty()
    if own.labels is None:
        return positions[:, None], own.values
    return torch.cat([positions[:, None], own.labels.to(positions)], dim=1), own.values


def _all_ranks(blocks: Sequence[_Block], mine: Sequence[tuple[Tensor, Tensor]]) -> list[list[tuple[Tensor, Tensor]]]:
    """Block -> rank -> positions with labels, and values, all of which cross as one run of bytes."""
    if distributed.world_size() == 1 or not blocks:
        return [[pair] for pair in mine]
    lengths = [sum(sum(block.bytes(rank)) for block in blocks) for rank in range(distributed.world_size())]
    sent = mine[0][1].new_zeros(lengths[distributed.rank()], dtype=torch.uint8)
    for target, pair in zip(_views(sent, blocks, distributed.rank()), mine, strict=True):
        for place, value in zip(target, pair, strict=True):
            place.copy_(value)
    received = distributed.gather_ragged(sent, lengths)
    by_rank = [_views(part, blocks, rank) for rank, part in enumerate(received)]
    return [list(parts) for parts in zip(*by_rank, strict=True)]


def _views(run: Tensor, blocks: Sequence[_Block], rank: int) -> list[tuple[Tensor, Tensor]]:
    """Positions with labels, and values, of a rank's blocks within its run of bytes."""
    views, start = [], 0
    for block in blocks:
        rows, (places, values) = block.lengths[rank], block.bytes(rank)
        used = rows * block.size * block.dtype.itemsize
        positions = run[start : start + places].view(torch.int64).view(rows, 1 + block.labels)
        vectors = run[start + places : start + places + used].view(block.dtype).view(rows, block.size)
        views.append((positions, vectors))
        start += places + values
    return views


def _placed(rows: Tensor, order: Tensor) -> Tensor:
    """Each row at its place; without a copy if all are there."""
    return rows if _is_settled(order) else torch.empty_like(rows).index_copy_(0, order, rows)


def _taken(rows: Tensor, order: Tensor) -> Tensor:
    """The reverse of ``_placed``."""
    return rows if _is_settled(order) else rows[order]


def _is_settled(order: Tensor) -> bool:
    return torch.equal(order, torch.arange(len(order), device=order.device))


def _whole(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


@dataclass(frozen=True, slots=True)
class _Joined:
    """This rank's vectors of one name."""

    values: Tensor
    positions: Tensor | None
    labels: Tensor | None

    @classmethod
    def of(cls, parts: Sequence[Representation]) -> _Joined:
        values = _whole([part.values.detach() for part in parts])
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        positions = [part.positions for part in parts if part.positions is not None]
        labels = [part.labels for part in parts if part.labels is not None]
        return cls(values, torch.cat(positions) if positions else None, torch.cat(labels) if labels else None)
