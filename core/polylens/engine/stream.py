"""Streams micro-batches from data-loader workers, for every pass of every step.

A step never holds the pixels of its whole batch: workers prepare micro-batches ahead of the model, the first pass
keeps pixels up to a budget, and what does not fit is prepared again for the second pass.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from polylens.contracts import IGNORE_INDEX, Batch, Collator, Example
from polylens.engine.loaders import served
from polylens.engine.steps import BatchPlan, Cost, Row, RowRecords, StepPlanner
from polylens.errors import InputError


class MicroBatches(Dataset[Any]):
    """Rows into a batch; an empty request gives a batch of one filler row, which stands for nothing."""

    def __init__(self, records: RowRecords, collator: Collator) -> None:
        self.records, self._collator = records, collator

    def __getitem__(self, rows: Sequence[Row]) -> Packed | InputError:
        try:
            examples = [self.records.example(row) for row in rows] or [filler(self.records.filler_rows())]
        except InputError as error:
            return error
        return handed_over(pack(self._collator(examples)))


@dataclass(frozen=True, slots=True)
class CostRequest:
    """Rows of which a worker is to read the costs, so that the next step can be planned at once."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a worker read of a ``CostRequest``."""

    by_key: dict[int | str, Cost]


class WorkerTasks(Dataset[Any]):
    """What the workers of a stream are asked for: micro-batches, and costs."""

    def __init__(self, micro_batches: MicroBatches) -> None:
        self._micro_batches = micro_batches

    def __getitem__(self, request: Sequence[Row] | CostRequest) -> Packed | InputError | Costs:
        if not isinstance(request, CostRequest):
            return self._micro_batches[request]
        found = Costs({})
        for row in request.rows:
            with contextlib.suppress(InputError):  # the planner meets it when the turn of the row comes
                found.by_key[row.key] = self._micro_batches.records.read_cost(row)
        return found


def filler(rows: dict[str, Any]) -> Example:
    """One token that no loss sees."""
    return Example(
        id="",
        input_ids=torch.zeros(1, dtype=torch.long),
        labels=torch.full((1,), IGNORE_INDEX),
        visual_mask=torch.zeros(1, dtype=torch.bool),
        pixels=[],
        crop_tokens=[],
        rows=rows,
    )


class MicroBatchStream:
    """Serves the micro-batches of consecutive steps, prepared ahead of time across steps.

    Args:
        loader: keyword arguments of ``torch.utils.data.DataLoader`` (``num_workers``, ``prefetch_factor``, ...).
        device: where batches go; pixels stay uint8.
    """

    def __init__(self, planner: StepPlanner, collator: Collator, loader: dict[str, Any], device: torch.device) -> None:
        self._planner, self._device = planner, device
        self._dataset = WorkerTasks(MicroBatches(planner.records, collator))
        self._loader = loader
        self._plans = _Plans(planner)
        self._batches: Iterator[Packed | InputError] | None = None
        self._next: tuple[int, int] | None = None

    def step(self, epoch: int, step: int) -> list[tuple[BatchPlan, Passes]]:
        """The global batches of a step, each with its micro-batches, to be used in order."""
        if self._next != (epoch, step):
            self._restart(epoch, step)
        self._next = (epoch, step + 1) if step + 1 < len(self._planner) else (epoch + 1, 0)
        assert self._batches is not None
        return [(part, Passes(part, self._batches, self._device)) for part in self._plans.take(epoch, step)]

    def _restart(self, epoch: int, step: int) -> None:
        self._plans = _Plans(self._planner)
        requests = _Requests(self._plans, epoch, step, read_ahead=bool(self._loader.get("num_workers")))
        self._batches = self._received(served(self._dataset, requests, self._loader))

    def _received(self, made: Iterator[Any]) -> Iterator[Packed | InputError]:
        """Micro-batches out of what workers make; costs go to the planner."""
        for found in made:
            if isinstance(found, Costs):
                self._planner.records.learn(found.by_key)
            else:
                yield found


class _Plans:
    """Plans are needed twice, by the requests ahead of the model and by the step itself: made once, then dropped."""

    def __init__(self, planner: StepPlanner) -> None:
        self.planner = planner
        self._waiting: dict[tuple[int, int], list[BatchPlan]] = {}

    def take(self, epoch: int, step: int) -> list[BatchPlan]:
        plans = self._waiting.pop((epoch, step), None)
        if plans is None:
            plans = self._waiting[epoch, step] = self.planner.step(epoch, step)
        return plans


