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
class Sweep:
    """Sums over the rows of a sweep.

    Attributes:
        loss: scalar, sum of the cross-entropies.
        row_gradients: [n, D].
        column_gradients: [m, D].
        scale_gradient: scalar, derivative with respect to the scale of the logits.
        hits: scalar, rows whose target has the largest logit.
    """

    loss: Tensor
    row_gradients: Tensor
    column_gradients: Tensor
    scale_gradient: Tensor
    hits: Tensor


def sweep(rows: Tensor, columns: Tensor, target: Tensor, scale: Tensor, ignore: Tensor, tile_rows: int) -> Sweep:
    """Cross-entropy of ``scale * rows @ columns.T`` against ``target``, summed over the rows.

    Args:
        rows: [n, D].
        columns: [m, D].
        target: int64 [n], the column of each row.
        scale: scalar, the inverse temperature.
        ignore: int64 [k, 2], entries (row, column) left out of the softmax; never a target.
        tile_rows: rows of logits computed at once; memory is ``tile_rows * m``.
    """
    ignore = ignore[ignore[:, 0].argsort()]
    row_gradients, column_gradients = torch.empty_like(rows), torch.zeros_like(columns)
    loss, scale_gradient, hits = (rows.new_zeros(()) for _ in range(3))
    for start in range(0, len(rows), tile_rows):
        tile, wanted = rows[start : start + tile_rows], target[start : start + tile_rows, None]
        logits = scale * (tile @ columns.T)
        first, last = torch.searchsorted(
            ignore[:, 0].contiguous(), torch.tensor([start, start + len(tile)], device=ignore.device)
        )
        logits[ignore[first:last, 0] - start, ignore[first:last, 1]] = -torch.inf
        normaliser = logits.logsumexp(dim=1, keepdim=True)
        loss += (normaliser - logits.gather(1, wanted)).sum()
        hits += (logits.argmax(dim=1, keepdim=True) == wanted).sum()
        difference = logits.sub_(normaliser).exp_()
        difference.scatter_add_(1, wanted, difference.new_full(wanted.shape, -1.0))
        mixed = difference @ columns
        scale_gradient += (mixed * tile).sum()
        row_gradients[start : start + tile_rows] = scale * mixed
        column_gradients.addmm_(difference.T, scale * tile)
    return Sweep(loss, row_gradients, column_gradients, scale_gradient, hits)


def truncate(vectors: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """The first ``dimensions`` of each vector at unit length, and the lengths [n, 1] that they had."""
    head = vectors[:, :dimensions]
    lengths = head.norm(dim=1, keepdim=True).clamp_min(torch.finfo(head.dtype).tiny)
    return head / lengths, lengths


def truncate_backward(gradient: Tensor, unit: Tensor, lengths: Tensor) -> Tensor:
    """Derivative with respect to the head of the vectors, from the one with respect to ``truncate``'s unit vectors."""
    return (gradient - (gradient * unit).sum(dim=1, keepdim=True) * unit) / lengths
