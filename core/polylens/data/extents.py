"""Reads and writes the bytes of an HDF5 data set at the places in its file where they lie.

HDF5 reads whole chunks through a cache, under a lock, with handles that no other process may share; for a page out of
a large shard that takes several times as long as reading a file of the same size. It writes chunk by chunk through the
same cache, which takes four times as long.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path

import h5py
import numpy as np

__all__ = ["Extents"]


class Extents:
    """The places of a chunked, one-dimensional data set of uint8, which grows through ``grow`` alone.

    Holds no open file, and can be pickled. Equal to one of the same places.

    Raises:
        ValueError: the data set is compressed or not in chunks, or a part of it was never written.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        if not dataset.chunks or dataset.id.get_create_plist().get_nfilters():
            raise ValueError(f"{dataset.name!r} is compressed, or not in chunks")
        chunks: list[tuple[int, int]] = []
        dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.chunk_offset[0], chunk.byte_offset)))
        starts, places = np.array(sorted(chunks), dtype=np.int64).reshape(-1, 2).T
        self._chunk: int = dataset.chunks[0]
        if not np.array_equal(starts, np.arange(0, len(dataset), self._chunk)):
            raise ValueError(f"parts of {dataset.name!r} are missing")
        # Neighbours in the data set are mostly neighbours in the file: only where that ends is noted.
        first = np.flatnonzero(np.diff(places, prepend=-2 * self._chunk) != self._chunk)
        self._starts: list[int] = starts[first].tolist()
        self._places: list[int] = places[first].tolist()
        self._end = len(dataset)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Extents) and vars(self) == vars(other)

    def grow(self, dataset: h5py.Dataset) -> None:
        """Take in what the data set has been resized to, of which HDF5 has set all places (``ALLOC_TIME_EARLY``).

        HDF5 tells the place of a chunk slowly, but sets those of one resizing in order: two that lie as far from each
        other in the file as in the data set have their own chunks between them, and nothing else.
        """
        first = -(-self._end // self._chunk) * self._chunk
        self._end = len(dataset)
        if first < self._end:
            self._add(dataset.id, first, (self._end - 1) // self._chunk * self._chunk)

    def _add(self, dataset: h5py.h5d.DatasetID, first: int, last: int) -> None:
        """Note the places of the chunks that begin at ``first`` to ``last``."""
        begin, end = (dataset.get_chunk_info_by_coord((start,)).byte_offset for start in (first, last))
        if end - begin == last - first:
            if not self._starts or begin - self._places[-1] != first - self._starts[-1]:
                self._starts.append(first)
                self._places.append(begin)
            return
        middle = (first + last) // (2 * self._chunk) * self._chunk
        self._add(dataset, first, middle)
        self._add(dataset, middle + self._chunk, last)

    def read(self, path: Path, start: int, stop: int) -> bytes:
        """Values ``start`` to ``stop`` of the data set in ``path``.

        Raises:
            OSError: the file cannot be read, or ends too early.
        """
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts = [_read(file, place, size) for place, size in self._parts(start, stop)]
        finally:
            os.close(file)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, file: int, start: int, data: bytes) -> None:
        """Make ``data`` the values from ``start`` on, in a file that is open under the descriptor ``file``.

        Raises:
            OSError: the file cannot be written.
        """
        rest = memoryview(data)
        for place, size in self._parts(start, start + len(data)):
            _write(file, place, rest[:size])
            rest = rest[size:]

    def _parts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Place and size in the file of each piece of a range."""
        parts = []
        run = bisect_right(self._starts, start) - 1
        while start < stop:
            after = self._starts[run + 1] if run + 1 < len(self._starts) else self._end
            end = min(stop, after)
            parts.append((self._places[run] + start - self._starts[run], end - start))
            start, run = end, run + 1
        return parts


def _read(file: int, place: int, size: int) -> bytes:
    data = os.pread(file, size, place)
    if len(data) != size:
        raise OSError(f"the file ends at {place + len(data)}, and {place + size} bytes are needed")
    return data


def _write(file: int, place: int, data: memoryview) -> None:
    while data:
        written = os.pwrite(file, data, place)
        place, data = place + written, data[written:]
