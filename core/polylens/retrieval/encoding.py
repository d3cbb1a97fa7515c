"""Encodes documents or queries into a folder of vectors: what ``polylens encode`` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from polylens.contracts import Record
from polylens.data.documents import DocumentSource
from polylens.data.images import ImageOpener
from polylens.data.pairs import read_queries
from polylens.data.store import open_documents
from polylens.engine import distributed
from polylens.engine.loading import Checkpoint, load_checkpoint
from polylens.errors import InputError
from polylens.retrieval.distributed import process_group
from polylens.retrieval.encode import DocumentRecords, Encoder, Records, fingerprint
from polylens.retrieval.search import resolve_device
from polylens.retrieval.vectors import VectorWriter


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How vectors are made; which ones does not depend on the number of ranks.

    Attributes:
        batch_size: records of a forward pass.
        rows_per_shard: vectors of a file.
        dtype: of the weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``; by default the accelerator if there is one.
        num_workers: processes that prepare pictures; with 0 the model's own does.
        seed: of the random weights of a preset.
        options: of the model family.

    Raises:
        InputError: a number is too small.
    """

    batch_size: int = 16
    rows_per_shard: int = 1024
    dtype: str = "auto"
    device: str | None = None
    num_workers: int = 2
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("rows_per_shard", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
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
    return _encode(model, plugin, DocumentRecords(documents, chosen), chosen, "document", documents, output, options)


def encode_queries(model: str, plugin: str | None, queries: Path, output: Path, options: EncodeOptions) -> str | None:
    """Encode the queries of a file, with the model's query instruction where they have none of their own."""
    with process_group():
        checkpoint = _load(model, plugin, options)
        records = read_queries(queries, checkpoint.card.query_instruction)
        return _write(checkpoint, records, [r.id for r in records], "query", queries.parent, None, output, options)


def _encode(
    model: str,
    plugin: str | None,
    records: Records,
    ids: Sequence[str],
    kind: Literal["query", "document"],
    documents: DocumentSource,
    output: Path,
    options: EncodeOptions,
) -> str | None:
    with process_group():
        checkpoint = _load(model, plugin, options)
        return _write(checkpoint, records, ids, kind, None, documents, output, options)


def _load(model: str, plugin: str | None, options: EncodeOptions) -> Checkpoint:
    checkpoint = load_checkpoint(
        plugin, model, options=options.options, dtype=options.dtype, device=_device(options), seed=options.seed
    )
    checkpoint.model.eval()
    return checkpoint


def _write(
    checkpoint: Checkpoint,
    records: Records | Sequence[Record],
    ids: Sequence[str],
    kind: Literal["query", "document"],
    image_root: Path | None,
    documents: DocumentSource | None,
    output: Path,
    options: EncodeOptions,
) -> str | None:
    if not ids:
        raise InputError(f"there is no {kind} to encode")
    encoder = Encoder(
        lambda batch: checkpoint.model(batch, outputs=frozenset({"hidden"})),
        checkpoint.preparer(ImageOpener(image_root, documents), "plain"),
        checkpoint.collator(),
        checkpoint.card,
        _device(options),
        options.batch_size,
        {"num_workers": options.num_workers},
    )
    writer = VectorWriter(
        output,
        ids=ids,
        dimensions=checkpoint.model.get_input_embeddings().embedding_dim,  # type: ignore[union-attr]
        rows_per_shard=options.rows_per_shard,
        kind=kind,
        card=checkpoint.card,
        fingerprint=_fingerprint(checkpoint, options),
    )
    encoder.write(records, kind, writer)
    distributed.barrier()
    if distributed.rank() != 0:
        return None
    writer.finish()
    return f"{len(ids)} {kind} vectors of {writer.dimensions} dimensions are in {output}"


def _fingerprint(checkpoint: Checkpoint, options: EncodeOptions) -> str:
    """Tells models apart that have the same card: the same recipe trained twice, or another seed."""
    source = checkpoint.source
    base = f"seed {options.seed}" if source.is_preset else fingerprint(source.folder)
    return base if source.adapter is None else f"{base} {fingerprint(source.adapter)}"


def _device(options: EncodeOptions) -> torch.device:
    if options.device is not None:
        return resolve_device(options.device)
    accelerator = torch.accelerator.current_accelerator()
    return (
        torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0"))) if accelerator else torch.device("cpu")
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
