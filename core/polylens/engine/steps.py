"""What each optimizer step sees: which pairs, cut into which micro-batches, with which targets.

A plan is a function of the data, the seed and the step alone. Every rank computes it for all ranks, so ranks agree
without communication, and a resumed run continues where it stopped.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from polylens.contracts import ROLES, PairTargets, Record
from polylens.data.documents import DocumentSource
from polylens.data.pairs import Pair, document_record
from polylens.data.prepare import Preparer
from polylens.engine.planner import Budget, plan
from polylens.errors import InputError

QUERY, DOCUMENT = range(len(ROLES))


Cost = tuple[int, int]
"""Tokens, and bytes of pixels."""


@dataclass(frozen=True, slots=True)
class Row:
    """A sequence of a global batch.

    Attributes:
        role: index into ``ROLES``.
        key: number of the pair for a query, id of the document for a document.
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
        keep: how many micro-batches of the first pass keep their pixels for the second one.
        targets: of the whole global batch.
        queries: in the whole global batch.
        tokens: real tokens in the whole global batch, and what it costs with padding on this rank.
    """

    micro_batches: tuple[tuple[Row, ...], ...]
    keep: int
    targets: PairTargets
    queries: int
    tokens: int
    padded_tokens: int


class PairBatches:
    """The global batches of an epoch: numbers of pairs.

    Args:
        pairs: the data set.
        size: queries of a global batch, over all ranks.
        shuffle: draw pairs anew each epoch. Otherwise batches are those that ``polylens data pairs`` put together, or
            follow the file, and their order alone is drawn.
        drop_last: leave out incomplete batches.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        self.count, self.size, self.seed, self.shuffle, self.drop_last = len(pairs), size, seed, shuffle, drop_last
        self._in_file_order = self._cut(np.arange(len(pairs)), [pair.batch for pair in pairs])
        self._length = len(self._cut(np.arange(len(pairs)))) if shuffle else len(self._in_file_order)
        self.epoch = functools.lru_cache(maxsize=2)(self._epoch)  # requests run ahead into the next epoch

    def __len__(self) -> int:
        return self._length

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        """Pair numbers of every batch of an epoch."""
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


class PairRecords:
    """The records behind rows: queries of pairs and documents of a store, with what they cost.

    Args:
        max_lengths: tokens of a query and of a document.
    """

    def __init__(
        self, pairs: Sequence[Pair], documents: DocumentSource, preparer: Preparer, max_lengths: tuple[int, int]
    ) -> None:
        self.pairs, self.documents, self.preparer, self.max_lengths = pairs, documents, preparer, max_lengths
        self._costs: dict[int | str, Cost] = {}

    def record(self, row: Row) -> Record:
        return self.pairs[row.key].query if isinstance(row.key, int) else document_record(self.documents.read(row.key))

    def cost(self, row: Row) -> Cost:
        """What the row costs, read once."""
        if row.key not in self._costs:
            self._costs[row.key] = self.read_cost(row)
        return self._costs[row.key]

    def read_cost(self, row: Row) -> Cost:
        """Tokens of the row, and bytes of its pixels, from the headers of its pictures."""
        encoding, sliced = self.preparer.outline(self.record(row), self.max_lengths[row.role])
        pixels = sum(3 * crop.size[0] * crop.size[1] for cut in sliced for crop in cut.crops)
        return len(encoding.input_ids), pixels

    def unknown(self, rows: Sequence[Row]) -> list[Row]:
        """The rows whose cost was not read yet, each document once."""
        return list({row.key: row for row in rows if row.key not in self._costs}.values())

    def learn(self, costs: Mapping[int | str, Cost]) -> None:
        """Take over costs by key that another process read."""
        self._costs.update(costs)


