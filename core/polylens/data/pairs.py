"""Reads pairs (a query and its documents) and queries, and writes them as records that a model can be given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from polylens.config import schemas
from polylens.contracts import ImageRef, Message, Record
from polylens.data.documents import (
    Document,
    DocumentSource,
    DocumentUnion,
    IndexedDocuments,
    check_id,
    missing,
)
from polylens.data.legacy import InlineDocuments, InlinePlace, document_id, inline_content, inline_id, pick_inline
from polylens.data.records import BadRecord, Line, Quarantine, decode_base64, parse_line, scan_jsonl
from polylens.errors import InputError

__all__ = ["Pair", "PairReader", "Pairs", "document_record", "read_pairs", "read_queries", "read_query"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with the documents that answer it.

    Attributes:
        id: of the query, unique in the data set.
        query: one user message.
        positives: ids of the documents that answer it, at least one.
        negatives: ids of documents that look right and are not.
        source: the data set that it comes from.
        where: ``file:line``.
        batch: the training batch that ``polylens data pairs`` put it in, -1 if it did not.
    """

    id: str
    query: Record
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    source: str
    where: str
    batch: int = -1


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs in file order, and every document that they name."""

    pairs: list[Pair]
    documents: DocumentSource
    quarantined: int = 0


class BadRecords(Protocol):
    """What is told of every bad record; it may raise the error."""

    def add(self, line: Line, error: InputError) -> None: ...


def read_pairs(
    paths: Sequence[str | Path],
    *,
    documents: DocumentSource | None,
    query_instruction: str = "",
    on_bad_record: Literal["error", "quarantine"] = "error",
    quarantine: Path | None = None,
) -> Pairs:
    """Read pairs files, or training files of the original, whose lines carry their documents in base64.

    Args:
        paths: JSONL files, or folders of them.
        documents: what the ids refer to; may be ``None`` if every document stands in the lines themselves.
        query_instruction: put before the text of each query that has no ``instruction`` of its own.
        quarantine: file for bad records; needed if they are not errors.

    Raises:
        InputError: a bad record (with ``on_bad_record="error"``), or none is left.
    """
    with Quarantine(on_bad_record, quarantine) as bad:
        reader = PairReader(documents, query_instruction, bad)
        pairs = [pair for path in jsonl_files(paths) for pair in reader.read(path)]
    if not pairs:
        aside = f"; {bad.count} bad records were set aside in {quarantine}" if bad.count else ""
        raise InputError(f"no pairs are left in {', '.join(map(str, paths))}{aside}")
    return Pairs(pairs, reader.documents(), bad.count)


class PairReader:
    """Turns lines into pairs and tells ``bad`` of those that cannot be used.

    Args:
        documents: ids are checked against it; with ``None`` only documents within the lines are known.
        check_documents: ``False`` takes ids as they are, for programs that only count.
    """

    def __init__(
        self,
        documents: DocumentSource | None,
        query_instruction: str,
        bad: BadRecords,
        *,
        check_documents: bool = True,
    ) -> None:
        self._store, self._instruction, self._bad = documents, query_instruction, bad
        self._check_documents = check_documents
        self._inline: dict[str, InlinePlace] = {}
        self._seen: dict[str, str] = {}

    def read(self, path: str | Path) -> Iterable[Pair]:
        """The good pairs of a file, in order."""
        return (pair for _, pair in self.lines(path))

    def lines(self, path: str | Path) -> Iterator[tuple[Line, Pair]]:
        """The good pairs of a file, each with its line."""
        for line in scan_jsonl(path):
            try:
                pair = self._pair(line)
            except InputError as error:
                self._bad.add(line, error)
            else:
                yield line, pair

    def documents(self) -> DocumentSource:
        """The store and the documents within the lines read so far."""
        inline = self.inline_documents()
        if self._store is None:
            return inline
        if not self._inline:
            return self._store
        return DocumentUnion([_Named(self._store), inline])

    def inline_documents(self) -> InlineDocuments:
        """The documents within the lines read so far."""
        return InlineDocuments("the lines of the pairs files", self._inline)

    def _pair(self, line: Line) -> Pair:
        value = parse_line(line)
        inline = isinstance(value, dict) and "pos" in value
        pair = self._inline_pair(line, value) if inline else self._plain_pair(line, value)
        first = self._seen.setdefault(pair.id, line.where)
        if first != line.where:
            raise BadRecord(line.where, [f"/id: {pair.id!r} is also the id of {first}"])
        return pair

    def _plain_pair(self, line: Line, value: Any) -> Pair:
        problems = [] if _certainly_valid(value) else schemas.errors("pairs", value)
        problems = problems or [*_query_problems(value["query"]), *self._document_problems(value)]
        if problems:
            raise BadRecord(line.where, problems)
        id = check_id(value.get("id") or f"{line.path.name}:{line.number}", line.where)
        query = value["query"] if isinstance(value["query"], dict) else {"text": value["query"]}
        image = query.get("image")
        return Pair(
            id=id,
            query=query_record(id, query, ImageRef("path", image) if image else None, self._instruction, line.where),
            positives=tuple(value["positives"]),
            negatives=tuple(value.get("negatives", ())),
            source=value.get("source") or line.path.stem,
            where=line.where,
            batch=value.get("batch", -1),
        )

    def _document_problems(self, value: dict) -> list[str]:
        both = set(value["positives"]) & set(value.get("negatives", ()))
        problems = [f"/negatives: {id!r} is also among the positives" for id in sorted(both)]
        if not self._check_documents:
            return problems
        if self._store is None:
            return ["/positives: no document store was given, so these ids mean nothing"]
        for key in ("positives", "negatives"):
            for number, id in enumerate(value.get(key, ())):
                if id not in self._store:
                    problems.append(f"/{key}/{number}: {missing(id, self._store)}")
        return problems

    def _inline_pair(self, line: Line, value: dict) -> Pair:
        problems = schemas.errors("inline_pairs", value) or _query_problems(value["query"])
        if problems:
            raise BadRecord(line.where, problems)
        query = value["query"] if isinstance(value["query"], dict) else {"text": value["query"]}
        image = query.get("image")
        picture = ImageRef("document", self._add_inline(line, value, ("query",))) if image else None
        id = f"{line.path.name}:{line.number}"
        positives = self._inline_ids(line, value, "pos")
        return Pair(
            id=id,
            query=query_record(id, query, picture, self._instruction, line.where),
            positives=positives,
            negatives=tuple(id for id in self._inline_ids(line, value, "neg") if id not in positives),
            source=line.path.stem,
            where=line.where,
        )

    def _inline_ids(self, line: Line, value: dict, key: str) -> tuple[str, ...]:
        found = [] if value.get(key) is None else value[key]
        places = [(key,)] if isinstance(found, dict) else [(key, number) for number in range(len(found))]
        return tuple(dict.fromkeys(self._add_inline(line, value, place) for place in places))

    def _add_inline(self, line: Line, value: dict, keys: tuple[str | int, ...]) -> str:
        pointer = "/" + "/".join(map(str, keys))
        part = pick_inline(value, keys)
        # The picture of a query stands alone: its text belongs to the query.
        part = {"image": part.get("image")} if keys == ("query",) else part
        image, text = inline_content(part, f"{line.where}: {pointer}")
        if image is None and not text:
            raise BadRecord(line.where, [f"{pointer}: has neither text nor image"])
        id = inline_id(image, text)
        self._inline.setdefault(id, (line.path, line.number, line.offset, len(line.data), keys))
        return id


class _Named(IndexedDocuments):
    """Gives a source of any kind the name and index that a union needs."""

    def __init__(self, source: DocumentSource) -> None:
        super().__init__(getattr(source, "name", "the document store"), source.ids())
        self._source = source

    def _read(self, id: str, position: int) -> Document:
        return self._source.read(id)


def jsonl_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and the ``*.jsonl`` files of folders, in order of name."""
    if isinstance(paths, str | Path):
        paths = [paths]
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"the folder {path} has no *.jsonl file")
        found += inside
    return found


