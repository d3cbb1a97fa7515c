"""The document store: folders of HDF5 shards that read as one source of documents."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from polylens.background import Background
from polylens.config import schemas
from polylens.data.documents import Document, DocumentSource, DocumentUnion, IndexedDocuments, check_id
from polylens.data.records import parse_line, scan_jsonl
from polylens.data.shards import FORMAT, ShardReader, ShardWriter, is_shard, sealed_shards, shard_name
from polylens.errors import InputError
from polylens.files import locked, uninterrupted

__all__ = ["Document", "DocumentSource", "DocumentStore", "DocumentWriter", "open_documents"]

MANIFEST = "manifest.jsonl"
"""One line per finished shard; see ``schemas/document_manifest.schema.json``."""


class DocumentStore(IndexedDocuments):
    """Shards that ``DocumentWriter`` wrote, read as one source.

    Args:
        paths: folders of shards, or single shards, in any number.

    Raises:
        InputError: a path has no shards, a shard is missing or damaged, or an id is stored twice.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._shards = [ShardReader(shard) for path in paths for shard in _shards_of(Path(path))]
        self._places: list[tuple[int, int]] = []
        ids: dict[str, int] = {}
        for number, shard in enumerate(self._shards):
            for position, id in enumerate(shard.ids()):
                first = ids.setdefault(id, number)
                if first != number:
                    where = f"in {self._shards[first].path} and in {shard.path}"
                    raise InputError(f"document {id!r} is stored twice: {where}")
                self._places.append((number, position))
        super().__init__(", ".join(map(str, paths)), list(ids))
        if len(ids) != len(self._places):
            raise InputError(f"a document is stored twice within one file of {self.name}")

    def _read(self, id: str, position: int) -> Document:
        shard, place = self._places[position]
        return self._shards[shard].read(id, place)


def open_documents(paths: Sequence[str | Path]) -> DocumentSource:
    """Documents of any layout that polylens reads, as one source.

    Args:
        paths: folders of our shards; HDF5 files of our layout or the original one (a group per document with a base64
            picture); JSONL files of documents (BEIR's ``corpus.jsonl``, the original's ``*-docs.jsonl``), or folders
            that hold one.

    Raises:
        InputError: a path is none of these, or an id occurs in two of them.
    """
    if not paths:
        raise InputError("no document store was given")
    sources = [_open(Path(path)) for path in paths]
    return sources[0] if len(sources) == 1 else DocumentUnion(sources)


def _open(path: Path) -> IndexedDocuments:
    from polylens.data.legacy import Hdf5Documents, JsonlDocuments

    if not path.exists():
        raise InputError(f"the document store {path} does not exist")
    if path.is_dir():
        lines = sorted({*path.glob("corpus.jsonl"), *path.glob("*-docs.jsonl")})
        if lines and not sealed_shards(path):
            return JsonlDocuments(lines[0]) if len(lines) == 1 else DocumentUnion([JsonlDocuments(p) for p in lines])
        foreign = [shard for shard in sealed_shards(path) if not is_shard(shard)]
        if foreign:
            return DocumentUnion([_open(shard) for shard in sealed_shards(path)])
        return DocumentStore([path])
    if path.suffix.lower() in (".jsonl", ".json"):
        return JsonlDocuments(path)
    return DocumentStore([path]) if is_shard(path) else Hdf5Documents(path)


def _shards_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"the document store {path} does not exist")
    shards = list(sealed_shards(path))
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    for entry in _manifest(path):
        size = sizes.get(entry["shard"])
        if size != entry["bytes"]:
            found = "is not there" if size is None else f"has {size} bytes instead of {entry['bytes']}"
            raise InputError(
                f"the document store {path} is not whole: {MANIFEST} names {entry['shard']}, which {found}"
            )
    if not shards:
        raise InputError(f"{path} is no document store: it has no *.h5 file; 'polylens data render' makes one")
    return shards


def _manifest(folder: Path) -> Iterator[dict]:
    path = folder / MANIFEST
    if not path.exists():
        return
    for line in scan_jsonl(path):
        try:
            entry = parse_line(line)
            schemas.check("document_manifest", entry, line.where)
        except InputError as error:
            raise InputError(f"{error}; delete this damaged line, the shards count") from None
        yield entry


