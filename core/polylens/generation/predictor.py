"""Records into answers: for a file of answers, for validation during training, and for ``VLM.predict``.

Which records share a batch follows from all of them and the size of a batch, never from the number of ranks or from
what is done already: several ranks, or a run that was stopped, give exactly what one gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from polylens.contracts import Record
from polylens.data.images import ImageOpener
from polylens.data.prepare import Preparer
from polylens.engine import distributed
from polylens.engine.loading import Checkpoint
from polylens.engine.prepared import RecordBatches
from polylens.errors import InputError
from polylens.generation.generator import Answer, Generator
from polylens.generation.options import GenerationOptions
from polylens.generation.prompts import by_length

T = TypeVar("T")


@dataclass(slots=True)
class Predictor:
    """Answers records with a model.

    Attributes:
        images: opens the pictures that records name.
        device: where the model takes its input.
        batch_size: records that are answered at a time.
        max_length: tokens of a prompt; its text is shortened to fit, never a picture.
        loader: keyword arguments of ``torch.utils.data.DataLoader``, such as ``num_workers``.
        keep_special_tokens, synced_ranks: as for ``Generator``.
    """

    checkpoint: Checkpoint
    options: GenerationOptions
    images: ImageOpener
    device: torch.device
    batch_size: int = 8
    max_length: int | None = None
    loader: dict[str, Any] = field(default_factory=dict)
    keep_special_tokens: bool = False
    synced_ranks: bool = False

    @property
    def preparer(self) -> Preparer:
        """Makes prompts: conversations that end with the header of an answer."""
        return replace(self.checkpoint.preparer(self.images), generation_prompt=True)

    def generator(self) -> Generator:
        return Generator(
            self.checkpoint,
            self.options,
            self.device,
            keep_special_tokens=self.keep_special_tokens,
            synced_ranks=self.synced_ranks,
        )

    def measure(
        self, records: Sequence[Record], *, decode: bool = False, progress: bool = False
    ) -> list[int | InputError]:
        """Tokens of each prompt, or why it cannot be asked; the same on every rank. Ranks share the reading.

        Args:
            decode: read pictures to their end, to find those that are damaged.
        """
        ranks, rank = distributed.world_size(), distributed.rank()
        own = range(rank, len(records), ranks)
        read = self._batches(records).lengths(own, decode=decode)
        parts = distributed.gather_objects(list(_shown(read, len(own), "read prompts", progress)))
        return [parts[i % ranks][i // ranks] for i in range(len(records))]

    def plan(self, records: Sequence[Record], *, progress: bool = False) -> list[list[int]]:
        """The batches, the longest prompts first; the same on every rank.

        Raises:
            InputError: a record cannot be used.
        """
        return by_length(all_good(self.measure(records, progress=progress)), self.batch_size)

    def run(
        self, records: Sequence[Record], batches: Sequence[Sequence[int]], chosen: Sequence[int]
    ) -> Iterator[tuple[int, list[Answer]]]:
        """The number and the answers of each chosen batch. An empty batch runs the model all the same."""
        generator = self.generator()
        made = self._batches(records).of([batches[number] for number in chosen])
        for number, batch in zip(chosen, made, strict=True):
            yield number, generator.answers(batch, number)[: len(batches[number])]

    def answers(self, records: Sequence[Record], *, progress: bool = False) -> list[Answer]:
        """An answer to each record, in order; the same on every rank. Ranks share the batches."""
        batches = self.plan(records, progress=progress)
        ranks, rank = distributed.world_size(), distributed.rank()
        padded = [*batches, *([[]] * (-len(batches) % ranks))]  # under ZeRO-3 ranks run the model equally often
        own = range(rank, len(padded), ranks)
        found: dict[int, Answer] = {}
        bar = _bar(len(records), "answer", progress)
        for number, answers in self.run(records, padded, own):
            found.update(zip(padded[number], answers, strict=True))
            bar.update(len(answers) * ranks)
        bar.close()
        everywhere = {place: answer for part in distributed.gather_objects(found) for place, answer in part.items()}
        return [everywhere[place] for place in range(len(records))]

    def _batches(self, records: Sequence[Record]) -> RecordBatches:
        return RecordBatches(records, self.preparer, self.checkpoint.collator("left"), self.max_length, self.loader)


def all_good(measured: Sequence[int | InputError]) -> list[int]:
    """The lengths of prompts.

    Raises:
        InputError: of the first that cannot be asked, with the number of the others.
    """
    bad = [length for length in measured if isinstance(length, InputError)]
    if bad:
        raise InputError(f"{bad[0]}{f' ({len(bad) - 1} more such records)' if len(bad) > 1 else ''}") from bad[0]
    return [length for length in measured if not isinstance(length, InputError)]


def _bar(total: int, what: str, shown: bool) -> tqdm[Any]:
    return tqdm(total=total, desc=what, disable=_disabled(shown))


def _shown(values: Iterator[T], total: int, what: str, shown: bool) -> Iterator[T]:
    return iter(tqdm(values, total=total, desc=what, disable=_disabled(shown)))


def _disabled(shown: bool) -> bool | None:
    """``None``: where there is no terminal."""
    return None if shown and distributed.rank() == 0 else True
