"""Finds everything that is wrong in a data file, instead of stopping at the first error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from polylens.data.conversations import ConversationReader, conversation_files
from polylens.data.documents import Document, DocumentSource
from polylens.data.images import ImageOpener, decode_image
from polylens.data.legacy import inline_id, read_document
from polylens.data.ocr.lines import require_size, scan_ocr
from polylens.data.pairs import PairReader, jsonl_files, read_query
from polylens.data.records import BadRecord, Line, parse_line, scan_jsonl, scan_records
from polylens.data.store import open_documents
from polylens.errors import InputError

__all__ = ["KINDS", "Findings", "Kind", "detect_kind", "validate"]

Kind = Literal["pairs", "conversations", "queries", "documents", "ocr"]
KINDS: tuple[Kind, ...] = ("pairs", "conversations", "queries", "documents", "ocr")


@dataclass
class Findings:
    """What is wrong in a file.

    Attributes:
        kind: what the file was read as.
        records: lines or documents that were looked at.
        bad: those of them that are no valid record.
        problems: one message each: ``file:line: record id: /json/pointer: what was found, what is allowed``.
    """

    kind: Kind
    records: int = 0
    bad: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, line: Line, error: InputError) -> None:
        """Note a bad record."""
        self.bad += 1
        if not isinstance(error, BadRecord):
            self.problems.append(str(error))
            return
        name = _record_name(line)
        self.problems += [f"{error.where}: {name}{problem}" for problem in error.problems]

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note an ``InputError`` of the block, and go on after it."""
        try:
            yield
        except InputError as error:
            self.problems.append(str(error))


def _record_name(line: Line) -> str:
    try:
        value = parse_line(line)
    except InputError:
        return ""
    names = ("id", "_id", "image", "document")
    id = next((value[name] for name in names if name in value), None) if isinstance(value, dict) else None
    return f"record {id!r}: " if isinstance(id, str | int) else ""


def detect_kind(path: Path) -> Kind:
    """What a file holds, by its name and its first line.

    Raises:
        InputError: it does not exist, is empty, or could be anything.
    """
    if not path.exists():
        raise InputError(f"there is no file or folder {str(path)!r}")
    if path.is_dir() and (not any(path.glob("*.jsonl")) or any(path.glob("*.h5")) or any(path.glob("corpus.jsonl"))):
        return "documents"
    if path.is_file() and path.suffix.lower() not in (".jsonl", ".json"):
        return "documents"
    for line in (line for file in jsonl_files([path]) for line in scan_records(file)):
        return _kind_of_line(path, line)
    raise InputError(f"{path} is empty")


def _kind_of_line(path: Path, line: Line) -> Kind:
    try:
        value = parse_line(line)
    except InputError:
        value = {}
    keys = value.keys() if isinstance(value, dict) else set()
    if keys & {"positives", "pos", "query"}:
        return "pairs"
    if "conversations" in keys:
        return "conversations"
    if keys & {"lines", "ocr"}:
        return "ocr"
    if "quer" in path.name.lower():
        return "queries"
    if keys & {"text", "image", "title"}:
        return "documents"
    raise InputError(f"{path} may hold pairs, conversations, queries, documents or OCR lines: say which with --kind")


def validate(
    path: str | Path,
    *,
    kind: Kind | None = None,
    documents: DocumentSource | None = None,
    image_root: Path | None = None,
) -> Findings:
    """Look at every record of a file, and at every picture that it holds or names by a path.

    Args:
        kind: what the file holds; found out by default.
        documents: what pairs, conversations and OCR files name; without them, ids are not checked.
        image_root: where relative picture paths start; by default the file's folder. Without it, pictures that an OCR
            file names are not looked at.
    """
    path = Path(path)
    findings = Findings(kind or detect_kind(path))
    if findings.kind == "pairs":
        _check_pairs(path, documents, image_root, findings)
    elif findings.kind == "conversations":
        _check_conversations(path, documents, image_root, findings)
    elif findings.kind == "ocr":
        _check_ocr(path, documents, image_root, findings)
    elif findings.kind == "queries":
        _check_lines(path, _check_query, findings)
    elif path.suffix.lower() in (".jsonl", ".json"):
        _check_lines(path, _DocumentLines(), findings)
    else:
        _check_store(path, findings)
    return findings