def query_record(id: str, query: dict, image: ImageRef | None, instruction: str, where: str) -> Record:
    """A query as one user message.

    The instruction and the text are one string, joined as they are; a picture stands before them, as the original
    puts it before the text of a document.
    """
    own = query.get("instruction")
    text = (instruction if own is None else own) + (query.get("text") or "")
    parts = (text,) if image is None else (image, "\n" + text)
    return Record(id, (Message("user", parts),), where)


def document_record(document: Document) -> Record:
    """A document as one user message: ``(picture, "\\n" + text)``, or ``(text,)`` if it has no picture."""
    if document.image is None:
        parts: tuple[str | ImageRef, ...] = (document.text,)
    else:
        parts = (ImageRef("document", document.id), "\n" + document.text)
    return Record(document.id, (Message("user", parts),), f"document {document.id!r}")


def read_queries(path: str | Path, query_instruction: str = "") -> list[Record]:
    """Queries of BEIR (``_id``, ``text``), of the original (``id``, ``text``, base64 ``image``), or of a pairs file.

    Raises:
        InputError: a line cannot be used, an id occurs twice, or the file has no queries.
    """
    records: dict[str, Record] = {}
    for file in jsonl_files([path]):
        for line in scan_jsonl(file):
            record = read_query(line, query_instruction)
            if record.id in records:
                raise InputError(f"{line.where}: query {record.id!r} is also at {records[record.id].where}")
            records[record.id] = record
    if not records:
        raise InputError(f"{path} has no queries")
    return list(records.values())


