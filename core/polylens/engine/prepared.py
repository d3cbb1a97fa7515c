"""Batches of records, prepared ahead of the model by data-loader workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch.utils.data import Dataset

from polylens.contracts import Batch, Collator, Record
from polylens.data.prepare import Preparer
from polylens.engine.loaders import served
from polylens.engine.stream import filler, handed_over, pack, unpack
from polylens.errors import InputError


class Records(Protocol):
    """A sequence of records that are made when asked for; picklable."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record: ...


@dataclass(frozen=True, slots=True)
class RecordBatches:
    """Turns groups of record numbers into batches.

    Attributes:
        limit: tokens of a record; text is shortened to fit.
        loader: keyword arguments of ``torch.utils.data.DataLoader``, such as ``num_workers``.
    """

    records: Records
    preparer: Preparer
    collator: Collator
    limit: int | None
    loader: dict[str, Any]

    def of(self, groups: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """A batch on the CPU for each group, in order. An empty group gives one row that stands for nothing.

        Raises:
            InputError: a record cannot be used.
        """
        prepared = self._loaded(_Prepared(self), groups)
        for _, packed in zip(groups, prepared, strict=True):
            yield unpack(packed)

    def lengths(self, numbers: Sequence[int], *, decode: bool = False) -> Iterator[int | InputError]:
        """Tokens of each record, from the headers of its pictures; or why it cannot be used.

        Args:
            decode: read pictures to their end, to find those that are damaged.
        """
        return self._loaded(_Lengths(self, decode), numbers)

    def _loaded(self, dataset: Dataset[Any], requests: Sequence[Any]) -> Iterator[Any]:
        return served(dataset, requests, self.loader)


class _Prepared(Dataset[Any]):
    """Groups of record numbers into packed batches, in workers."""

    def __init__(self, batches: RecordBatches) -> None:
        self._batches = batches

    def __getitem__(self, numbers: Sequence[int]) -> Any:
        own = self._batches
        try:
            examples = [own.preparer.example(own.records[number], own.limit) for number in numbers]
        except InputError as error:
            return error
        return handed_over(pack(own.collator(examples or [filler({})])))


class _Lengths(Dataset[Any]):
    """Record numbers into numbers of tokens, in workers."""

    def __init__(self, batches: RecordBatches, decode: bool) -> None:
        self._batches, self._decode = batches, decode

    def __getitem__(self, number: int) -> int | InputError:
        own = self._batches
        try:
            record = own.records[number]
            if self._decode:
                own.preparer.decode(record)
            return len(own.preparer.outline(record, own.limit)[0].input_ids)
        except InputError as error:
            return error
