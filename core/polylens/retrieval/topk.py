"""The k best of a stream of scores, with ties broken by position."""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).min
_LAST = 2**32 - 1
_GROUP = 8
_PENDING = 64


class RunningTopK:
    """Keeps the k best (score, position) of each row while tiles of scores come in, in ascending position.

    A candidate is one int64: the score's bits in their numerical order above, the position counted backwards below.
    All candidates differ, so the order is total: greater score first, then smaller position.

    What cannot be among the k best is dropped early: first by the maximum of 8 scores at a time, then one by one, by
    comparison with a k-th best score seen before. What remains waits until a row has about k of it; only then is it
    merged with the best so far, which raises the threshold. So a merge is due each time the stream has doubled.

    Args:
        rows: of scores.
        k: how many to keep; positions must be below 2**32.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self.k = k
        self._best = torch.full((rows, k), EMPTY, dtype=torch.int64, device=device)
        self._threshold = torch.full((rows,), -torch.inf, device=device)
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []  # row, place in the row, candidate
        self._counts = torch.zeros(rows, dtype=torch.int64, device=device)

    def update(self, scores: Tensor, first: int) -> None:
        """Take in scores of the positions ``first``, ``first + 1``, ...

        Args:
            scores: float32 [n, rows], a column for each row; -inf leaves a position out.
        """
        rows, places = self._above_threshold(scores)
        if not len(rows):
            return
        counts = torch.bincount(rows, minlength=len(self._counts))
        offsets = self._counts - counts.cumsum(0) + counts
        order = torch.arange(len(rows), device=rows.device) + offsets[rows]
        self._pending.append((rows, order, _candidates(scores[places, rows], places + first)))
        self._counts += counts
        if int(self._counts.max()) >= max(self.k, _PENDING):
            self._merge()

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scores float32, positions int64 and a mask of what was found, [rows, k] each, the best first."""
        if self._pending:
            self._merge()
        best = self._best.sort(dim=1, descending=True).values
        return _scores(best), _LAST - (best & _LAST), best != EMPTY

    def _above_threshold(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Row and place of the scores that may be among the k best, row by row."""
        size = 1 if len(scores) % _GROUP else _GROUP
        groups = scores.unflatten(0, (len(scores) // size, size))
        maxima, threshold = groups.amax(dim=1), self._threshold
        found = maxima > threshold
        if int(found.count_nonzero()) > min(self.k * len(threshold), found.numel() - 1):
            threshold = torch.maximum(threshold, self._threshold_of(scores, maxima))
            found = maxima > threshold
        row, group = found.T.nonzero(as_tuple=True)
        kept, place = (groups[group, :, row] > threshold[row, None]).nonzero(as_tuple=True)
        return row[kept], group[kept] * size + place

    def _threshold_of(self, scores: Tensor, maxima: Tensor) -> Tensor:
        """[rows], just below a score that k scores of the tile reach: nearly everything was above the old one."""
        scores = maxima if len(maxima) >= self.k else scores
        if len(scores) < self.k:
            return torch.full_like(self._threshold, -torch.inf)
        kth = scores.topk(self.k, dim=0, sorted=False).values.amin(dim=0)
        return torch.nextafter(kth, torch.full_like(kth, -torch.inf))

    def _merge(self) -> None:
        both = self._best.new_full((len(self._best), self.k + int(self._counts.max())), EMPTY)
        both[:, : self.k] = self._best
        for rows, order, candidates in self._pending:
            both[rows, self.k + order] = candidates
        self._best = both.topk(self.k, dim=1, sorted=False).values
        worst = self._best.amin(dim=1)
        self._threshold = torch.where(worst == EMPTY, -torch.inf, _scores(worst))
        self._pending.clear()
        self._counts.zero_()


def _candidates(scores: Tensor, positions: Tensor) -> Tensor:
    return (_ordered((scores + 0.0).view(torch.int32)).long() << 32) | (_LAST - positions)  # + 0.0: -0.0 is 0.0


def _scores(candidates: Tensor) -> Tensor:
    return _ordered((candidates >> 32).int()).view(torch.float32)


def _ordered(bits: Tensor) -> Tensor:
    """Maps the bits of floats to integers in the same order, and back (it is its own inverse)."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
