"""Records into vectors: for a folder of vectors, for validation during training, and for ``VLM.embed``.

Which records share a forward pass follows from their place alone, never from the number of ranks: several ranks give
exactly what one gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from polylens.config.card import ModelCard
from polylens.contracts import Batch, Collator, Outputs, Record
from polylens.data.documents import DocumentSource
from polylens.data.pairs import document_record
from polylens.data.prepare import Preparer
from polylens.engine import distributed
from polylens.engine.prepared import RecordBatches, Records
from polylens.modeling.pooling import pool
from polylens.retrieval.vectors import VectorWriter


class DocumentRecords:
    """The documents of a store as records.

    Args:
        ids: which, in order; by default all of them.
    """

    def __init__(self, documents: DocumentSource, ids: Sequence[str] | None = None) -> None:
        self.documents = documents
        self.ids = documents.ids() if ids is None else ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Record:
        return document_record(self.documents.read(self.ids[index]))


@dataclass(slots=True)
class Encoder:
    """Makes vectors as the card says: pooling, normalisation, lengths.

    Attributes:
        forward: the model, asked for hidden states.
        loader: keyword arguments of ``torch.utils.data.DataLoader``, such as ``num_workers``.
        batch_size: records of a forward pass.
    """

    forward: Callable[[Batch], Outputs]
    preparer: Preparer
    collator: Collator
    card: ModelCard
    device: torch.device
    batch_size: int = 16
    loader: dict[str, Any] = field(default_factory=dict)

    def batches(self, records: Records, chosen: Sequence[Sequence[int]], kind: str) -> Iterator[Tensor]:
        """Vectors [n, D] of each batch of record numbers; an empty batch runs the model all the same.

        Args:
            kind: ``query`` or ``document``, which decides the length limit.
        """
        limit = self.card.query_max_length if kind == "query" else self.card.document_max_length
        batches = RecordBatches(records, self.preparer, self.collator, limit, self.loader).of(chosen)
        for numbers, batch in zip(chosen, batches, strict=True):
            with torch.no_grad():
                yield self._vectors(batch.to(self.device))[: len(numbers)]

    def _vectors(self, batch: Batch) -> Tensor:
        hidden = self.forward(batch).hidden
        assert hidden is not None
        vectors = pool(hidden, batch.attention_mask, self.card.pooling)  # type: ignore[arg-type]
        return F.normalize(vectors, dim=1) if self.card.normalize else vectors

    def encode(self, records: Records, kind: Literal["query", "document"]) -> Tensor:
        """float32 [n, D] on the CPU, the same on every rank; ranks share the work batch by batch."""
        all_batches = _runs(range(len(records)), self.batch_size) or [[]]  # none has the width of the model, too
        ranks, rank = distributed.world_size(), distributed.rank()
        rounds = -(-len(all_batches) // ranks)  # under ZeRO-3 every rank must run the model equally often
        own = [all_batches[i] if i < len(all_batches) else [] for i in range(rank, rounds * ranks, ranks)]
        made = [vectors.float().cpu() for vectors in self.batches(records, own, kind)]
        parts = distributed.gather_objects(made)
        in_order = [part[i] for i in range(rounds) for part in parts]
        return torch.cat(in_order)

    def write(self, records: Records, kind: Literal["query", "document"], writer: VectorWriter) -> None:
        """Write this rank's missing shards; what an earlier run wrote stays."""
        shards = writer.missing(distributed.rank(), distributed.world_size())
        total = sum(len(writer.rows(shard)) for shard in shards)
        with tqdm(total=total, desc=f"encode {kind}s", disable=None if distributed.rank() == 0 else True) as bar:
            for shard in shards:
                parts = []
                for vectors in self.batches(records, _runs(writer.rows(shard), self.batch_size), kind):
                    parts.append(vectors.float().cpu())
                    bar.update(len(vectors))
                writer.write(shard, torch.cat(parts))


def _runs(numbers: range, size: int) -> list[list[int]]:
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]
