"""Which pairs and documents each optimizer step sees, and who answers whom."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from polylens.contracts import ROLES, Example, PairTargets, Record
from polylens.data.documents import DocumentSource
from polylens.data.pairs import Pair, document_record
from polylens.data.prepare import Preparer
from polylens.engine.planner import Budget
from polylens.engine.steps import Cost, GlobalBatches, Row, StepPlanner
from polylens.errors import InputError

QUERY, DOCUMENT = range(len(ROLES))


class PairBatches(GlobalBatches):
    """The global batches of an epoch: numbers of pairs.

    Args:
        pairs: the data set.
        size: queries of a global batch, over all ranks.
        shuffle: draw pairs anew each epoch. Otherwise batches are those that ``polylens data pairs`` put together, or
            follow the file, and their order alone is drawn.
        drop_last: leave out incomplete batches.
    """

    def __init__(self, pairs: Sequence[Pair], size: int, *, seed: int, shuffle: bool, drop_last: bool) -> None:
        groups = [pair.batch for pair in pairs]
        super().__init__(len(pairs), size, seed=seed, shuffle=shuffle, drop_last=drop_last, groups=groups)


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

    def example(self, row: Row) -> Example:
        """The row, prepared."""
        rows = {"role": row.role, "position": row.position}
        return self.preparer.example(self.record(row), self.max_lengths[row.role], rows)

    def filler_rows(self) -> dict[str, int]:
        """Of a row that stands for nothing."""
        return {"role": -1, "position": -1}

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


class PairPlanner(StepPlanner):
    """Plans steps over pairs; each global batch is contrasted within itself.

    Args:
        hard_negatives: documents of a query besides its positive.
        options: of ``StepPlanner``.
    """

    def __init__(
        self,
        records: PairRecords,
        batches: PairBatches,
        *,
        rank: int,
        ranks: int,
        budget: Budget,
        hard_negatives: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(records, batches, rank=rank, ranks=ranks, budget=budget, **options)
        self.hard_negatives = hard_negatives
        self._relevant = _relevant_documents(records.pairs)

    def smaller(self, batches: Any, budget: Budget) -> StepPlanner:
        """One hard negative a query is enough."""
        small = super().smaller(batches, budget)
        small.hard_negatives = min(self.hard_negatives, 1)  # type: ignore[attr-defined]
        return small

    def rows(self, numbers: Sequence[int], epoch: int) -> list[Row]:
        """Rows of a global batch in their canonical order: queries, then each one's positive and its negatives."""
        documents: list[str] = []
        for number in numbers:
            pair = self.records.pairs[number]
            documents += [pair.positives[epoch % len(pair.positives)], *pair.negatives[: self.hard_negatives]]
        rows = [Row(QUERY, number, i) for i, number in enumerate(numbers)]
        return rows + [Row(DOCUMENT, id, i) for i, id in enumerate(documents)]

    def targets(self, numbers: Sequence[int], rows: Sequence[Row]) -> PairTargets:
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