def read_query(line: Line, instruction: str) -> Record:
    """The query of a line, in any form that ``read_queries`` takes."""
    value = parse_line(line)
    if isinstance(value, dict) and "positives" in value:
        return PairReader(None, instruction, _Raise(), check_documents=False)._plain_pair(line, value).query
    id = document_id(value, line.where)
    problems = schemas.errors("queries", value) or _query_problems(value)
    if problems:
        raise BadRecord(line.where, problems)
    image = value.get("image")
    picture = ImageRef("bytes", decode_base64(image, f"{line.where}: /image")) if image else None
    return query_record(id, value, picture, instruction, line.where)


class _Raise:
    def add(self, line: Line, error: InputError) -> None:
        raise error


def _query_problems(query: Any) -> list[str]:
    has = bool(query.get("text") or query.get("image")) if isinstance(query, dict) else bool(query)
    return [] if has else ["/query: has neither text nor image"]


_KEYS = {"id", "query", "positives", "negatives", "source", "batch", "metadata"}
_QUERY_KEYS = {"text", "image", "instruction"}


def _certainly_valid(value: Any) -> bool:
    """Whether the schema would accept the line, answered at once for lines as programs write them.

    The schema itself takes 90 µs a line, half a minute on a usual training set; it is asked about all others.
    """
    if type(value) is not dict or not value.keys() <= _KEYS:
        return False
    batch, metadata = value.get("batch", 0), value.get("metadata", {})
    query = value.get("query")
    texts = [value.get("id", "x"), value.get("source", "x")]
    if type(query) is dict:
        texts += query.values()
    else:
        texts.append(query)
    positives, negatives = value.get("positives"), value.get("negatives", [])
    return (
        (type(query) is not dict or query.keys() <= _QUERY_KEYS)
        and (type(batch) is int and batch >= 0 and type(metadata) is dict)
        and all(type(text) is str and text for text in texts)
        and _are_ids(positives)
        and (negatives == [] or _are_ids(negatives))
    )


def _are_ids(value: Any) -> bool:
    return (
        type(value) is list
        and bool(value)
        and all(type(id) is str and id for id in value)
        and len(set(value)) == len(value)
    )
