"""InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) by row tiles: loss and gradients in one sweep.

Softmax minus target is the derivative of the loss with respect to the logits, so the sweep that computes a tile of
logits gives both gradients with it. No matrix of all rows against all columns is ever kept, and nothing is computed
twice (Cheng et al. 2024, arXiv 2410.17243, tile the loss for the same reason).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True)
class Sums:
    """Sums over the rows of a sweep, scalars.

    Attributes:
        loss: of the cross-entropies.
        scale_gradient: derivative of ``loss`` with respect to the scale of the logits.
        hits: rows whose target has a larger logit than every other column.
    """

    loss: Tensor
    scale_gradient: Tensor
    hits: Tensor


@torch.no_grad()
def sweep(
    rows: Tensor,
    columns: Tensor,
    chosen: Tensor,
    target: Tensor,
    ignore: Tensor,
    scale: Tensor,
    *,
    weight: float,
    row_gradients: Tensor,
    column_gradients: Tensor,
    tile_rows: int,
    importance: Tensor | None = None,
) -> Sums:
    """Cross-entropy of ``scale * rows @ columns.T`` against ``target``, summed over the chosen rows.

    Args:
        rows: [n, D].
        columns: [m, D].
        chosen: int64 [k], the rows that are summed over, all different.
        target: int64 [n], the column of each row; only those of chosen rows count.
        ignore: int64 [i, 2], entries (row, column) left out of the softmax; never a target.
        scale: scalar, the inverse temperature.
        weight: of the loss in the gradients.
        row_gradients: [n, D]; ``weight`` times the derivative of the loss with respect to ``rows`` is added to it.
        column_gradients: [m, D]; the same for ``columns``.
        tile_rows: rows of logits that exist at a time: memory is ``tile_rows * m``.
        importance: [n], a factor of each row's cross-entropy; 1 by default.
    """
    sums = Sums(*(rows.new_zeros(()) for _ in range(3)))
    buffer = rows.new_empty(min(tile_rows, len(chosen)), len(columns))
    ignored = _by_tile(ignore, chosen, len(rows), tile_rows)
    for places, entries in zip(chosen.split(tile_rows), ignored, strict=True):
        tile = rows[places].mul_(scale)
        logits = torch.mm(tile, columns.T, out=buffer[: len(places)])
        logits[entries] = -torch.inf
        softmax = _softmax_minus_target(logits, target[places, None])
        if importance is not None:
            softmax.weigh(importance[places, None])
        sums.loss += softmax.loss.sum()
        sums.hits += softmax.hits.sum()
        mixed = (softmax.difference @ columns).mul_(softmax.factor)
        sums.scale_gradient += (mixed * tile).sum() / scale
        row_gradients.index_add_(0, places, mixed.mul_(scale * weight))
        column_gradients.addmm_(softmax.difference.T, tile.mul_(softmax.factor * weight))
    return sums


@dataclass(slots=True)
class _Softmax:
    """Rows of a softmax, the target's share less one.

    Attributes:
        difference: [t, m], to be multiplied by ``factor``.
        factor: [t, 1].
        loss: [t, 1], cross-entropy.
        hits: bool [t, 1].
    """

    difference: Tensor
    factor: Tensor
    loss: Tensor
    hits: Tensor

    def weigh(self, importance: Tensor) -> None:
        """Multiply each row's loss, and so its derivative, by a factor [t, 1]."""
        self.factor = self.factor * importance
        self.loss = self.loss * importance


def _softmax_minus_target(logits: Tensor, target: Tensor) -> _Softmax:
    """Overwrites the logits [t, m]; ``target`` is int64 [t, 1].

    The target is kept apart from the other columns, so that neither the loss nor the gradient of a row that is nearly
    right is a difference of two numbers that are nearly 1.
    """
    own = logits.gather(1, target)
    logits.scatter_(1, target, -torch.inf)
    nearest = logits.amax(dim=1, keepdim=True)
    top = torch.maximum(own, nearest)
    others = logits.sub_(top).exp_()
    rest = others.sum(dim=1, keepdim=True)
    factor = ((own - top).exp_() + rest).reciprocal_()
    odds = rest.log() + (top - own)
    others.scatter_(1, target, -rest)
    return _Softmax(others, factor, torch.logaddexp(odds, torch.zeros_like(odds)), own > nearest)


def _by_tile(ignore: Tensor, chosen: Tensor, rows: int, tile_rows: int) -> list[tuple[Tensor, Tensor]]:
    """For each tile of the chosen rows, the entries to leave out of it: row within the tile, and column."""
    place = chosen.new_full((rows,), -1)
    place[chosen] = torch.arange(len(chosen), device=chosen.device)
    local = place[ignore[:, 0]]
    order = local.argsort()[int((local < 0).sum()) :]  # what lies in no chosen row comes first
    local, columns = local[order], ignore[order, 1]
    tiles = max(-(-len(chosen) // tile_rows), 1)
    counts = torch.bincount(local // tile_rows, minlength=tiles).tolist()
    return list(zip((local % tile_rows).split(counts), columns.split(counts), strict=True))


def normalise(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors [n, D] at unit length, and the lengths [n, 1] that they had."""
    lengths = vectors.norm(dim=1, keepdim=True).clamp_min(torch.finfo(vectors.dtype).tiny)
    return vectors / lengths, lengths


def normalise_backward(gradient: Tensor, unit: Tensor, lengths: Tensor) -> Tensor:
    """Derivative with respect to vectors, from the one with respect to the unit vectors of ``normalise``; in place."""
    return gradient.sub_((gradient * unit).sum(dim=1, keepdim=True) * unit).div_(lengths)
