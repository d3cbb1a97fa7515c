"""What retrieval finds: a document (a page picture, a text, or both), and where documents come from."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from polylens.errors import InputError, closest

__all__ = ["Document", "DocumentSource", "DocumentUnion", "IndexedDocuments", "OpenFiles", "check_id", "group_of"]


@dataclass(frozen=True, slots=True)
class Document:
    """A page picture as its original file bytes, a text, or both."""

    id: str
    image: bytes | None = None
    text: str = ""


class DocumentSource(Protocol):
    """Documents by id. Sources can be pickled and read from any number of processes."""

    def __len__(self) -> int: ...

    def __contains__(self, id: object, /) -> bool: ...

    def ids(self) -> Sequence[str]:
        """Every id, in stored order."""
        ...

    def read(self, id: str) -> Document:
        """The document of this id; ``InputError`` if there is none, or if it is damaged."""
        ...


class IndexedDocuments(ABC):
    """A source that knows all its ids; subclasses read a document by its position.

    Args:
        name: what messages call this source: its file or folder.
        ids: in stored order, all different.
    """

    def __init__(self, name: str, ids: Sequence[str]) -> None:
        self.name = name
        self._ids = ids
        self._positions = {id: position for position, id in enumerate(ids)}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: object) -> bool:
        return id in self._positions

    def ids(self) -> Sequence[str]:
        return self._ids

    def read(self, id: str) -> Document:
        position = self._positions.get(id)
        if position is None:
            raise InputError(missing(id, self))
        return self._read(id, position)

    @abstractmethod
    def _read(self, id: str, position: int) -> Document: ...


class DocumentUnion(IndexedDocuments):
    """Several sources that read as one; no id may lie in two of them."""

    def __init__(self, sources: Sequence[IndexedDocuments]) -> None:
        owners: dict[str, int] = {}
        for number, source in enumerate(sources):
            for id in source.ids():
                if owners.setdefault(id, number) != number:
                    first = sources[owners[id]].name
                    raise InputError(f"document {id!r} is stored twice: in {first} and in {source.name}")
        super().__init__(", ".join(source.name for source in sources), list(owners))
        self._sources = list(sources)
        self._owners = list(owners.values())

    def _read(self, id: str, position: int) -> Document:
        return self._sources[self._owners[position]].read(id)


def missing(id: str, source: IndexedDocuments | DocumentSource) -> str:
    """The message for an id that a source does not have, with the nearest id among its own."""
    ids = source.ids()
    near = [other for other in ids if group_of(other) == group_of(id)] or list(islice(ids, 1000))
    name = getattr(source, "name", "the given documents")
    return f"there is no document {id!r} in {name}, which has {len(ids)} documents{closest(id, near[:1000])}"


def group_of(id: str) -> str:
    """The file that a page belongs to: what stands before the last ``#`` of its id, or the id itself.

    >>> group_of("manuals/pump.pdf#12")
    'manuals/pump.pdf'
    """
    return id.rpartition("#")[0] or id


def check_id(id: str, where: str) -> str:
    """The id itself if HDF5, JSON and TREC files can all hold it.

    Raises:
        InputError: it is empty, or has characters that are no valid Unicode, or a NUL.
    """
    try:
        id.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: the id {id!r} is not valid Unicode (a lone surrogate)") from None
    if not id or "\0" in id:
        raise InputError(f"{where}: the id {id!r} must have at least one character, and no NUL")
    return id


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class OpenFiles(Generic[T]):
    """Files kept open for reading: own handles in each process, closed when too many are open.

    HDF5 handles must not be shared between processes and cannot be pickled, so a copy in another process starts
    empty.

    Args:
        open: opens a path; must be picklable.
        limit: handles kept open at once.
    """

    def __init__(self, open: Callable[[Path], T], limit: int = 64) -> None:
        self._open, self._limit = open, limit
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._handles: OrderedDict[Path, T] = OrderedDict()

    @contextmanager
    def use(self, path: Path) -> Iterator[T]:
        """The open file, for this thread alone."""
        if self._process != os.getpid():
            self._start()
        with self._lock:
            handle = self._handles.pop(path, None) or self._open(path)
            self._handles[path] = handle
            while len(self._handles) > self._limit:
                self._handles.popitem(last=False)[1].close()
            yield handle

    def __getstate__(self) -> tuple[Callable[[Path], T], int]:
        return self._open, self._limit

    def __setstate__(self, state: tuple[Callable[[Path], T], int]) -> None:
        self._open, self._limit = state
        self._start()
