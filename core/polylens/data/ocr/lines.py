"""The text lines of pictures, as OCR files tell them, found by picture."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from polylens.contracts import ImageRef
from polylens.data.ocr.records import OcrLine, OcrRecord, parse_record
from polylens.data.pairs import BadRecords
from polylens.data.records import BadRecord, Line, Quarantine, scan_jsonl
from polylens.errors import InputError

__all__ = ["OcrLine", "OcrLines", "picture_key", "read_ocr_lines", "require_size", "scan_ocr"]

_KEY = "S16"
_RUN = "run 'polylens data ocr' over all pictures and name its output"


class OcrLines:
    """Where in OCR files each picture stands.

    Lines are read from the files when they are asked for, so that a copy is 44 bytes a picture: it can be pickled, and
    given to any number of processes.

    Args:
        files: JSON Lines files, which must stay as they are.
        image_root: absolute; what absolute paths of pictures are taken to lie under.
        places: key of a picture -> number of the file, line (from 1), offset and length in bytes.
    """

    def __init__(
        self,
        files: Sequence[Path],
        image_root: Path | None,
        places: Mapping[bytes, tuple[int, int, int, int]],
    ) -> None:
        self._files, self._root = list(files), image_root
        keys = np.array(list(places), dtype=_KEY)
        order = np.argsort(keys)
        self._keys = keys[order]
        self._places = np.array(list(places.values()), dtype=np.int64).reshape(-1, 4)[order]

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, image: ImageRef) -> bool:
        return self._position(image) is not None

    def of(self, image: ImageRef, size: tuple[int, int] | None = None) -> tuple[OcrLine, ...]:
        """The lines of a picture; none if it holds no text.

        Args:
            image: a path under the image root, or a document.
            size: width and height of the picture, which must be what was recognised.

        Raises:
            InputError: the files say nothing about the picture, or are about another size of it.
        """
        position = self._position(image)
        if position is None:
            raise InputError(f"{_described(image)} has no entry in {self._names()}: {_RUN}")
        record = self._read(position)
        if size is not None:
            require_size(record, size, self._line(position))
        return record.lines

    def _position(self, image: ImageRef) -> int | None:
        if isinstance(image.value, bytes):
            return None
        key = np.array(picture_key(image, self._root), dtype=_KEY)
        position = int(np.searchsorted(self._keys, key))
        return position if position < len(self) and self._keys[position] == key else None

    def _line(self, position: int) -> Line:
        file, number, offset, _ = self._places[position].tolist()
        return Line(self._files[file], number, offset, b"")

    def _read(self, position: int) -> OcrRecord:
        line = self._line(position)
        try:
            with line.path.open("rb") as file:
                file.seek(line.offset)
                data = file.read(int(self._places[position, 3]))
        except OSError as error:
            raise InputError(f"{line.path} cannot be read: {error.strerror or error}") from error
        record = parse_record(Line(line.path, line.number, line.offset, data))
        if np.array(picture_key(record.image, self._root), dtype=_KEY) != self._keys[position]:
            raise InputError(f"{line.path} has changed while it was in use: start again")
        return record

    def _names(self) -> str:
        return ", ".join(map(str, self._files))


def _described(image: ImageRef) -> str:
    if isinstance(image.value, bytes):
        return "a picture that stands in its record, and so has no name,"
    return f"document {image.value!r}" if image.kind == "document" else f"picture {image.value!r}"


def require_size(record: OcrRecord, size: tuple[int, int], line: Line) -> None:
    """Raise ``InputError`` if a picture of ``size`` is not what the record of a line is about."""
    if tuple(size) != record.size:
        raise InputError(
            f"{line.where}: {_described(record.image)} has {size[0]} x {size[1]} pixels, and its text was recognised "
            f"at {record.size[0]} x {record.size[1]}: it has changed since; {_RUN}"
        )


def picture_key(image: ImageRef, root: Path | None) -> bytes:
    """16 bytes that stand for a picture: the same for each way of writing its path."""
    value = str(image.value)
    name = value if image.kind == "document" else _plain_path(value, root)
    return hashlib.blake2b(f"{image.kind}\0{name}".encode(errors="surrogatepass"), digest_size=16).digest()


def _plain_path(path: str, root: Path | None) -> str:
    if os.path.isabs(path) and root is not None:
        path = os.path.relpath(path, root)
    return os.path.normpath(path)


def read_ocr_lines(
    paths: Sequence[str | Path],
    *,
    image_root: Path | None = None,
    on_bad_record: Literal["error", "quarantine"] = "error",
    quarantine: Path | None = None,
) -> OcrLines:
    """Check OCR files (JSON Lines, ``schemas/ocr.schema.json``), and note where each picture stands.

    Pictures are not opened. A picture whose record was set aside has no entry.

    Args:
        paths: files of ``polylens data ocr``.
        image_root: folder of the pictures, for those that are named by an absolute path.
        quarantine: file for bad records; needed if they are not errors.

    Raises:
        InputError: a bad record, or a picture that has two (with ``on_bad_record="error"``), or no record is left.
    """
    files = [Path(path) for path in paths]
    image_root = None if image_root is None else Path(os.path.abspath(image_root))
    numbers = {path: number for number, path in enumerate(files)}
    with Quarantine(on_bad_record, quarantine) as bad:
        places = {
            picture_key(record.image, image_root): (numbers[line.path], line.number, line.offset, len(line.data))
            for line, record in scan_ocr(files, bad, image_root)
        }
    if not places:
        aside = f"; {bad.count} bad records were set aside in {quarantine}" if bad.count else ""
        raise InputError(f"no OCR record is left in {', '.join(map(str, files))}{aside}: {_RUN}")
    return OcrLines(files, image_root, places)


def scan_ocr(
    files: Sequence[Path], bad: BadRecords, image_root: Path | None = None
) -> Iterator[tuple[Line, OcrRecord]]:
    """The good records of files in order, each with its line; ``bad`` is told of the others."""
    seen: dict[bytes, tuple[Path, int]] = {}
    for path in files:
        for line in tqdm(scan_jsonl(path), unit="picture", desc=path.name, disable=None):
            try:
                record = parse_record(line)
                key = picture_key(record.image, image_root)
                first = seen.setdefault(key, (line.path, line.number))
                if first != (line.path, line.number):
                    problem = f"{_described(record.image)} already has the record {first[0]}:{first[1]}"
                    raise BadRecord(line.where, [problem])
            except InputError as error:
                bad.add(line, error)
            else:
                yield line, record
