"""One file of the document store.

An HDF5 file with five one-dimensional, resizable data sets. Entry ``i`` of the last four belongs to document ``i``:

- ``blob``: uint8, 64 KiB chunks, not compressed: for each document its picture file, then its text in UTF-8.
- ``end``: uint64, where the document ends in ``blob``; it begins where the one before ends.
- ``text_bytes``: uint32, how many of its last bytes are text.
- ``crc32``: uint32, of the id in UTF-8, the document's bytes and, unless it is 0, ``text_bytes`` (little-endian).
- ``id``: UTF-8 strings.

A shard is written as ``<name>.h5.tmp`` and renamed when it is complete, so a ``.h5`` file is always whole. It is
written with HDF5's oldest format: a file of the newest one cannot be opened again after its writer was killed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from zlib_ng import zlib_ng

from polylens.background import Background
from polylens.data.documents import Document, check_id
from polylens.data.extents import Extents
from polylens.data.hdf5 import HDF5_ERRORS, open_hdf5, plain_dataset
from polylens.errors import InputError
from polylens.files import sync

__all__ = ["FORMAT", "ShardReader", "ShardWriter", "document_crc", "is_shard"]

FORMAT = 1
"""Version of this layout, kept in the attribute ``polylens_format``."""

_CHUNK = 64 * 1024
_FLUSH_DOCUMENTS = 64
_TABLES = 64 * 1024  # of HDF5 in one place: in its default 2 KiB they would cut the blob every 2 MiB
_MARGIN = 2**20  # of a write, for partly filled chunks and HDF5's own tables
_INDEX = {"end": np.uint64, "text_bytes": np.uint32, "crc32": np.uint32}


def document_crc(id: str, data: bytes, text_bytes: int) -> int:
    """The checksum that guards a document: its id, its bytes, and where its text begins."""
    crc = zlib_ng.crc32(data, zlib_ng.crc32(id.encode("utf-8")))
    return zlib_ng.crc32(text_bytes.to_bytes(4, "little"), crc) if text_bytes else crc


def is_shard(path: Path) -> bool:
    """Whether an HDF5 file is one of ours, by the attribute that every shard carries."""
    with open_hdf5(path) as file:
        try:
            return "polylens_format" in file.attrs
        except HDF5_ERRORS as error:
            raise InputError(f"{path} is not a readable HDF5 file: {error}") from error


class ShardReader:
    """A complete shard. It holds no open file, and can be pickled and shared by threads.

    Raises:
        InputError: the file is damaged, or of a newer format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            _check_format(file, path)
            self._ends, self._text_bytes, self._crcs = (_values(file, name, kind)[()] for name, kind in _INDEX.items())
            self._check_index(len(_values(file, "id", None)), len(_values(file, "blob", np.uint8)))
        self._verified = bytearray(len(self._ends))

    def ids(self) -> list[str]:
        """Ids in stored order."""
        with _opened(self.path) as file:
            return [check_id(value.decode("utf-8"), str(self.path)) for value in _values(file, "id", None)[()]]

    def read(self, id: str, position: int) -> Document:
        """The document at ``position``; its checksum is verified against ``id`` when it is read first."""
        start = int(self._ends[position - 1]) if position else 0
        try:
            data = self._extents.read(self.path, start, int(self._ends[position]))
        except OSError as error:
            raise InputError(f"document {id!r} in {self.path} cannot be read: {error}") from error
        text_bytes = int(self._text_bytes[position])
        if not self._verified[position]:
            if document_crc(id, data, text_bytes) != self._crcs[position]:
                raise InputError(f"document {id!r} in {self.path} is damaged: its checksum does not match")
            self._verified[position] = True
        cut = len(data) - text_bytes
        return Document(id, data[:cut] or None, data[cut:].decode("utf-8"))

    @cached_property
    def _extents(self) -> Extents:
        with _opened(self.path) as file:
            return Extents(_values(file, "blob", np.uint8))

    def _check_index(self, ids: int, blob: int) -> None:
        ends = self._ends.astype(np.int64)
        lengths = np.diff(ends, prepend=0)
        counts = {len(self._ends), len(self._text_bytes), len(self._crcs), ids}
        end = int(ends[-1]) if len(ends) else 0
        if len(counts) > 1 or not (lengths >= self._text_bytes).all() or end != blob:
            raise ValueError("its index does not fit its content")


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    with open_hdf5(path) as file:
        try:
            yield file
        except HDF5_ERRORS as error:
            raise InputError(f"the document store's file {path} is damaged: {error}") from error