def _check_pairs(path: Path, documents: DocumentSource | None, root: Path | None, findings: Findings) -> None:
    reader = PairReader(documents, "", findings, check_documents=documents is not None)
    for file in jsonl_files([path]):
        images = ImageOpener(root or file.parent)
        for line, pair in tqdm(reader.lines(file), unit="pair", desc=file.name, disable=None):
            findings.records += 1
            for ref in pair.query.images:
                with findings.noted():
                    if ref.kind == "path":
                        images.open(ref, line.where)
    findings.records += findings.bad
    inline = reader.inline_documents()
    for id in tqdm(inline.ids(), unit="picture", desc="pictures", disable=None):
        with findings.noted():
            _check_picture(inline.read(id), inline.place(id))


def _check_conversations(path: Path, documents: DocumentSource | None, root: Path | None, findings: Findings) -> None:
    reader = ConversationReader(documents, findings, check_documents=documents is not None)
    for file in conversation_files([path]):
        images = ImageOpener(root or file.parent, documents)
        for line, record in tqdm(reader.lines(file), unit="conversation", desc=file.name, disable=None):
            findings.records += 1
            for ref in record.images:
                with findings.noted():
                    if ref.kind == "path" or documents is not None:
                        images.open(ref, f"{line.where}: record {record.id!r}")
    findings.records += findings.bad


def _check_ocr(path: Path, documents: DocumentSource | None, root: Path | None, findings: Findings) -> None:
    opener = ImageOpener(root, documents)
    for line, record in scan_ocr(jsonl_files([path]), findings, root):
        findings.records += 1
        if (documents if record.image.kind == "document" else root) is not None:
            with findings.noted():
                require_size(record, opener.size(record.image, line.where), line)
    findings.records += findings.bad


def _check_query(line: Line) -> str:
    record = read_query(line, "")
    for ref in record.images:
        if isinstance(ref.value, bytes):
            decode_image(ref.value, f"{line.where}: /image")
    return record.id


class _DocumentLines:
    """Checks documents one by one; a page that stands in several lines is decoded once."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, str]] = set()

    def __call__(self, line: Line) -> str | None:
        document = read_document(line)
        content = document.id, inline_id(document.image, document.text)
        if content in self._seen:
            return None
        self._seen.add(content)
        _check_picture(document, line.where)
        return document.id


def _check_lines(path: Path, check: Callable[[Line], str | None], findings: Findings) -> None:
    seen: dict[str, str] = {}
    for line in tqdm(scan_jsonl(path), unit="line", desc=path.name, disable=None):
        findings.records += 1
        try:
            id = check(line)
        except InputError as error:
            findings.add(line, error)
            continue
        first = line.where if id is None else seen.setdefault(id, line.where)
        if first != line.where:
            findings.add(line, BadRecord(line.where, [f"the id {id!r} is also that of {first}"]))


def _check_store(path: Path, findings: Findings) -> None:
    for part in _parts(path):
        with findings.noted():
            _check_part(open_documents([part]), part, findings)
    if not findings.problems and path.is_dir():
        with findings.noted():
            open_documents([path])


def _check_part(source: DocumentSource, part: Path, findings: Findings) -> None:
    for id in tqdm(source.ids(), unit="document", desc=part.name, disable=None):
        findings.records += 1
        with findings.noted():
            _check_picture(source.read(id), str(part))


def _parts(path: Path) -> Iterator[Path]:
    """The shards of a folder one by one, so that a damaged one does not hide the others."""
    shards = sorted(path.glob("*.h5")) if path.is_dir() else []
    yield from shards or [path]


def _check_picture(document: Document, where: str) -> None:
    if document.image is not None:
        decode_image(document.image, f"{where}: picture of document {document.id!r}")
