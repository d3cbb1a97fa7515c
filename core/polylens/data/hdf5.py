"""Opens HDF5 files that nobody vouches for.

A data set may claim terabytes that take no room in the file, may lie in another file of the machine, or may be a link
to one. None of these is read: what is read lies in the file, and is no larger than it. Nor are strings whose heap is
damaged, over which HDF5 would never end.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py

from polylens.data.hdf5_heaps import check_heaps
from polylens.errors import InputError

__all__ = ["HDF5_ERRORS", "open_hdf5", "plain_dataset"]

HDF5_ERRORS = (OSError, LookupError, RuntimeError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)
"""What h5py raises on damaged files; which of them is a matter of chance."""

_LEAST_CHUNK = 2**20
"""Bytes that a chunk may take in a file that is smaller."""


def open_hdf5(path: Path) -> h5py.File:
    """The file, for reading.

    Raises:
        InputError: it is not there, or no HDF5 file.
    """
    try:
        # A finished file is never written again; locks fail on some network file systems.
        return h5py.File(path, "r", locking=False)
    except HDF5_ERRORS as error:
        raise InputError(f"{path} is not a readable HDF5 file: {error}") from error


def plain_dataset(group: Any, name: str) -> h5py.Dataset:
    """A data set whose bytes lie in this file.

    Raises:
        ValueError: it is something else, or claims more than the file can hold.
        KeyError, RuntimeError, OSError: it is not there, or damaged; see ``HDF5_ERRORS``.
    """
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is a link to another place")
    data = group[name]
    if not isinstance(data, h5py.Dataset) or data.shape is None:
        raise ValueError(f"{name!r} is no data set with values")
    if data.is_virtual or data.external is not None:
        raise ValueError(f"the values of {name!r} lie in another file")
    held = int(data.file.id.get_filesize())
    chunk = math.prod(data.chunks or ()) * data.dtype.itemsize
    if math.prod(data.shape) * data.dtype.itemsize > held or chunk > max(held, _LEAST_CHUNK):
        raise ValueError(f"{name!r} claims {data.shape} values, more than the file can hold")
    if h5py.check_string_dtype(data.dtype) is not None and data.dtype.hasobject:
        check_heaps(data)
    return data
