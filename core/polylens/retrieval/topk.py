"""The k best of a stream of scores, with ties broken by position."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).min
_LAST = 2**32 - 1


class RunningTopK:
    """Keeps the k best (score, position) of each row while tiles of scores come in, in ascending position.

    A candidate is one int64: the score's bits in their numerical order above, the position counted backwards below.
    All candidates differ, so the order is total: greater score first, then smaller position. What a tile cannot
    improve is dropped by one comparison with the k-th best score so far, which leaves little to sort.

    Args:
        rows: of scores.
        k: how many to keep; positions must be below 2**32.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.k = k
        self._best = torch.full((rows, k), EMPTY, dtype=torch.int64, device=device)
        self._threshold = torch.full((rows,), -torch.inf, device=device)

    def update(self, scores: Tensor, first: int) -> None:
        """Take in scores of the positions ``first``, ``first + 1``, ...

        Args:
            scores: float32 [rows, n]; -inf leaves a position out.
        """
        found = _Places(scores > self._threshold[:, None])
        if found.width > 2 * self.k:
            found = _Places(scores > torch.maximum(self._threshold, _just_below_kth(scores, self.k))[:, None])
        if found.width:
            candidates = torch.cat([self._best, found.packed(scores, first)], dim=1)
            self._best = candidates.topk(self.k, dim=1).values
            self._threshold = torch.where(self._best[:, -1] == EMPTY, -torch.inf, _scores(self._best[:, -1]))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scores float32, positions int64 and a mask of what was found, [rows, k] each, the best first."""
        return _scores(self._best), _LAST - (self._best & _LAST), self._best != EMPTY


class _Places:
    """The true places of a mask, row by row; ``width`` is their number in the fullest row."""

    def __init__(self, mask: Tensor) -> None:
        self.rows, self.columns = mask.nonzero(as_tuple=True)
        self.counts = torch.bincount(self.rows, minlength=len(mask))
        self.width = int(self.counts.max())

    def packed(self, scores: Tensor, first: int) -> Tensor:
        """Their candidates, moved to the left of [rows, width]."""
        starts = self.counts.cumsum(0) - self.counts
        places = torch.arange(len(self.rows), device=scores.device) - starts[self.rows]
        packed = torch.full((len(scores), self.width), EMPTY, dtype=torch.int64, device=scores.device)
        packed[self.rows, places] = _candidates(scores[self.rows, self.columns], self.columns + first)
        return packed


def _just_below_kth(scores: Tensor, k: int) -> Tensor:
    """[rows], less than the k-th best score and not less than the next smaller number."""
    kth = scores.topk(k, dim=1, sorted=False).values.amin(dim=1)
    return torch.nextafter(kth, torch.full_like(kth, -torch.inf))


def _candidates(scores: Tensor, positions: Tensor) -> Tensor:
    return (_ordered((scores + 0.0).view(torch.int32)).long() << 32) | (_LAST - positions)  # + 0.0: -0.0 is 0.0


def _scores(candidates: Tensor) -> Tensor:
    return _ordered((candidates >> 32).int()).view(torch.float32)


def _ordered(bits: Tensor) -> Tensor:
    """Maps the bits of floats to integers in the same order, and back (it is its own inverse)."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
