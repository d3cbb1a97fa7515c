"""The few collectives that the gradient cache needs; on one process they do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
    total: dict[str, float] = {}
    for part in gather_objects(dict(counts)):
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def gather_ragged(value: Tensor, lengths: list[int]) -> Tensor:
    """Rows of every rank, in rank order.

    Args:
        value: [n, ...] on this rank.
        lengths: n of every rank. Shorter ranks are padded on the way, since gloo takes no ragged tensors.

    Returns:
        [sum(lengths), ...].
    """
    if world_size() == 1:
        return value
    longest = max(lengths)
    padded = value.new_zeros((longest, *value.shape[1:]))
    padded[: len(value)] = value
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def reduce_scatter_ragged(value: Tensor, lengths: list[int]) -> Tensor:
    """The sum over ranks of [sum(lengths), ...], of which each rank gets its own rows."""
    if world_size() == 1:
        return value
    longest = max(lengths)
    parts = [part.new_zeros((longest, *value.shape[1:])) for part in value.split(lengths)]
    for padded, part in zip(parts, value.split(lengths), strict=True):
        padded[: len(part)] = part
    own = torch.empty_like(parts[0])
    dist.reduce_scatter(own, parts)
    return own[: lengths[rank()]]
