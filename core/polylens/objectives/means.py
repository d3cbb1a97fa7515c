"""Runs of rows that lie one after the other in a tensor: their means, and numbers that tell equal ones."""

from __future__ import annotations

import torch
from torch import Tensor

_FACTOR = 0x9E3779B97F4A7C15 - (1 << 64)  # odd, as an int64
_MIXER = 0xBF58476D1CE4E5B9 - (1 << 64)


def numbers_of_runs(counts: Tensor) -> Tensor:
    """int64 [M], the number of the run of each row; ``counts`` is int64 [n] and sums to M."""
    return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)


def means_of_runs(values: Tensor, counts: Tensor) -> Tensor:
    """[n, D] in float32 at least, the means of runs of ``values`` [M, D], none of them empty."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    sums = wide.new_zeros(len(counts), values.shape[1]).index_add(0, numbers_of_runs(counts), wide)
    return sums / counts[:, None]


def labels_of_runs(ids: Tensor, counts: Tensor) -> Tensor:
    """int64 [n], equal for runs of equal integers ``ids`` [M]; others differ but for one chance in about 2^60.

    A polynomial of the mixed integers modulo 2^64 (Karp and Rabin 1987).
    """
    run = numbers_of_runs(counts)
    place = torch.arange(len(ids), device=ids.device) - (counts.cumsum(0) - counts)[run]
    longest = int(counts.max()) if len(counts) else 0
    powers = torch.full((longest,), _FACTOR, device=ids.device).cumprod(0)
    return torch.zeros_like(counts).index_add_(0, run, _mixed(ids) * powers[place])


def _mixed(ids: Tensor) -> Tensor:
    """Spreads integers over all 64 bits (Steele et al. 2014, SplitMix)."""
    spread = (ids + 1) * _FACTOR
    spread = (spread ^ (spread >> 30)) * _MIXER
    return spread ^ (spread >> 27)
