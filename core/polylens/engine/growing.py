"""A tensor to which rows are added."""

from __future__ import annotations

from torch import Tensor


class GrowingTensor:
    """Collects rows in one piece of memory, which doubles when it is full.

    A list of small tensors would lie scattered between the large ones that come and go in a forward pass, and the
    C library's heap would grow with every one that is kept: by 0.4 MB for a micro-batch of pages on a CPU.

    Args:
        rows: [n, ...], the first ones.

    >>> import torch
    >>> grown = GrowingTensor(torch.zeros(2, 3))
    >>> grown.add(torch.ones(1, 3))
    >>> grown.rows.shape
    torch.Size([3, 3])
    """

    def __init__(self, rows: Tensor) -> None:
        self._memory, self._length = rows.clone(), len(rows)

    @property
    def rows(self) -> Tensor:
        """[n, ...], all rows so far."""
        return self._memory[: self._length]

    def add(self, rows: Tensor) -> None:
        """Append ``rows`` [m, ...] of the same type and device."""
        end = self._length + len(rows)
        if end > len(self._memory):
            larger = self._memory.new_empty(max(end, 2 * len(self._memory)), *self._memory.shape[1:])
            larger[: self._length] = self.rows
            self._memory = larger
        self._memory[self._length : end] = rows
        self._length = end
