"""What each optimizer step sees: which records, cut into which micro-batches, with which targets.

A plan is a function of the data, the seed and the step alone. Every rank computes it for all ranks, so ranks agree
without communication, and a resumed run continues where it stopped.
"""

from __future__ import annotations

import copy
import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from polylens.contracts import Example
from polylens.engine.planner import Budget, plan

Cost = tuple[int, int]
"""Tokens, and bytes of pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence of a global batch.

    Attributes:
        role: rows of one role share micro-batches: an index into ``ROLES`` for pairs, 0 for conversations.
        key: number of the pair for a query, id of the document for a document, number of the conversation.
        position: among the rows of its role in the global batch.
    """

    role: int
    key: int | str
    position: int


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """One global batch, as one rank sees it.

    Attributes:
        micro_batches: this rank's rows; an empty micro-batch keeps step with other ranks.
        passes: how often the micro-batches are iterated over.
        keep: how many micro-batches of the first pass keep their pixels for the second one.
        targets: of the whole global batch.
        size: pairs or conversations in the whole global batch.
        tokens: real tokens in the whole global batch, and what it costs with padding on this rank.
        normalisers: of the objective, over the whole global batch, where they are known before the first pass.
    """

    micro_batches: tuple[tuple[Row, ...], ...]
    passes: int
    keep: int
    targets: Any
    size: int
    tokens: int
    padded_tokens: int
    normalisers: dict[str, float] | None = None


class GlobalBatches:
    """The global batches of an epoch: numbers of records.

    Args:
        count: of records.
        size: records of a global batch, over all ranks.
        shuffle: draw records anew each epoch. Otherwise batches are those of ``groups``, or follow the file, and their
            order alone is drawn.
        drop_last: leave out incomplete batches.
        groups: of each record; without ``shuffle`` no batch crosses the border of a group.
    """

    def __init__(
        self,
        count: int,
        size: int,
        *,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        groups: Sequence[int] | None = None,
    ) -> None:
        self.count, self.size, self.seed, self.shuffle, self.drop_last = count, size, seed, shuffle, drop_last
        self._in_file_order = self._cut(np.arange(count), groups)
        self._length = len(self._cut(np.arange(count))) if shuffle else len(self._in_file_order)
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)  # requests run ahead into the next epoch

    def __len__(self) -> int:
        return self._length

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Numbers of every batch of an epoch."""
        generator = np.random.default_rng((self.seed, epoch))
        if self.shuffle:
            return self._cut(generator.permutation(self.count))
        return [self._in_file_order[i] for i in generator.permutation(self._length)]

    def _cut(self, order: np.ndarray, groups: Sequence[int] | None = None) -> list[np.ndarray]:
        """Runs of at most ``size`` numbers, none across the border of a group."""
        borders = np.flatnonzero(np.diff(groups)) + 1 if groups else []
        runs = np.split(order, borders)
        batches = [run[start : start + self.size] for run in runs for start in range(0, len(run), self.size)]
        return [batch for batch in batches if len(batch) == self.size or not self.drop_last]


class ModalityBatches(GlobalBatches):
    """Global batches of records with pictures, and of records of text alone, in an order that is drawn.

    No rank then waits for another one's pictures, as with LLaVA's ``group_by_modality_length``. Lengths are left to
    the planner, which sorts the rows of a batch. What is left of both kinds ends up together.

    Args:
        pictured: of each record, whether it has pictures.
    """

    def __init__(self, pictured: Sequence[bool], size: int, *, seed: int, drop_last: bool) -> None:
        self._kinds = [np.flatnonzero(np.array(pictured, dtype=bool) == kind) for kind in (True, False)]
        super().__init__(len(pictured), size, seed=seed, shuffle=True, drop_last=drop_last)
        self._length = len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, epoch))
        orders = [generator.permutation(kind) for kind in self._kinds]
        whole = [order[: len(order) - len(order) % self.size] for order in orders]
        left = np.concatenate([order[len(part) :] for order, part in zip(orders, whole, strict=True)])
        batches = [*self._cut(whole[0]), *self._cut(whole[1]), *self._cut(generator.permutation(left))]
        return [batches[i] for i in generator.permutation(len(batches))]


class RowRecords(Protocol):
    """The records behind rows, in data-loader workers too, with what they cost."""

    def example(self, row: Row) -> Example:
        """The row, prepared."""
        ...

    def filler_rows(self) -> dict[str, Any]:
        """``Example.rows`` of a row that stands for nothing."""
        ...

    def cost(self, row: Row) -> Cost:
        """What the row costs, read once."""
        ...

    def read_cost(self, row: Row) -> Cost:
        """Tokens of the row, and bytes of its pixels, from the headers of its pictures."""
        ...

    def unknown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows whose cost was not read yet, each record once."""
        ...

    def learn(self, costs: Mapping[int | str, Cost]) -> None:
        """Take over costs by key that another process read."""
        ...


