"""The heaps in which HDF5 keeps strings, walked before HDF5 does: over a damaged one it goes on for ever."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import h5py

__all__ = ["check_heaps"]

_REFERENCE = struct.Struct("<IQI")
"""Of a string: its length, the address of its heap, and its number there."""

_HEADER = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<H6xQ")
_UNDEFINED = 2**64 - 1


def check_heaps(data: h5py.Dataset) -> None:
    """Walk the heaps of a data set of strings of any length ("global heap", HDF5 File Format Specification, III.E).

    Strings that lie in the header of the data set, or are compressed, are not looked at: this library writes none.

    Raises:
        ValueError: a heap is damaged.
    """
    file = data.file.id
    if file.get_create_plist().get_sizes() != (8, 8):
        raise ValueError("its addresses are not those of a file that h5py writes")
    descriptor, start = file.get_vfd_handle(), data.file.userblock_size
    heaps = {heap for place in _places(data) for heap in _heaps(descriptor, start, *place)}
    for heap in sorted(heaps - {0, _UNDEFINED}):
        _walk(descriptor, start + heap, int(file.get_filesize()))


def _places(data: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Offsets and sizes of the references."""
    if data.chunks is None:
        if data.id.get_offset() is not None:
            yield data.id.get_offset(), data.id.get_storage_size()
    elif not data.id.get_create_plist().get_nfilters():
        for number in range(data.id.get_num_chunks()):
            chunk = data.id.get_chunk_info(number)
            yield chunk.byte_offset, chunk.size


def _heaps(descriptor: int, start: int, offset: int, size: int) -> set[int]:
    read = os.pread(descriptor, size, start + offset)
    whole = read[: len(read) // _REFERENCE.size * _REFERENCE.size]
    return {heap for _, heap, _ in _REFERENCE.iter_unpack(whole)}


def _walk(descriptor: int, start: int, held: int) -> None:
    signature, _, size = _header(_HEADER, descriptor, start)
    if signature != b"GCOL" or size > held:
        raise ValueError("there is no heap where its strings should be")
    place = _HEADER.size
    while place + _OBJECT.size <= size:
        number, length = _header(_OBJECT, descriptor, start + place)
        if number == 0:  # what is free reaches to the end; HDF5 would look for more behind it
            if length != size - place:
                raise ValueError("the heap of its strings is damaged")
            return
        place += _OBJECT.size + -(-length // 8) * 8
    if place > size:
        raise ValueError("the heap of its strings is damaged")


def _header(kind: struct.Struct, descriptor: int, place: int) -> tuple:
    data = os.pread(descriptor, kind.size, place)
    if len(data) < kind.size:
        raise ValueError("the heap of its strings lies behind the end of the file")
    return kind.unpack(data)
