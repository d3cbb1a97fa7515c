"""Shows single records: what they hold, and their pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from polylens.contracts import ImageRef, Record
from polylens.data.conversations import ConversationReader, conversation_files
from polylens.data.documents import Document, DocumentSource
from polylens.data.images import decode_image, image_size
from polylens.data.ocr.lines import scan_ocr
from polylens.data.ocr.records import OcrRecord
from polylens.data.pairs import Pair, PairReader, jsonl_files, read_queries
from polylens.data.records import Quarantine
from polylens.data.store import open_documents
from polylens.data.validate import Kind, detect_kind
from polylens.errors import InputError, closest

__all__ = ["find_records", "save_picture"]


def find_records(path: str | Path, *, kind: Kind | None = None, id: str | None = None, limit: int = 5) -> list[Any]:
    """The first records of a file, or the one of this id, ready for JSON.

    Raises:
        InputError: there is no record of this id.
    """
    path = Path(path)
    kind = kind or detect_kind(path)
    if kind == "documents":
        source = open_documents([path])
        ids = source.ids()[:limit] if id is None else [id]
        return [_document(source.read(name)) for name in ids]
    if kind == "conversations":
        records: Iterator[Pair | Record | OcrRecord] = _conversations(path)
    elif kind == "ocr":
        records = _ocr(path)
    else:
        records = iter(read_queries(path)) if kind == "queries" else _pairs(path)
    known: list[str] = []
    found = []
    for record in islice(records, limit if id is None else None):
        name = _name(record)
        known.append(name)
        if id in (None, name):
            found.append(_shown(record, kind))
    if id is not None and not found:
        raise InputError(f"there is no record {id!r} in {path}{closest(id, known)}")
    return found


def _name(record: Pair | Record | OcrRecord) -> str:
    return str(record.image.value) if isinstance(record, OcrRecord) else record.id


def _shown(record: Pair | Record | OcrRecord, kind: Kind) -> dict[str, Any]:
    if isinstance(record, Pair):
        return _pair(record)
    if isinstance(record, OcrRecord):
        return {**asdict(record), "image": _part(record.image)}
    return _conversation(record) if kind == "conversations" else _record(record)


def _conversation(record: Record) -> dict[str, Any]:
    turns = [{turn.role: [_part(part) for part in turn.parts]} for turn in record.messages]
    return {"id": record.id, "where": record.where, "turns": turns}


def _pairs(path: Path) -> Iterator[Pair]:
    with Quarantine("error") as bad:
        reader = PairReader(None, "", bad, check_documents=False)
        for file in jsonl_files([path]):
            yield from reader.read(file)


def _ocr(path: Path) -> Iterator[OcrRecord]:
    with Quarantine("error") as bad:
        for _, record in scan_ocr(jsonl_files([path]), bad):
            yield record


def _conversations(path: Path) -> Iterator[Record]:
    with Quarantine("error") as bad:
        reader = ConversationReader(None, bad, answered=False, check_documents=False)
        for file in conversation_files([path]):
            yield from reader.read(file)


def _pair(pair: Pair) -> dict[str, Any]:
    value = {**_record(pair.query), "positives": pair.positives, "negatives": pair.negatives, "source": pair.source}
    return value if pair.batch < 0 else {**value, "batch": pair.batch}


def _record(record: Record) -> dict[str, Any]:
    return {"id": record.id, "where": record.where, "query": [_part(part) for part in record.messages[0].parts]}


def _part(part: str | ImageRef) -> str | dict[str, Any]:
    if isinstance(part, str):
        return part
    return {part.kind: f"{len(part.value)} bytes" if isinstance(part.value, bytes) else part.value}


def _document(document: Document) -> dict[str, Any]:
    value: dict[str, Any] = {"id": document.id}
    if document.image is not None:
        width, height = image_size(document.image, f"picture of document {document.id!r}")
        value |= {"width": width, "height": height, "bytes": len(document.image)}
    return value | ({"text": document.text} if document.text else {})


def save_picture(documents: DocumentSource, id: str, output: Path) -> tuple[int, int]:
    """Write a document's picture in the format of the file's ending; return width and height.

    Raises:
        InputError: the document has no picture, or the ending stands for no format.
    """
    document = documents.read(id)
    if document.image is None:
        raise InputError(f"document {id!r} has no picture")
    image = decode_image(document.image, f"picture of document {id!r}")
    buffer = io.BytesIO()
    try:
        image.save(buffer, {".jpg": "JPEG"}.get(output.suffix.lower(), output.suffix[1:].upper()))
    except KeyError:
        raise InputError(f"{output}: no picture format has the ending {output.suffix!r}; use .png or .jpg") from None
    output.write_bytes(buffer.getvalue())
    return image.size
