"""Copies documents of other layouts into a document store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from polylens.contracts import ImageRef
from polylens.data.documents import DocumentSource
from polylens.data.pairs import Pair, jsonl_files, read_pairs
from polylens.data.store import DocumentWriter, open_documents
from polylens.data.validate import detect_kind
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["ConvertReport", "convert"]


@dataclass
class ConvertReport:
    """What was written: new documents, documents in the store, pairs."""

    new: int
    total: int
    pairs: int = 0


def convert(inputs: Sequence[str | Path], output: str | Path, *, documents_per_shard: int = 4096) -> ConvertReport:
    """Copy documents into a store, and pairs whose documents stand in their lines into ``pairs.jsonl`` beside it.

    Started again after it was stopped, it goes on with the documents that are missing.

    Args:
        inputs: document stores of any layout, or training files of the original. Not both at once.

    Raises:
        InputError: an input cannot be read, or pictures stand in the queries: a pairs file has no place for them.
    """
    kinds = {detect_kind(Path(path)) for path in inputs}
    if kinds == {"documents"}:
        return _copy(open_documents(inputs), Path(output), documents_per_shard)
    if kinds != {"pairs"}:
        raise InputError("convert takes document stores, or training files with their documents inside, not both")
    files = jsonl_files(inputs)
    pairs = read_pairs(files, documents=None)
    lines = [json.dumps(_plain(pair), ensure_ascii=False) + "\n" for pair in pairs.pairs]
    report = _copy(pairs.documents, Path(output), documents_per_shard)
    write_text(Path(output) / "pairs.jsonl", lines)
    report.pairs = len(lines)
    return report


def _copy(source: DocumentSource, output: Path, documents_per_shard: int) -> ConvertReport:
    with DocumentWriter(output, documents_per_shard=documents_per_shard) as writer:
        missing = [id for id in source.ids() if id not in writer]
        for id in tqdm(missing, unit="document", desc="convert", disable=None):
            writer.write(source.read(id))
        return ConvertReport(len(missing), len(writer))


def _plain(pair: Pair) -> dict:
    """The pair as a line of a pairs file; the text of the query has its instruction in front already."""
    (text,) = (part for part in pair.query.messages[0].parts if isinstance(part, str))
    if any(isinstance(part, ImageRef) for part in pair.query.messages[0].parts):
        raise InputError(
            f"{pair.where}: /query/image: a pairs file names pictures of queries by a path, not by base64"
        )
    value = {"id": pair.id, "query": {"text": text, "instruction": ""}, "positives": list(pair.positives)}
    return {**value, **({"negatives": list(pair.negatives)} if pair.negatives else {}), "source": pair.source}