def _values(file: h5py.File, name: str, kind: Any) -> h5py.Dataset:
    """A column of the shard; without ``kind``, of strings."""
    data = plain_dataset(file, name)
    fits = data.dtype == kind if kind is not None else h5py.check_string_dtype(data.dtype) is not None
    if data.ndim != 1 or not fits:
        raise ValueError(f"{name!r} holds {data.dtype} values of shape {data.shape}")
    return data


def _check_format(file: Any, path: Path) -> None:
    found = int(file.attrs.get("polylens_format", 0))
    if found != FORMAT:
        raise InputError(f"{path} has document store format {found}; this version of polylens reads format {FORMAT}")


class ShardWriter:
    """Appends documents to ``<path>.tmp``; ``finish`` makes it ``path``.

    An unfinished file of a killed writer is taken up again: every document in it is checked, and those up to the last
    whole one are copied.

    Args:
        path: of the finished shard.
        flush_bytes: documents are held in memory up to this size, or up to 64 of them, then written: data first,
            index after it.
    """

    def __init__(self, path: Path, *, flush_bytes: int = 16 * 2**20) -> None:
        self.path, self._flush_bytes = path, flush_bytes
        self._temporary = path.with_name(path.name + ".tmp")
        self._pending: list[tuple[str, bytes, int]] = []
        self._pending_bytes = 0
        self.ids: list[str] = []
        if self._temporary.exists():
            self._take_up()
        else:
            self._create(self._temporary)

    def __len__(self) -> int:
        return len(self.ids)

    def write(self, document: Document) -> None:
        """Append a document whose id is new.

        Raises:
            OSError: the disk is full; what was flushed before is safe.
        """
        text = document.text.encode("utf-8")
        self._add(document.id, (document.image or b"") + text, len(text))

    def _add(self, id: str, data: bytes, text_bytes: int) -> None:
        self._pending.append((id, data, text_bytes))
        self._pending_bytes += len(data)
        self.ids.append(id)
        if self._pending_bytes >= self._flush_bytes or len(self._pending) >= _FLUSH_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the operating system: from here on a kill loses none of it."""
        if not self._pending:
            return
        ids, blobs, text_bytes = zip(*self._pending, strict=True)
        start = self._end()
        self._reserve(sum(map(len, blobs)))
        ends = start + np.cumsum([len(data) for data in blobs], dtype=np.uint64)
        self._append_blobs(blobs, start)
        self._file.flush()
        crcs = [document_crc(*pending) for pending in self._pending]
        self._reserve(sum(map(len, ids)) * 4)
        for name, values in (("end", ends), ("text_bytes", text_bytes), ("crc32", crcs), ("id", ids)):
            self._append(name, values)
        self._file.flush()
        if not self._sync.busy:  # what reaches the disk now need not be waited for in the end
            self._sync.start(os.fdatasync, self._file.id.get_vfd_handle())
        self._pending, self._pending_bytes = [], 0

    def finish(self) -> None:
        """Write what is left, make it last through a power cut, and give the shard its final name."""
        self.flush()
        if Extents(self._file["blob"]) != self._extents:
            raise RuntimeError(f"{self._temporary}: HDF5 has noted other places than those that were written to")
        self._reserve(0)
        self._sync.end()
        self._file.close()
        _trim(self._temporary)
        sync(self._temporary)
        os.replace(self._temporary, self.path)
        sync(self.path.parent)

    def abandon(self) -> None:
        """Close without finishing; the next writer takes the file up where its last whole document ends."""
        self._pending, self._pending_bytes = [], 0
        with suppress(OSError):
            self._sync.end()
        self._file.close()

    def discard(self) -> None:
        """Close and delete: for a shard in which nothing was written."""
        self.abandon()
        self._temporary.unlink()

    def _create(self, path: Path) -> None:
        self._file: Any = _create(path)
        self._extents = Extents(self._file["blob"])
        self._sync = Background()

    def _reserve(self, size: int) -> None:
        """Take the space of the next write now: HDF5 crashes the process when a disk is full under it.

        ``finish`` gives back what was not needed.

        Raises:
            OSError: there is not enough space.
        """
        descriptor = self._file.id.get_vfd_handle()
        try:
            os.posix_fallocate(descriptor, self._file.id.get_filesize(), size + _MARGIN)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def _end(self) -> int:
        ends = self._file["end"]
        return int(ends[-1]) if len(ends) else 0

    def _append(self, name: str, values: Any) -> None:
        dataset = self._file[name]
        start = len(dataset)
        dataset.resize((start + len(values),))
        dataset[start:] = values

    def _append_blobs(self, blobs: Sequence[bytes], start: int) -> None:
        dataset = self._file["blob"]
        dataset.resize((start + sum(map(len, blobs)),))
        self._extents.grow(dataset)
        for data in blobs:
            self._extents.write(self._file.id.get_vfd_handle(), start, data)
            start += len(data)

    def _take_up(self) -> None:
        """Copy what a killed writer left: HDF5 may have noted places beyond the end that it had noted of the file, and
        would fail when it writes there."""
        fresh = self._temporary.with_name(f"{self._temporary.name}.new")
        self._create(fresh)
        for document in _whole_documents(self._temporary):
            self._add(*document)
        self.flush()
        os.replace(fresh, self._temporary)


def _whole_documents(path: Path) -> Iterator[tuple[str, bytes, int]]:
    """Id, bytes and length of the text of each document of an unfinished file, up to the first that is not whole.

    Raises:
        InputError: another process is writing the file.
    """
    try:
        with h5py.File(path, "r") as file:
            start = 0
            for id, end, text_bytes, crc in _entries(file):
                data = file["blob"][start:end].tobytes()  # type: ignore[index]
                if not id or len(data) != end - start or document_crc(id, data, text_bytes) != crc:
                    return
                yield id, data, text_bytes
                start = end
    except BlockingIOError:
        raise InputError(f"another process is writing {path}") from None
    except HDF5_ERRORS:
        return  # killed in the middle of a write: nothing behind this place can be read


def _entries(file: Any) -> Iterator[tuple[str, int, int, int]]:
    """The index, a flush at a time: a part that cannot be read leaves what is before it."""
    for start in range(0, len(file["id"]), _FLUSH_DOCUMENTS):
        part = slice(start, start + _FLUSH_DOCUMENTS)
        ids = [value.decode("utf-8") for value in file["id"][part]]
        yield from zip(ids, *(file[name][part].tolist() for name in _INDEX), strict=False)


def _create(path: Path) -> h5py.File:
    file = h5py.File(path, "w", meta_block_size=_TABLES)
    file.attrs["polylens_format"] = FORMAT
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)  # so that resizing sets all places, to which ``Extents`` writes
    file.create_dataset("blob", (0,), np.uint8, maxshape=(None,), chunks=(_CHUNK,), fill_time="never", dcpl=early)
    for name, kind in _INDEX.items():
        file.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(1024,))
    file.create_dataset("id", (0,), h5py.string_dtype("utf-8"), maxshape=(None,), chunks=(1024,))
    file.flush()
    return file


def _trim(path: Path) -> None:
    """Cut off what was reserved and not used, behind the end that the superblock (version 0) notes at byte 40."""
    with path.open("rb") as file:
        superblock = file.read(48)
    if superblock[8] == 0:
        os.truncate(path, int.from_bytes(superblock[40:48], "little"))


def shard_name(prefix: str, number: int) -> str:
    """The file name of a shard.

    >>> shard_name("documents", 17)
    'documents-00017.h5'
    """
    return f"{prefix}-{number:05d}.h5"


def sealed_shards(folder: Path) -> Sequence[Path]:
    """The finished shards of a folder, in order of name."""
    return sorted(folder.glob("*.h5"))