class DocumentWriter:
    """Appends documents to a folder, shard by shard, and goes on where a killed writer of the same shards stopped.

    Use it as a context manager. On leaving, also by Ctrl-C, what was written becomes readable; after a failed write
    (a full disk) the unfinished shard is left as it is, and the next writer saves what is whole in it.

    Args:
        folder: made if it does not exist.
        shard: first part of the shards' names. Two writers may share a folder, but not this name.
        documents_per_shard: a shard is finished after so many.

    Raises:
        InputError: another process writes these shards.
    """

    def __init__(self, folder: str | Path, shard: str = "documents", documents_per_shard: int = 4096) -> None:
        if not re.fullmatch(r"[\w-]+", shard):
            raise InputError(f"the name of a shard has letters, digits, '_' and '-' only, not {shard!r}")
        self._folder, self._prefix, self._limit = Path(folder), shard, documents_per_shard
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder / f".{shard}.lock")
        _repair_manifest(self._folder)
        self._ids = {id for path in sealed_shards(self._folder) for id in ShardReader(path).ids()}
        self._shard: ShardWriter | None = self._start()
        self._ids.update(self._shard.ids)
        self._notes = Background()

    def __contains__(self, id: object) -> bool:
        return id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def write(self, document: Document) -> None:
        """Store a document.

        Raises:
            InputError: its id is taken or not allowed, or it has neither picture nor text.
        """
        id = check_id(document.id, "document store")
        if id in self._ids:
            raise InputError(f"document {id!r} is already in {self._folder}")
        if not document.image and not document.text:
            raise InputError(f"document {id!r} has neither a picture nor a text")
        with uninterrupted():
            if self._shard is None:
                self._shard = self._start()
            self._shard.write(document)
            self._ids.add(id)
            if len(self._shard) >= self._limit:
                self._seal()

    def flush(self) -> None:
        """From here on a kill loses nothing that was written before."""
        with uninterrupted():
            if self._shard is not None:
                self._shard.flush()

    def close(self) -> None:
        """Finish the last shard.

        Raises:
            InputError: the disk is full.
        """
        with uninterrupted():
            try:
                self._seal()
                self._notes.end()
            except OSError as error:
                self._stop(error)
            finally:
                self._lock.close()

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, OSError):
            self._stop(error)
        self.close()

    def _stop(self, error: OSError) -> None:
        """Leave the unfinished shard to the next writer."""
        shard, self._shard = self._shard, None
        with suppress(OSError):
            self._notes.end()
        if shard is not None:
            shard.abandon()
            self._lock.close()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"{self._folder}: {error.strerror}; what was stored is kept: make room and start again"
            ) from error
        raise error

    def _start(self) -> ShardWriter:
        pattern = re.compile(re.escape(self._prefix) + r"-(\d+)\.h5")
        taken = [int(m[1]) for path in sealed_shards(self._folder) if (m := pattern.fullmatch(path.name))]
        return ShardWriter(self._folder / shard_name(self._prefix, max(taken, default=-1) + 1))

    def _seal(self) -> None:
        shard = self._shard
        if shard is None:
            return
        if len(shard):
            shard.finish()
        else:
            shard.discard()
        self._shard = None
        if len(shard):
            # It is read once more for its line, while the next one is filled.
            self._notes.start(_note, shard.path, len(shard))


def _locked(path: Path) -> IO[str]:
    lock = locked(path)
    if lock is None:
        raise InputError(f"another process is writing to {path.parent}; wait, or choose another folder")
    return lock


def _repair_manifest(folder: Path) -> None:
    """Complete what a writer that was killed between renaming a shard and noting it has left undone."""
    path = folder / MANIFEST
    if path.exists():
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if torn:
            os.truncate(path, len(whole) + 1 if whole else 0)
    noted = {line["shard"] for line in _manifest(folder)}
    for shard in sealed_shards(folder):
        if shard.name not in noted:
            _note(shard, len(ShardReader(shard).ids()))


def _note(shard: Path, documents: int) -> None:
    """Give a finished shard its line of the manifest."""
    with shard.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entry = {
        "shard": shard.name,
        "documents": documents,
        "bytes": shard.stat().st_size,
        "sha256": digest,
        "format": FORMAT,
    }
    _append_line(shard.with_name(MANIFEST), entry)


def _append_line(path: Path, entry: dict) -> None:
    # One write of a short line to a file opened for appending does not mix with another writer's.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(entry) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