class StepPlanner(ABC):
    """Plans the optimizer steps of one rank.

    Args:
        accumulation: global batches of a step; their losses are averaged.
        pixel_cache_bytes: pixels kept between the passes of a step.
        passes: 1 for an objective that is not coupled.
    """

    def __init__(
        self,
        records: Any,
        batches: GlobalBatches,
        *,
        rank: int,
        ranks: int,
        budget: Budget,
        sort: bool = True,
        accumulation: int = 1,
        pixel_cache_bytes: int = 0,
        passes: int = 2,
    ) -> None:
        self.records, self.batches, self.rank, self.ranks = records, batches, rank, ranks
        self.budget, self.sort, self.accumulation = budget, sort, accumulation
        self.pixel_cache_bytes, self.passes = pixel_cache_bytes, passes

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.batches) // self.accumulation)

    def step(self, epoch: int, step: int) -> list[BatchPlan]:
        """The global batches of one optimizer step."""
        return [self._plan(numbers, epoch) for numbers in self._numbers(epoch, step)]

    def unknown(self, epoch: int, step: int) -> list[Row]:
        """Rows of a step that can be planned faster once their costs are known."""
        rows = [row for numbers in self._numbers(epoch, step) for row in self.rows(numbers, epoch)]
        return self.records.unknown(rows)

    def smaller(self, batches: Any, budget: Budget) -> StepPlanner:
        """A planner of one step that takes all ``batches``, for a trial."""
        small = copy.copy(self)
        small.batches, small.budget, small.accumulation = batches, budget, len(batches)
        return small

    @abstractmethod
    def rows(self, numbers: Sequence[int], epoch: int) -> list[Row]:
        """Rows of a global batch in their canonical order."""

    def targets(self, numbers: Sequence[int], rows: Sequence[Row]) -> Any:
        """What the objective has to know of a global batch."""
        return None

    def normalisers(self, rows: Sequence[Row]) -> dict[str, float] | None:
        """Of the objective over these rows, if they are known ahead."""
        return None

    def _numbers(self, epoch: int, step: int) -> list[list[int]]:
        """Records of each global batch of a step."""
        start = step * self.accumulation
        return [numbers.tolist() for numbers in self.batches.epoch(epoch)[start : start + self.accumulation]]

    def _plan(self, numbers: Sequence[int], epoch: int) -> BatchPlan:
        rows = self.rows(numbers, epoch)
        costs = [self.records.cost(row) for row in rows]
        tokens = [cost for cost, _ in costs]
        own = plan(tokens, [row.role for row in rows], self.ranks, self.budget, sort=self.sort)[self.rank]
        pixels = itertools.accumulate(sum(costs[i][1] for i in part) for part in own)
        return BatchPlan(
            micro_batches=tuple(tuple(rows[i] for i in part) for part in own),
            passes=self.passes,
            keep=sum(total <= self.pixel_cache_bytes for total in pixels),
            targets=self.targets(numbers, rows),
            size=len(numbers),
            tokens=sum(tokens),
            padded_tokens=sum(len(part) * max((tokens[i] for i in part), default=0) for part in own),
            normalisers=self.normalisers(rows),
        )
