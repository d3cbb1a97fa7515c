"""Encodes documents or queries into a folder of vectors: what ``polylens encode`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from polylens.config.card import ModelCard
from polylens.data.documents import DocumentSource
from polylens.data.images import ImageOpener
from polylens.data.pairs import read_queries
from polylens.data.store import open_documents
from polylens.engine import distributed
from polylens.engine.devices import own_device
from polylens.engine.distributed import process_group
from polylens.engine.failures import explained
from polylens.engine.fingerprint import checkpoint_fingerprint
from polylens.engine.loaders import expect_workers
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.engine.prepared import Records
from polylens.errors import InputError
from polylens.retrieval.encode import DocumentRecords, Encoder
from polylens.retrieval.vectors import VectorWriter


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How vectors are made; which ones does not depend on the number of ranks.

    Attributes:
        batch_size: records of a forward pass.
        vision_chunk_size: crops of one call of the vision tower; all of a forward pass by default.
        rows_per_shard: vectors of a file: what one rank takes at a time, and the most that a kill loses.
        dtype: of the weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``; by default the accelerator if there is one.
        num_workers: processes that prepare pictures; with 0 the model's own does.
        seed: of the random weights of a preset.
        options: of the model family.
        base: model under an adapter, instead of the one that the adapter names.

    Raises:
        InputError: a number is too small.
    """

    batch_size: int = 16
    rows_per_shard: int = 256
    dtype: str = "auto"
    device: str | None = None
    num_workers: int = 2
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    vision_chunk_size: int | None = None
    base: str | None = None

    @property
    def loader(self) -> dict[str, Any]:
        """Keyword arguments of ``torch.utils.data.DataLoader``."""
        return {"num_workers": self.num_workers}

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("rows_per_shard", 1), ("num_workers", 0), ("vision_chunk_size", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, it must be at least {least}")


def encode_documents(
    model: str,
    plugin: str | None,
    stores: Sequence[Path],
    output: Path,
    options: EncodeOptions,
    ids: Path | None = None,
) -> str | None:
    """Encode the documents of stores; returns a line that says what was written, on rank 0.

    Args:
        ids: a file with the ids of those to encode, one a line; by default all.

    Raises:
        InputError: the model, a document or the folder cannot be used.
    """
    documents = open_documents(stores)
    chosen = list(documents.ids()) if ids is None else _read_ids(ids, documents)
    work = _Work(DocumentRecords(documents, chosen), chosen, "document", ImageOpener(None, documents))
    return _encode(model, plugin, lambda card: work, output, options)


def encode_queries(model: str, plugin: str | None, queries: Path, output: Path, options: EncodeOptions) -> str | None:
    """Encode the queries of a file, with the model's query instruction where they have none of their own.

    Raises:
        InputError: the model, a query or the folder cannot be used.
    """

    def work(card: ModelCard) -> _Work:
        records = read_queries(queries, card.query_instruction)
        return _Work(records, [record.id for record in records], "query", ImageOpener(queries.parent))

    return _encode(model, plugin, work, output, options)


@dataclass(frozen=True, slots=True)
class _Work:
    """What is to be encoded."""

    records: Records
    ids: Sequence[str]
    kind: Literal["query", "document"]
    images: ImageOpener


def _encode(
    model: str, plugin: str | None, work_for: Callable[[ModelCard], _Work], output: Path, options: EncodeOptions
) -> str | None:
    with explained("then start it again: what is done stays"), process_group():
        device = own_device(options.device)
        checkpoint = load_checkpoint(
            plugin,
            model,
            base=options.base,
            options=options.options,
            dtype=options.dtype,
            device=device,
            seed=options.seed,
            vision_chunk_size=options.vision_chunk_size,
        )
        expect_workers(options.loader, checkpoint.parts)
        checkpoint.model.eval()
        work = work_for(checkpoint.card)
        if not work.ids:
            raise InputError(f"there is no {work.kind} to encode")
        writer = _writer(checkpoint, work, output, options)
        _encoder(checkpoint, work, device, options).write(work.records, work.kind, writer)
        distributed.barrier()
        if distributed.rank() != 0:
            return None
        writer.finish()
        return f"{len(work.ids)} {work.kind} vectors of {writer.dimensions} dimensions are in {output}"


def _encoder(checkpoint: Checkpoint, work: _Work, device: torch.device, options: EncodeOptions) -> Encoder:
    return Encoder(
        lambda batch: checkpoint.model(batch, outputs=frozenset({"hidden"})),
        checkpoint.preparer(work.images, "plain"),
        checkpoint.collator(),
        checkpoint.card,
        device,
        options.batch_size,
        options.loader,
    )


def _writer(checkpoint: Checkpoint, work: _Work, output: Path, options: EncodeOptions) -> VectorWriter:
    return VectorWriter(
        output,
        ids=work.ids,
        dimensions=checkpoint.model.get_input_embeddings().embedding_dim,  # type: ignore[union-attr]
        rows_per_shard=options.rows_per_shard,
        kind=work.kind,
        card=checkpoint.card,
        fingerprint=checkpoint_fingerprint(checkpoint),
    )


def _read_ids(path: Path, documents: DocumentSource) -> list[str]:
    try:
        ids = [line for line in path.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    for number, id in enumerate(ids, 1):
        if id not in documents:
            raise InputError(f"{path}:{number}: no document {id!r} in the stores")
    return ids
