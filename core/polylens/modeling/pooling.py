"""One vector out of the hidden states of a sequence."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Pooling = Literal["wmean", "mean", "last", "cls"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def pool(hidden: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    """Pool the positions where ``mask`` is true; on either padding side.

    Args:
        hidden: [B, T, D].
        mask: bool [B, T], at least one true position a row.
        how: ``mean``; ``wmean``, the mean weighted by the 1-based place among the true positions (SGPT,
            Muennighoff 2022, arXiv 2202.08904); ``last`` or ``cls``, the last or the first true position.

    Returns:
        [B, D], float32 (float64 if the hidden states are).

    >>> states = torch.tensor([[[1.0], [4.0], [9.0]]])
    >>> pool(states, torch.tensor([[True, True, False]]), "wmean")
    tensor([[3.]])
    >>> pool(states, torch.tensor([[True, True, False]]), "last")
    tensor([[4.]])
    """
    with torch.autocast(hidden.device.type, enabled=False):  # which would compute the weighted means in 16 bits
        return _pool(hidden.to(torch.promote_types(hidden.dtype, torch.float32)), mask, how)


def _pool(wide: Tensor, mask: Tensor, how: Pooling) -> Tensor:
    if how in ("last", "cls"):
        order = mask.long().cumsum(dim=1)
        wanted = order[:, -1:] if how == "last" else torch.ones_like(order[:, -1:])
        column = ((order == wanted) & mask).long().argmax(dim=1)
        return wide[torch.arange(len(wide), device=wide.device), column]
    if how not in ("wmean", "mean"):
        raise ValueError(f"pooling is {how!r}, not one of {', '.join(POOLINGS)}")
    weights = mask.to(wide.dtype)
    if how == "wmean":
        weights = weights * weights.cumsum(dim=1)
    return torch.einsum("btd,bt->bd", wide, weights) / weights.sum(dim=1, keepdim=True)
