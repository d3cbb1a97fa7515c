"""Figures about data files: how much, from where, how large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from polylens.contracts import Record
from polylens.data.conversations import ConversationReader, conversation_files
from polylens.data.documents import DocumentSource, group_of
from polylens.data.images import image_size
from polylens.data.ocr.lines import scan_ocr
from polylens.data.ocr.records import OcrRecord
from polylens.data.pairs import Pair, PairReader, jsonl_files, read_queries
from polylens.data.records import Quarantine
from polylens.data.store import open_documents
from polylens.data.validate import Kind, detect_kind

__all__ = [
    "conversation_statistics",
    "distribution",
    "document_statistics",
    "ocr_statistics",
    "pair_statistics",
    "statistics",
]


def statistics(path: str | Path, kind: Kind | None = None) -> dict[str, Any]:
    """Figures about a file of pairs, conversations, queries or OCR lines, or about a document store, ready for JSON.

    Raises:
        InputError: the file has a bad record; ``polylens data validate`` lists them all.
    """
    path = Path(path)
    kind = kind or detect_kind(path)
    if kind == "documents":
        return {"kind": kind, **document_statistics(open_documents([path]))}
    if kind == "queries":
        lengths = [_length(record.messages[0].parts) for record in read_queries(path)]
        return {"kind": kind, "queries": len(lengths), "query characters": distribution(lengths)}
    if kind == "conversations":
        with Quarantine("error") as bad:
            reader = ConversationReader(None, bad, answered=False, check_documents=False)
            records = [record for file in conversation_files([path]) for record in reader.read(file)]
        return {"kind": kind, **conversation_statistics(records)}
    if kind == "ocr":
        with Quarantine("error") as bad:
            return {"kind": kind, **ocr_statistics(record for _, record in scan_ocr(jsonl_files([path]), bad))}
    with Quarantine("error") as bad:
        reader = PairReader(None, "", bad, check_documents=False)
        return {"kind": kind, **pair_statistics(pair for file in jsonl_files([path]) for pair in reader.read(file))}


def pair_statistics(pairs: Iterable[Pair]) -> dict[str, Any]:
    """Counts, overall and by source; characters of queries; documents a query; queries a document."""
    pairs = list(pairs)
    by_source: dict[str, list[Pair]] = {}
    for pair in pairs:
        by_source.setdefault(pair.source, []).append(pair)
    answered = Counter(id for pair in pairs for id in pair.positives)
    return {
        **_counts(pairs),
        "query characters": distribution([_length(pair.query.messages[0].parts) for pair in pairs]),
        "positives a query": distribution([len(pair.positives) for pair in pairs]),
        "negatives a query": distribution([len(pair.negatives) for pair in pairs]),
        "queries a document": distribution(list(answered.values())),
        "batches": len({pair.batch for pair in pairs} - {-1}),
        "sources": {source: _counts(members) for source, members in sorted(by_source.items())},
    }


def conversation_statistics(records: Sequence[Record]) -> dict[str, Any]:
    """Counts; turns and pictures a conversation; characters of questions and of answers."""
    pictures = [len(record.images) for record in records]
    lengths: dict[str, list[int]] = {"system": [], "user": [], "assistant": []}
    for message in (message for record in records for message in record.messages):
        lengths[message.role].append(_length(message.parts))
    return {
        "conversations": len(records),
        "without a picture": pictures.count(0),
        "with one picture": pictures.count(1),
        "with several pictures": sum(count > 1 for count in pictures),
        "with a system turn": len(lengths["system"]),
        "answers a conversation": distribution([_answers(record) for record in records]),
        "question characters": distribution(lengths["user"]),
        "answer characters": distribution(lengths["assistant"]),
    }


def ocr_statistics(records: Iterable[OcrRecord]) -> dict[str, Any]:
    """Counts; lines a picture; characters, scores in per cent and height in pixels of lines; engines."""
    records = list(records)
    lines = [line for record in records for line in record.lines]
    return {
        "pictures": len(records),
        "without text": sum(not record.lines for record in records),
        "lines": len(lines),
        "lines a picture": distribution([len(record.lines) for record in records]),
        "line characters": distribution([len(line.text) for line in lines]),
        "line height": distribution([round(line.box[3] - line.box[1]) for line in lines]),
        "score in per cent": distribution([round(100 * line.score) for line in lines]),
        "engines": dict(Counter(record.engine for record in records).most_common()),
    }


def _answers(record: Record) -> int:
    return sum(message.role == "assistant" for message in record.messages)


def _counts(pairs: Sequence[Pair]) -> dict[str, int]:
    documents = {id for pair in pairs for id in pair.positives}
    queries = {pair.query.messages[0].parts for pair in pairs}
    files = {group_of(id) for id in documents}
    return {"pairs": len(pairs), "queries": len(queries), "documents": len(documents), "files": len(files)}


def _length(parts: Sequence[Any]) -> int:
    return sum(len(part) for part in parts if isinstance(part, str))


def document_statistics(documents: DocumentSource) -> dict[str, Any]:
    """Counts; bytes, width and height of pictures, from their headers; characters of texts; pages a file."""
    sizes, lengths, weights = [], [], []
    for id in tqdm(documents.ids(), unit="document", desc="read", disable=None):
        document = documents.read(id)
        if document.image is not None:
            sizes.append(image_size(document.image, f"picture of document {id!r}"))
            weights.append(len(document.image))
        if document.text:
            lengths.append(len(document.text))
    files = Counter(map(group_of, documents.ids()))
    return {
        "documents": len(documents),
        "with a picture": len(sizes),
        "with a text": len(lengths),
        "files": len(files),
        "pages a file": distribution(list(files.values())),
        "picture width": distribution([width for width, _ in sizes]),
        "picture height": distribution([height for _, height in sizes]),
        "picture bytes": {**distribution(weights), "sum": sum(weights)},
        "text characters": distribution(lengths),
        "most frequent sizes": {f"{w} x {h}": count for (w, h), count in Counter(sizes).most_common(10)},
    }


def distribution(values: Sequence[int]) -> dict[str, float]:
    """Smallest, quartiles and largest; empty without values.

    >>> distribution([1, 2, 3, 10])
    {'min': 1, '25%': 1.75, 'median': 2.5, '75%': 4.75, 'max': 10}
    """
    if not values:
        return {}
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"min": min(values), "25%": low, "median": middle, "75%": high, "max": max(values)}
