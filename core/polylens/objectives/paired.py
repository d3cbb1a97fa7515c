"""Symmetric InfoNCE of vectors that come in pairs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from polylens.contracts import Coupled
from polylens.objectives.info_nce import sweep

__all__ = ["equal_pairs", "paired_info_nce"]


def paired_info_nce(
    vectors: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    temperature: float,
    ignore: Tensor,
    importance: Tensor | None = None,
    tile_rows: int = 1024,
) -> Coupled:
    """The mean of both directions of ``-log softmax(a_i . b / temperature)[i]``, over all n pairs.

    As CLIP is trained (Radford et al. 2021, arXiv 2103.00020).

    Args:
        vectors: two names, each with unit vectors [n, D]; row i of one belongs to row i of the other.
        own: positions of the rows that this rank answers for.
        ignore: int64 [M, 2], entries (i, j) that are no negatives; left out in both directions.
        importance: [n], a factor of each pair's cross-entropies.
        tile_rows: rows of logits that exist at a time.

    >>> vectors = {"text": torch.eye(2), "image": torch.eye(2)}
    >>> own = {name: torch.arange(2) for name in vectors}
    >>> made = paired_info_nce(vectors, own, temperature=1.0, ignore=torch.empty(0, 2, dtype=torch.long))
    >>> round(float(made.loss), 4)
    0.3133
    """
    (first, a), (second, b) = vectors.items()
    n, identity = len(a), torch.arange(len(a), device=a.device)
    gradients = {name: torch.zeros_like(value) for name, value in vectors.items()}
    made = Coupled(a.new_zeros(()), gradients, metrics={"accuracy": a.new_zeros(())})
    if not n:
        return made
    scale, share = a.new_tensor(1 / temperature), 0.5 / n
    for (row, rows), (column, columns), pairs in (
        ((first, a), (second, b), ignore),
        ((second, b), (first, a), ignore.flip(1)),
    ):
        sums = sweep(
            rows,
            columns,
            own[row],
            identity,
            pairs,
            scale,
            weight=share,
            row_gradients=gradients[row],
            column_gradients=gradients[column],
            tile_rows=tile_rows,
            importance=importance,
        )
        made.loss += sums.loss * share
        made.metrics["accuracy"] += sums.hits * share
    return made


def equal_pairs(*labels: Tensor) -> Tensor:
    """int64 [M, 2], the pairs (i, j) of different places at which any of the labels [n] are equal."""
    found = [_equal(one) for one in labels]
    return torch.cat(found).unique(dim=0) if len(found) > 1 else found[0]


def _equal(labels: Tensor) -> Tensor:
    """Pairs within each group of equal labels, from the sorted labels: memory is that of the pairs."""
    order = labels.argsort(stable=True)
    _, sizes = labels[order].unique_consecutive(return_counts=True)
    per_row = sizes.repeat_interleave(sizes)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    rows = torch.arange(len(labels), device=labels.device).repeat_interleave(per_row)
    within = torch.arange(len(rows), device=labels.device) - (per_row.cumsum(0) - per_row).repeat_interleave(per_row)
    columns = starts[rows] + within
    return torch.stack([order[rows], order[columns]], dim=1)[rows != columns]
