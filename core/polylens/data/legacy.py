"""Reads documents in the layouts of others: the original's HDF5 and JSONL files, and BEIR's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from polylens.config import schemas
from polylens.data.documents import Document, IndexedDocuments, OpenFiles, check_id
from polylens.data.hdf5 import HDF5_ERRORS, open_hdf5, plain_dataset
from polylens.data.records import BadRecord, Line, decode_base64, parse_line, scan_jsonl
from polylens.errors import InputError

__all__ = ["Hdf5Documents", "InlineDocuments", "JsonlDocuments", "document_id", "inline_id", "read_document"]

_ID_KEYS = ("_id", "id", "text_id", "sample_id", "filename")


def document_id(value: Any, where: str) -> str:
    """The id of a document or query line, under any of the names that BEIR and the original use.

    Raises:
        InputError: it has none of them, or the id is neither text nor a whole number.
    """
    if not isinstance(value, dict):
        raise InputError(f"{where}: a line must be a JSON object, not {type(value).__name__}")
    key = next((key for key in _ID_KEYS if value.get(key) is not None), None)
    if key is None:
        raise InputError(f"{where}: the line has no id; it is looked for under {', '.join(_ID_KEYS)}")
    id = value[key]
    if not isinstance(id, str | int) or isinstance(id, bool):
        raise InputError(f"{where}: /{key}: an id must be a string, not {type(id).__name__}")
    return check_id(str(id), where)


def _open_bytes(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


class Hdf5Documents(IndexedDocuments):
    """The original's picture store: a group per document, named by its id, with a base64 string ``image``.

    An id with ``/`` became groups within groups; it is put together again. Other data sets (``pdf``, ``source``, ...)
    are left alone. A group without a picture is a document that cannot be read; only groups of groups are none.

    Raises:
        InputError: the file is damaged, has no documents, or a group stands in it twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_hdf5(path) as file:
            try:
                pictures = {check_id(id, str(path)): whole for id, whole in _document_groups(file, "", set())}
            except HDF5_ERRORS as error:
                raise InputError(f"{path} is damaged: {error}") from error
        if not any(pictures.values()):
            raise InputError(f"{path} has no documents: no group in it holds a data set 'image', and it is no store")
        super().__init__(str(path), list(pictures))
        self._files = OpenFiles(open_hdf5)

    def _read(self, id: str, position: int) -> Document:
        where = f"{self._path}: document {id!r}"
        with self._files.use(self._path) as file:
            try:
                value = _picture(file, id)
            except HDF5_ERRORS as error:
                raise InputError(f"{where} cannot be read: {error}") from error
        return Document(id, decode_base64(value, where))


def _document_groups(group: Any, path: str, seen: set[int]) -> Iterator[tuple[str, bool]]:
    """Paths of groups that hold data sets or nothing, and of links; and whether they have a picture."""
    kinds = {name: _kind(group, name) for name in group}
    inside = [name for name, kind in kinds.items() if kind is h5py.Group]
    holds_data = any(kind not in (h5py.Group, None) for kind in kinds.values()) or "image" in kinds
    if path and (holds_data or not kinds):
        yield path, kinds.get("image") is h5py.Dataset
    for name in inside:
        child = group[name]
        if hash(child.id) in seen:
            raise ValueError(f"the group {name!r} stands in it twice")
        seen.add(hash(child.id))
        yield from _document_groups(child, f"{path}/{name}" if path else name, seen)
    for name, kind in kinds.items():
        if kind is None and name != "image":
            yield f"{path}/{name}" if path else name, False


def _kind(group: Any, name: str) -> type | None:
    """Of what lies in this file; ``None`` for a link to another place, which is not followed."""
    is_here = isinstance(group.get(name, getlink=True), h5py.HardLink)
    return group.get(name, getclass=True) if is_here else None


def _picture(file: h5py.File, id: str) -> bytes:
    group: Any = file
    for name in id.split("/"):
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{name!r} is a link to another place")
        group = group[name]
    if "image" not in group:
        raise ValueError("it has no picture: no data set 'image'")
    data = plain_dataset(group, "image")
    if data.shape != () or h5py.check_string_dtype(data.dtype) is None:
        raise ValueError(f"its picture is {data.dtype} of shape {data.shape}, not one base64 string")
    return data[()]


