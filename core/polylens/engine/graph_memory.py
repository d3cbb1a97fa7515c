"""Which micro-batches of the first pass keep their graph, so that they need no second forward."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

T = TypeVar("T")


class GraphBudget:
    """Lets the first micro-batches of a step keep their graphs, as long as memory lasts.

    How many they are follows from the micro-batches of the step alone, so a run that is resumed keeps the same ones.

    Args:
        bytes: of device memory. A graph that does not fit is dropped, so the peak lies above by one micro-batch.
    """

    def __init__(self, bytes: int) -> None:
        self._left = bytes
        self._largest = 0

    @property
    def allows_another(self) -> bool:
        """Whether a graph as large as the largest so far fits."""
        return self._left > 0 and self._largest <= self._left

    def spend(self, forward: Callable[[], T]) -> tuple[T, bool]:
        """What ``forward`` returns, and whether its graph may be kept."""
        with GraphMemory() as memory:
            made = forward()
        self._left -= memory.bytes
        self._largest = max(self._largest, memory.bytes)
        return made, self._left >= 0


class GraphMemory:
    """Counts what autograd saves for the backward pass inside the block, weights aside.

    >>> import torch
    >>> x = torch.ones(10, requires_grad=True)
    >>> with GraphMemory() as memory:
    ...     y = x.exp()
    >>> memory.bytes
    40
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._counted: set[int] = set()
        self._hooks = saved_tensors_hooks(self._save, lambda saved: saved)

    def __enter__(self) -> GraphMemory:
        self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.__exit__(kind, error, trace)

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._counted and not isinstance(
            tensor if tensor._base is None else tensor._base, nn.Parameter
        ):
            self._counted.add(storage.data_ptr())  # alive as long as the graph: nobody else gets this address
            self.bytes += storage.nbytes()
        return tensor.detach()  # an output that its own node holds would never be freed
