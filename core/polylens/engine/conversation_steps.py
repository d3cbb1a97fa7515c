"""Which conversations each optimizer step sees, what they cost, and what is supervised in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from polylens.contracts import IGNORE_INDEX, Batch, Encoding, Example, Objective, Record, Regions
from polylens.data.prepare import Preparer
from polylens.data.regions import picture_label
from polylens.engine import distributed
from polylens.engine.loaders import served
from polylens.engine.steps import Cost, Row, StepPlanner
from polylens.errors import InputError

WORTH_WORKERS = 2000
"""Records from which on data workers are started to measure them."""

WORTH_DECODERS = 200
"""The same, where their pictures are decoded."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is known of a conversation without its pixels.

    Attributes:
        cost: tokens, and bytes of pixels.
        counts: what the objective's normalisers count in it.
    """

    cost: Cost
    counts: dict[str, float]


class ConversationRecords:
    """Conversations of which all is known but the pixels.

    Args:
        max_length: tokens of a conversation; text is shortened to fit, a picture never cut.
        measured: of each record, as ``measure`` gives it.
    """

    def __init__(
        self, records: Sequence[Record], preparer: Preparer, max_length: int, measured: Sequence[Measured]
    ) -> None:
        self.records, self.preparer, self.max_length, self.measured = records, preparer, max_length, measured

    def __len__(self) -> int:
        return len(self.records)

    def example(self, row: Row) -> Example:
        """The conversation, prepared."""
        record = self.records[int(row.key)]
        rows = {"position": row.position, "picture": picture_label(record)}
        return self.preparer.example(record, self.max_length, rows)

    def filler_rows(self) -> dict[str, Any]:
        """Of a row that stands for nothing."""
        return {"position": -1, "picture": 0}

    def cost(self, row: Row) -> Cost:
        """Tokens, and bytes of pixels."""
        return self.measured[int(row.key)].cost

    read_cost = cost

    def unknown(self, rows: Sequence[Row]) -> list[Row]:
        """Nothing is left to be read."""
        return []

    def learn(self, costs: Mapping[int | str, Cost]) -> None:
        """All costs are known."""

    def counts(self, rows: Sequence[Row]) -> dict[str, float]:
        """The normalisers of a global batch."""
        return distributed.add_counts(self.measured[int(row.key)].counts for row in rows)


class ConversationPlanner(StepPlanner):
    """Plans steps over conversations, whose normalisers are known before the first pass, which may be the only one."""

    def rows(self, numbers: Sequence[int], epoch: int) -> list[Row]:
        """A row for each conversation."""
        return [Row(0, number, place) for place, number in enumerate(numbers)]

    def normalisers(self, rows: Sequence[Row]) -> dict[str, float]:
        """Summed over all ranks' rows."""
        return self.records.counts(rows)


def measure(
    records: Sequence[Record],
    preparer: Preparer,
    objective: Objective,
    max_length: int,
    loader: dict[str, Any],
    *,
    decode: bool = False,
) -> list[Measured | InputError]:
    """Measure every conversation; ranks share the work, and every one must call it.

    Args:
        decode: read pictures to their end, to find those that are damaged.

    Returns:
        For each record what it costs, or the reason why it cannot be trained on: a picture that is missing or does not
        fit, or an answer of which nothing is left.
    """
    rank, ranks = distributed.rank(), distributed.world_size()
    numbers = list(range(rank, len(records), ranks))
    dataset = _Measures(records, preparer, objective, max_length, decode)
    off = None if rank == 0 else True  # None: where there is no terminal
    found = tqdm(_measured(dataset, numbers, loader), total=len(numbers), unit="record", desc="measure", disable=off)
    parts = distributed.gather_objects(list(found))
    every: list[Any] = [None] * len(records)
    for place, part in enumerate(parts):
        every[place::ranks] = part
    return every


def _measured(dataset: _Measures, numbers: Sequence[int], loader: dict[str, Any]) -> Iterator[Measured | InputError]:
    worth = WORTH_DECODERS if dataset.decode else WORTH_WORKERS
    if len(numbers) < worth or not loader.get("num_workers"):
        return (dataset[number] for number in numbers)
    groups = [numbers[start : start + 64] for start in range(0, len(numbers), 64)]
    return (measured for group in served(_Groups(dataset), groups, loader) for measured in group)


class _Measures(Dataset[Any]):
    def __init__(
        self, records: Sequence[Record], preparer: Preparer, objective: Objective, max_length: int, decode: bool
    ) -> None:
        self._records, self._preparer, self._objective, self._limit = records, preparer, objective, max_length
        self.decode = decode

    def __getitem__(self, number: int) -> Measured | InputError:
        record = self._records[number]
        try:
            if self.decode:
                self._preparer.decode(record)
            encoding, sliced = self._preparer.outline(record, self._limit)
            regions = self._preparer.regions(record, sliced)
        except InputError as error:
            return error
        counts = self._objective.normalisers(_without_pixels(record.id, encoding, regions))
        if all(label == IGNORE_INDEX for label in encoding.labels):
            return InputError(
                f"{record.where}: record {record.id!r}: nothing of its answers is left in {self._limit} tokens; raise "
                "--model-max-length, or make pictures cheaper"
            )
        pixels = sum(3 * crop.size[0] * crop.size[1] for cut in sliced for crop in cut.crops)
        return Measured((len(encoding.input_ids), pixels), counts)


class _Groups(Dataset[Any]):
    """Several records a request: one takes less time than the way to a worker and back."""

    def __init__(self, measures: _Measures) -> None:
        self._measures = measures

    def __getitem__(self, numbers: Sequence[int]) -> list[Measured | InputError]:
        return [self._measures[number] for number in numbers]


def _without_pixels(id: str, encoding: Encoding, regions: Regions | None) -> Batch:
    """A batch of one row for an objective to count in."""
    ids = torch.tensor([encoding.input_ids])
    nothing = torch.zeros(0, dtype=torch.long)
    return Batch(
        ids=[id],
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        labels=torch.tensor([encoding.labels]),
        visual_mask=torch.tensor([encoding.visual_mask]),
        pixels=[],
        crop_rows=nothing,
        crop_tokens=nothing,
        costs=torch.tensor([ids.shape[1]]),
        regions=regions,
    )