class StepPlanner:
    """Plans the optimizer steps of one rank.

    Args:
        accumulation: global batches of a step; each is contrasted within itself, and their losses are averaged.
        hard_negatives: documents of a query besides its positive.
        pixel_cache_bytes: pixels kept between the passes of a step.
    """

    def __init__(
        self,
        records: PairRecords,
        batches: PairBatches,
        *,
        rank: int,
        ranks: int,
        budget: Budget,
        sort: bool = True,
        accumulation: int = 1,
        hard_negatives: int = 0,
        pixel_cache_bytes: int = 0,
    ) -> None:
        self.records, self.batches, self.rank, self.ranks = records, batches, rank, ranks
        self.budget, self.sort, self.accumulation = budget, sort, accumulation
        self.hard_negatives, self.pixel_cache_bytes = hard_negatives, pixel_cache_bytes
        self._relevant = _relevant_documents(records.pairs)

    def __len__(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.batches) // self.accumulation)

    def step(self, epoch: int, step: int) -> list[BatchPlan]:
        """The global batches of one optimizer step."""
        return [self._plan(numbers, epoch) for numbers in self._numbers(epoch, step)]

    def unknown(self, epoch: int, step: int) -> list[Row]:
        """Rows of a step that can be planned faster once their costs are known."""
        rows = [row for numbers in self._numbers(epoch, step) for row in self._rows(numbers, epoch)]
        return self.records.unknown(rows)

    def _numbers(self, epoch: int, step: int) -> list[list[int]]:
        """Pairs of each global batch of a step."""
        start = step * self.accumulation
        return [numbers.tolist() for numbers in self.batches.epoch(epoch)[start : start + self.accumulation]]

    def _plan(self, numbers: Sequence[int], epoch: int) -> BatchPlan:
        rows = self._rows(numbers, epoch)
        costs = [self.records.cost(row) for row in rows]
        tokens = [cost for cost, _ in costs]
        own = plan(tokens, [row.role for row in rows], self.ranks, self.budget, sort=self.sort)[self.rank]
        pixels = itertools.accumulate(sum(costs[i][1] for i in part) for part in own)
        return BatchPlan(
            micro_batches=tuple(tuple(rows[i] for i in part) for part in own),
            keep=sum(total <= self.pixel_cache_bytes for total in pixels),
            targets=self._targets(numbers, rows),
            queries=len(numbers),
            tokens=sum(tokens),
            padded_tokens=sum(len(part) * max((tokens[i] for i in part), default=0) for part in own),
        )

    def _rows(self, numbers: Sequence[int], epoch: int) -> list[Row]:
        """Rows of a global batch in their canonical order: queries, then each one's positive and its negatives."""
        documents: list[str] = []
        for number in numbers:
            pair = self.records.pairs[number]
            documents += [pair.positives[epoch % len(pair.positives)], *pair.negatives[: self.hard_negatives]]
        rows = [Row(QUERY, number, i) for i, number in enumerate(numbers)]
        return rows + [Row(DOCUMENT, id, i) for i, id in enumerate(documents)]

    def _targets(self, numbers: Sequence[int], rows: Sequence[Row]) -> PairTargets:
        """Who answers whom."""
        documents = [str(row.key) for row in rows[len(numbers) :]]
        lengths = [1 + len(self.records.pairs[number].negatives[: self.hard_negatives]) for number in numbers]
        positive = [0, *itertools.accumulate(lengths[:-1])]
        return PairTargets(torch.tensor(positive), self._ignored(numbers, documents, positive))

    def _ignored(self, numbers: Sequence[int], documents: Sequence[str], positive: Sequence[int]) -> torch.Tensor:
        """Pairs (query, document) of the batch that are relevant without being the target."""
        places: dict[str, list[int]] = {}
        for place, id in enumerate(documents):
            places.setdefault(id, []).append(place)
        found = [
            (i, place)
            for i, number in enumerate(numbers)
            for id in sorted(self._relevant[_query_key(self.records.pairs[number])] & places.keys())
            for place in places[id]
            if place != positive[i]
        ]
        return torch.tensor(found, dtype=torch.long).reshape(-1, 2)


def check_enough_documents(pairs: Sequence[Pair], size: int) -> None:
    """Refuse a batch that cannot be filled with different documents.

    Raises:
        InputError: there are fewer pairs, or fewer different positive documents, than queries in a batch.
    """
    documents = {id for pair in pairs for id in pair.positives}
    for count, what in ((len(pairs), "pairs"), (len(documents), "different positive documents")):
        if count < max(size, 2):
            raise InputError(
                f"the training data has {count} {what}, too few for a batch of {size} queries: lower "
                "--per-device-train-batch-size (it is multiplied by the number of processes) or add data"
            )


def _query_key(pair: Pair) -> object:
    """Queries of the same words and pictures have the same relevant documents."""
    return pair.query.messages


def _relevant_documents(pairs: Sequence[Pair]) -> dict[object, set[str]]:
    relevant: dict[object, set[str]] = {}
    for pair in pairs:
        relevant.setdefault(_query_key(pair), set()).update(pair.positives)
    return relevant
