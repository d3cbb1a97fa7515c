"""The few collectives that are needed, and a group of ranks to run them in; on one process they do nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from polylens.errors import InputError

T = TypeVar("T")

TIMEOUT = timedelta(hours=12)
"""How long ranks wait for the slowest one."""


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def empty(size: int, dtype: torch.dtype) -> Tensor:
    """[0, size], where the collectives of this run take it: NCCL moves tensors of an accelerator alone."""
    moved = torch.accelerator.current_accelerator() if dist.get_backend() != "gloo" else None
    return torch.empty(0, size, dtype=dtype, device=moved)


def gather_objects(value: Any) -> list[Any]:
    """A small picklable value of every rank, in rank order."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def agreed(make: Callable[[], T], by: Literal["first", "all"] = "first") -> list[T]:
    """What ``make`` gives on rank 0, or on all ranks, in rank order; an ``InputError`` is raised on every rank."""
    found: T | InputError | None = None
    if by == "all" or rank() == 0:
        try:
            found = make()
        except InputError as error:
            found = error
    parts = gather_objects(found)
    for part in parts:
        if isinstance(part, InputError):
            raise part
    return parts if by == "all" else parts[:1]


def sum_tensor(value: Tensor) -> Tensor:
    """The sum over ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def least(values: list[int]) -> list[int]:
    """The least of each value over ranks."""
    if world_size() == 1:
        return values
    smallest = torch.tensor(values)
    if dist.get_backend() != "gloo":
        smallest = smallest.to(torch.accelerator.current_accelerator())
    dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
    return smallest.tolist()


def sum_counts(counts: Mapping[str, float]) -> dict[str, float]:
    """Counts summed over ranks; a name that some rank lacks counts as 0 there."""
    return add_counts(gather_objects(dict(counts)))


def add_counts(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The sum of counts by name."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def gather_ragged(value: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """A tensor of one dimension of every rank, in rank order.

    Args:
        value: of this rank.
        lengths: of every rank's tensor. Shorter ones are padded on the way, since gloo takes no ragged tensors.
    """
    longest = max(lengths)
    parts = [value.new_empty(longest) for _ in lengths]
    dist.all_gather(parts, _padded(value, longest))
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def reduce_scatter_ragged(parts: Sequence[Tensor]) -> Tensor:
    """The sum over ranks of what each has for this one.

    Args:
        parts: for every rank a tensor of one dimension, of the same length on all ranks.
    """
    longest = max(map(len, parts))
    own = parts[0].new_empty(longest)
    dist.reduce_scatter(own, [_padded(part, longest) for part in parts])
    return own[: len(parts[rank()])]


def _padded(value: Tensor, length: int) -> Tensor:
    return torch.cat([value, value.new_zeros(length - len(value))]) if len(value) < length else value.contiguous()


@contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """This rank and the number of ranks, as torchrun set ``RANK`` and ``WORLD_SIZE``.

    A gloo group is started, and ended with the block, unless one is there already or there is one process.
    """
    if dist.is_available() and dist.is_initialized():
        yield rank(), world_size()
    elif int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0, 1
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
        try:
            yield rank(), world_size()
        finally:
            dist.destroy_process_group()