class _Requests(Sampler[Any]):
    """Endless requests from a given step on: each batch's first pass, then what its second pass needs anew.

    Args:
        read_ahead: have workers read the costs of the next step meanwhile: a thousand rows take a second or more, for
            which the model would wait.
    """

    def __init__(self, plans: _Plans, epoch: int, step: int, *, read_ahead: bool) -> None:
        self._plans, self._epoch, self._step, self._read_ahead = plans, epoch, step, read_ahead

    def __iter__(self) -> Iterator[tuple[Row, ...] | CostRequest]:
        epoch, step = self._epoch, self._step
        while True:
            requests = [rows for part in self._plans.take(epoch, step) for rows in _of_both_passes(part)]
            epoch, step = (epoch, step + 1) if step + 1 < len(self._plans.planner) else (epoch + 1, 0)
            ahead = self._costs(epoch, step, len(requests)) if self._read_ahead else iter(())
            for request in requests:
                yield request
                yield from itertools.islice(ahead, 1)

    def _costs(self, epoch: int, step: int, requests: int) -> Iterator[CostRequest]:
        """Requests for the costs of a step, at most half as many as ``requests``, to be back in time."""
        rows = self._plans.planner.unknown(epoch, step)
        size = max(-(-len(rows) // max(requests // 2, 1)), 1)
        return (CostRequest(rows[start : start + size]) for start in range(0, len(rows), size))


def _of_both_passes(plan: BatchPlan) -> Iterator[tuple[Row, ...]]:
    yield from plan.micro_batches
    if plan.passes > 1:
        yield from plan.micro_batches[plan.keep :]


class Passes:
    """The micro-batches of one global batch; iterate once for each pass."""

    def __init__(self, plan: BatchPlan, batches: Iterator[Packed | InputError], device: torch.device) -> None:
        self._plan, self._batches, self._device = plan, batches, device
        self._kept: list[Packed | InputError] | None = None

    def __iter__(self) -> Iterator[Batch]:
        first = self._kept is None
        kept = self._kept or []
        self._kept = kept
        for i in range(len(self._plan.micro_batches)):
            if first or i >= self._plan.keep:
                packed = next(self._batches)
                if first and self._plan.passes > 1 and i < self._plan.keep:
                    kept.append(packed)
            else:
                packed, kept[i] = kept[i], None  # type: ignore[call-overload]  # freed as the second pass goes on
            yield unpack(packed).to(self._device, non_blocking=True)


@dataclass(slots=True)
class Packed:
    """A batch on its way from a worker, which sends every tensor through a file descriptor of its own.

    Opening one costs more than half a millisecond, so all crops are one tensor, and what is small is no tensor.

    Attributes:
        batch: with NumPy arrays for its tensors, and without crops.
        pixels: all crops one after the other, if there are any.
        shapes: of each crop.
    """

    batch: Batch
    pixels: Tensor | None
    shapes: list[torch.Size]


def pack(batch: Batch) -> Packed:
    """A batch fit to cross a process border."""
    flat = torch.cat([crop.flatten() for crop in batch.pixels]) if batch.pixels else None
    small = _converted(replace(batch, pixels=[]), Tensor, Tensor.numpy)
    return Packed(small, flat, [crop.shape for crop in batch.pixels])


def handed_over(packed: Packed) -> Packed | InputError:
    """What a data worker has made, with its pixels in shared memory; unchanged where there is no worker.

    The loader would move them there in a thread, whose errors are lost with the batch: the model would wait for ever.
    """
    try:
        if packed.pixels is not None and get_worker_info() is not None:
            packed.pixels.share_memory_()
    except RuntimeError as error:
        return InputError(
            f"a data worker finds no room in shared memory ({error}): give it more (docker run --shm-size 8g), or use "
            "fewer workers; with 0 the process itself prepares pictures"
        )
    return packed


def unpack(packed: Packed | InputError) -> Batch:
    """The batch that was packed; its crops are views of one tensor.

    Raises:
        InputError: the one that a worker met. It comes as a value, because a loader that raises it would put the
            worker's traceback into its message.
    """
    if isinstance(packed, InputError):
        raise packed
    batch = _converted(packed.batch, np.ndarray, torch.from_numpy)
    if packed.pixels is None:
        return batch
    parts = packed.pixels.split([shape.numel() for shape in packed.shapes])
    return replace(batch, pixels=[p.view(shape) for p, shape in zip(parts, packed.shapes, strict=True)])


def _converted(batch: Batch, kind: type, convert: Callable[[Any], Any]) -> Batch:
    """The batch with ``convert`` applied to each of its parts that is a ``kind``."""
    parts = {field.name: getattr(batch, field.name) for field in fields(batch)}
    changed = {name: convert(part) for name, part in parts.items() if isinstance(part, kind)}
    regions = None if batch.regions is None else batch.regions.converted(convert)
    return replace(batch, **changed, rows={name: convert(row) for name, row in batch.rows.items()}, regions=regions)
