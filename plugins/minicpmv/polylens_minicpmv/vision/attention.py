"""Scaled dot-product attention in the two forms that ``attn_implementation`` names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, implementation: str | None) -> Tensor:
    """Attention without causal mask.

    Args:
        query: [N, heads, Q, d].
        key, value: [N, heads, L, d].
        mask: bool [N, 1, 1, L], true where there is something to attend to.
        implementation: ``eager`` is written out (softmax in float32 at least); anything else is torch's own.

    Returns:
        [N, Q, heads * d].
    """
    if implementation == "eager":
        context = _eager(query, key, value, mask)
    else:
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return context.transpose(1, 2).flatten(2)


def _eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    wide = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=wide).to(value.dtype) @ value


def split_heads(states: Tensor, heads: int) -> Tensor:
    """[N, L, heads * d] to [N, heads, L, d]."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)
