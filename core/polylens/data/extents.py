"""Reads the bytes of an HDF5 data set from the places in its file where they lie.

HDF5 reads whole chunks through a cache, under a lock, with handles that no other process may share; for a page out of
a large shard that takes several times as long as reading a file of the same size.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path

import h5py
import numpy as np

__all__ = ["Extents"]


class Extents:
    """The places of a chunked, one-dimensional data set of uint8 that is not written any more.

    Holds no open file, and can be pickled.

    Raises:
        ValueError: the data set is compressed or not in chunks, or a part of it was never written.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        if not dataset.chunks or dataset.id.get_create_plist().get_nfilters():
            raise ValueError(f"{dataset.name!r} is compressed, or not in chunks")
        chunks: list[tuple[int, int]] = []
        dataset.id.chunk_iter(lambda chunk: chunks.append((chunk.chunk_offset[0], chunk.byte_offset)))
        starts, places = np.array(sorted(chunks), dtype=np.int64).reshape(-1, 2).T
        size = dataset.chunks[0]
        if not np.array_equal(starts, np.arange(0, len(dataset), size)):
            raise ValueError(f"parts of {dataset.name!r} are missing")
        # Neighbours in the data set are mostly neighbours in the file: only where that ends is noted.
        first = np.flatnonzero(np.diff(places, prepend=-1) != size)
        self._starts: list[int] = starts[first].tolist()
        self._places: list[int] = places[first].tolist()
        self._end = len(dataset)

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
