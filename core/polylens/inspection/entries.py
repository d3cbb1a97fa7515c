"""Training records of a file as training reads them, the bad ones with their errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

from polylens.contracts import Record
from polylens.data.conversations import ConversationReader, conversation_files
from polylens.data.documents import DocumentSource
from polylens.data.pairs import Pair, PairReader, document_record, jsonl_files
from polylens.data.records import Line
from polylens.data.validate import detect_kind
from polylens.errors import InputError, closest

Role = Literal["conversation", "query", "positive", "negative"]

_SHOWN_OF_A_LINE = 2000
"""Bytes of a bad line."""


@dataclass(slots=True)
class Entry:
    """A line of a records file.

    Attributes:
        members: what it gives to see, in order: a conversation, or a query and then its documents. A document that
            cannot be read is its error.
        error: why the line cannot be used.
        line: its beginning, if it cannot be used.
    """

    id: str
    where: str
    members: list[tuple[Role, Record | InputError]] = field(default_factory=list)
    error: str = ""
    line: str = ""


@dataclass(frozen=True, slots=True)
class Entries:
    """Lines of a file, and the documents that they name."""

    kind: Literal["conversations", "pairs"]
    entries: list[Entry]
    documents: DocumentSource | None


def read_entries(
    path: Path,
    *,
    documents: DocumentSource | None = None,
    query_instruction: str = "",
    hard_negatives: int = 0,
    id: str | None = None,
    limit: int = 20,
) -> Entries:
    """The first lines of a conversations or pairs file, or that of one record.

    Args:
        query_instruction, hard_negatives: as of a run.
        id: of the only record to read.

    Raises:
        InputError: the file cannot be read, is empty, holds neither, or has no such record.
    """
    kind = detect_kind(path)
    if kind not in ("conversations", "pairs"):
        raise InputError(f"{path} holds {kind}; inspect shows what models are trained on: conversations and pairs")
    bad = _BadEntries()
    if kind == "conversations":
        found = _conversations(path, documents, bad)
        return Entries(kind, _chosen(path, found, id, limit), documents)
    reader = PairReader(documents, query_instruction, bad)
    entries = _chosen(path, _pairs(path, reader, bad), id, limit)
    known = reader.documents()
    for entry in entries:
        entry.members += [_document(role, name, known) for role, name in _documents_of(entry, bad, hard_negatives)]
    return Entries(kind, entries, known)


class _BadEntries:
    """Receives bad lines from a reader, and remembers the pair of each good one."""

    def __init__(self) -> None:
        self.waiting: list[Entry] = []
        self.pairs: dict[str, Pair] = {}

    def add(self, line: Line, error: InputError) -> None:
        shown = line.data[:_SHOWN_OF_A_LINE].decode("utf-8", "backslashreplace").strip()
        more = " ..." if len(line.data) > _SHOWN_OF_A_LINE else ""
        self.waiting.append(Entry("", line.where, error=str(error), line=shown + more))

    def take(self) -> Iterator[Entry]:
        yield from self.waiting
        self.waiting.clear()


def _conversations(path: Path, documents: DocumentSource | None, bad: _BadEntries) -> Iterator[Entry]:
    reader = ConversationReader(documents, bad)
    for file in conversation_files([path]):
        for record in reader.read(file):
            yield from bad.take()
            yield Entry(record.id, record.where, [("conversation", record)])
    yield from bad.take()


def _pairs(path: Path, reader: PairReader, bad: _BadEntries) -> Iterator[Entry]:
    for file in jsonl_files([path]):
        for pair in reader.read(file):
            yield from bad.take()
            bad.pairs[pair.where] = pair
            yield Entry(pair.id, pair.where, [("query", pair.query)])
    yield from bad.take()


def _chosen(path: Path, found: Iterator[Entry], id: str | None, limit: int) -> list[Entry]:
    if id is None:
        return list(islice(found, limit))
    known = []
    for entry in found:
        if entry.id == id:
            return [entry]
        known.append(entry.id)
    raise InputError(f"there is no record {id!r} in {path}{closest(id, known)}")


def _documents_of(entry: Entry, bad: _BadEntries, hard_negatives: int) -> list[tuple[Role, str]]:
    """The documents that training takes: one positive after another, epoch by epoch, and the first negatives."""
    pair = bad.pairs.get(entry.where)
    if pair is None:
        return []
    negatives = pair.negatives[:hard_negatives]
    return [*(("positive", id) for id in pair.positives), *(("negative", id) for id in negatives)]


def _document(role: Role, id: str, documents: DocumentSource) -> tuple[Role, Record | InputError]:
    try:
        return role, document_record(documents.read(id))
    except InputError as error:
        return role, error