class JsonlDocuments(IndexedDocuments):
    """A JSONL file of documents, read by file offset: only ids and offsets are held in memory.

    A line has an id, and ``text`` (BEIR: also ``title``, which is put before it) or a base64 ``image``. The original
    writes a page once per query: lines that are equal count once.

    Raises:
        InputError: a line cannot be used, or two different documents have the same id.
    """

    def __init__(self, path: Path) -> None:
        places: dict[str, tuple[int, int, bytes, str]] = {}
        for line in scan_jsonl(path):
            value = parse_line(line)
            id, content = document_id(value, line.where), _content(value)
            _check_document(value, line.where)
            first = places.setdefault(id, (line.offset, len(line.data), content, line.where))
            if first[2] != content:
                raise InputError(f"{line.where}: document {id!r} is another one than that of {first[3]}")
        if not places:
            raise InputError(f"{path} has no documents")
        super().__init__(str(path), list(places))
        self._path = path
        self._places = [(offset, length) for offset, length, _, _ in places.values()]
        self._files = OpenFiles(_open_bytes)

    def _read(self, id: str, position: int) -> Document:
        offset, length = self._places[position]
        where = f"{self._path}: document {id!r}"
        return _document(id, _line_at(self._files, self._path, offset, length, where), where)


def _line_at(files: OpenFiles, path: Path, offset: int, length: int, where: str) -> Any:
    with files.use(path) as file:
        file.seek(offset)
        data = file.read(length)
    try:
        return parse_line(Line(path, 0, offset, data))
    except InputError:
        raise InputError(f"{where}: {path} has changed since it was opened") from None


def read_document(line: Line) -> Document:
    """The document of a line, with its picture decoded from base64.

    Raises:
        InputError: the line cannot be used.
    """
    value = parse_line(line)
    id = document_id(value, line.where)
    _check_document(value, line.where)
    return _document(id, value, f"{line.where}: /image")


def _check_document(value: dict, where: str) -> None:
    problems = schemas.errors("documents", value)
    if not problems and not _image(value) and not _text(value):
        problems = ["/text: the document has neither a text nor an image"]
    if problems:
        raise BadRecord(where, problems)


def _image(value: dict) -> Any:
    return value.get("image") or value.get("image_base64")


def _text(value: dict) -> str:
    title, text = value.get("title") or "", value.get("text") or ""
    return f"{title} {text}".strip() if title else text


def _content(value: dict) -> bytes:
    content = [value.get("title"), value.get("text"), _image(value)]
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


def _document(id: str, value: dict, where: str) -> Document:
    image = _image(value)
    return Document(id, decode_base64(image, where) if image else None, _text(value))


class InlineDocuments(IndexedDocuments):
    """Documents that the original's training JSONL carries in its lines, read by file offset.

    The id is a hash of the content, so that a page that stands in several lines is one document.
    """

    def __init__(self, name: str, places: dict[str, InlinePlace]) -> None:
        super().__init__(name, list(places))
        self._places = list(places.values())
        self._files = OpenFiles(_open_bytes)

    def _read(self, id: str, position: int) -> Document:
        path, _, offset, length, keys = self._places[position]
        part = pick_inline(_line_at(self._files, path, offset, length, f"document {id!r}"), keys)
        image, text = inline_content(part, f"document {id!r}")
        # The text beside the picture of a query belongs to the query.
        return Document(id, image, "" if keys == ("query",) else text)

    def place(self, id: str) -> str:
        """Where the document stands first: ``file:line: /json/pointer``."""
        path, number, _, _, keys = self._places[self._positions[id]]
        return f"{path}:{number}: /{'/'.join(map(str, keys))}"


InlinePlace = tuple[Path, int, int, int, tuple[str | int, ...]]
"""File, line number, offset and length of a line, and the keys that lead to the document in it."""


def pick_inline(value: Any, keys: tuple[str | int, ...]) -> Any:
    """Follow keys into a JSON value."""
    for key in keys:
        value = value[key]
    return value


def inline_content(value: dict, where: str) -> tuple[bytes | None, str]:
    """Picture and text of an inline document or query."""
    image = value.get("image")
    return (decode_base64(image, where) if image else None), value.get("text") or ""


def inline_id(image: bytes | None, text: str) -> str:
    """The id of an inline document: a hash of its content.

    >>> inline_id(None, "a page")
    'inline-cff1ff703559c62a63ddb774cc328473'
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(len(image or b"").to_bytes(8, "big"))
    digest.update(image or b"")
    digest.update(text.encode("utf-8"))
    return f"inline-{digest.hexdigest()}"
