"""Reads JSON Lines, and decides what happens to a line that cannot be used."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from polylens.config.json_text import parse_json
from polylens.errors import InputError
from polylens.files import write_text

__all__ = [
    "BadRecord",
    "BadRecordsKept",
    "Line",
    "Quarantine",
    "decode_base64",
    "parse_line",
    "read_jsonl",
    "scan_jsonl",
    "scan_records",
]


class BadRecord(InputError):
    """A record that cannot be used, with everything that is wrong in it.

    Args:
        where: ``file:line``.
        problems: each with the JSON pointer of what it is about.
        record: its id, for the message.
    """

    def __init__(self, where: str, problems: Sequence[str], record: str = "") -> None:
        super().__init__(f"{where}: " + (f"record {record!r}: " if record else "") + "; ".join(problems))
        self.where, self.problems = where, list(problems)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a file, or an item of an array: the number of its line from 1, and the bytes it takes up.

    Attributes:
        column: of an item that begins on the line of another, from 1.
    """

    path: Path
    number: int
    offset: int
    data: bytes
    column: int | None = None

    @property
    def where(self) -> str:
        """``file:line`` or ``file:line:column``, as messages name it; no other line or item has the same."""
        return f"{self.path}:{self.place}"

    @property
    def place(self) -> str:
        """What follows the name of the file in ``where``."""
        return f"{self.number}" if self.column is None else f"{self.number}:{self.column}"


def scan_jsonl(path: str | Path) -> Iterator[Line]:
    """The lines of a file that are not blank, not yet parsed.

    Raises:
        InputError: the file cannot be read.
    """
    path, offset = Path(path), 0
    try:
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                if data.strip():
                    yield Line(path, number, offset, data)
                offset += len(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the path
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def scan_records(path: str | Path) -> Iterator[Line]:
    """The records of a JSON Lines file, or of a file that holds one JSON array, not yet parsed.

    Raises:
        InputError: the file cannot be read, or its array is not JSON.
    """
    lines = scan_jsonl(path)
    first = next(lines, None)
    if first is None:
        return
    if first.data.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        yield from _scan_array(Path(path))
        return
    yield first
    yield from lines


def _scan_array(path: Path) -> Iterator[Line]:
    """The items of an array, each with the place at which it begins."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeError as error:
        raise InputError(f"{path}: not valid UTF-8 text: {error.reason}") from None  # type: ignore[attr-defined]
    place, number, counted, start = _after_blanks(text, text.index("[") + 1), 1, 0, 0
    closed, before = text.startswith("]", place), 0
    while not closed:
        start = max(start, text.rfind("\n", counted, place) + 1)
        number, counted = number + text.count("\n", counted, place), place
        item = Line(path, number, place, b"", place - start + 1 if number == before else None)
        end, before = _end_of_item(text, place, item.where), number
        yield replace(item, data=text[place:end].encode())
        place = _after_blanks(text, end)
        closed = text.startswith("]", place)
        if not closed and not text.startswith(",", place):
            raise InputError(f"{item.where}: not JSON: no comma after the record that begins here")
        place = place if closed else _after_blanks(text, place + 1)
    if text[place + 1 :].strip(" \t\r\n"):
        raise InputError(f"{path}: not JSON: there is more after the array")


def _after_blanks(text: str, place: int) -> int:
    found = _BLANKS.match(text, place)
    return found.end() if found else place


def _end_of_item(text: str, place: int, where: str) -> int:
    try:
        return _ITEMS.raw_decode(text, place)[1]
    except (json.JSONDecodeError, RecursionError, ValueError) as error:
        raise InputError(
            f"{where}: not JSON: {getattr(error, 'msg', error)}, in the record that begins here"
        ) from None


_BLANKS = re.compile(r"[ \t\r\n]*")
_ITEMS = json.JSONDecoder(object_pairs_hook=lambda members: None, parse_int=str, parse_float=str)
"""Finds where items end; ``parse_line`` then reads them."""


def parse_line(line: Line) -> Any:
    """The JSON value of a line.

    Raises:
        InputError: it is not UTF-8, not JSON, or JSON that ``parse_json`` refuses.
    """
    try:
        return parse_json(line.data.rstrip(b" \t\r\n").decode("utf-8-sig" if line.offset == 0 else "utf-8"))
    except UnicodeError as error:
        raise InputError(f"{line.where}: not valid UTF-8 text: {error.reason}") from None  # type: ignore[attr-defined]
    except json.JSONDecodeError as error:
        raise InputError(f"{line.where}: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise InputError(f"{line.where}: not JSON that polylens reads: {error}") from None


def read_jsonl(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Line numbers (from 1) and values of a JSON Lines file; blank lines are left out.

    Raises:
        InputError: the file cannot be read, or at the first line that is not JSON.
    """
    for line in scan_jsonl(path):
        yield line.number, parse_line(line)


def decode_base64(value: Any, where: str) -> bytes:
    """Plain base64, without blanks, line breaks or a ``data:`` prefix, as the originals write it.

    Raises:
        InputError: it is anything else.
    """
    if not isinstance(value, str | bytes):
        raise InputError(f"{where}: a picture must be a base64 string, not {type(value).__name__}")
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        hint = "; leave out the 'data:...;base64,' prefix" if str(value[:5]) in ("data:", "b'data:'") else ""
        raise InputError(f"{where}: the picture is not valid base64: {error}{hint}") from None
    if not data:
        raise InputError(f"{where}: the picture is empty")
    return data


class Quarantine:
    """What happens to a bad record: an ``InputError`` at once, or a line in a file and on with the next.

    A quarantined line holds ``where`` (``file:line``), the ``reason`` and the ``record`` as it was read; see
    ``schemas/quarantine.schema.json``. The file appears when the first bad record does. Use it as a context manager.

    Args:
        mode: ``error`` or ``quarantine``.
        path: of the file, needed for ``quarantine``. An earlier file of this name is replaced.

    Attributes:
        count: bad records so far.
    """

    def __init__(self, mode: Literal["error", "quarantine"], path: Path | None = None) -> None:
        if mode == "quarantine" and path is None:
            raise InputError("bad records can only be set aside if a quarantine file is named")
        self._path = path if mode == "quarantine" else None
        self._file: Any = None
        self.count = 0

    def add(self, line: Line, error: InputError) -> None:
        """Set a line aside, or raise its error."""
        self.count += 1
        if self._path is None:
            raise error
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(_set_aside(line, error))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


@dataclass(slots=True)
class BadRecordsKept:
    """Bad records of files, kept in mind until all of them are known.

    Attributes:
        errors: by the place of the record, ``file:line``.
    """

    errors: dict[str, InputError] = field(default_factory=dict)

    def add(self, line: Line, error: InputError) -> None:
        """Keep a line in mind."""
        self.errors[line.where] = error

    def write(self, files: Sequence[Path], path: Path) -> None:
        """Set them aside in a file as ``Quarantine`` does, in the order of ``files``, from which they were read."""
        lines = (line for file in files for line in scan_records(file) if line.where in self.errors)
        write_text(path, (_set_aside(line, self.errors[line.where]) for line in lines))


def _set_aside(line: Line, error: InputError) -> str:
    """The path of a file may hold bytes that are no text: they become JSON's escapes."""
    record = line.data.decode("utf-8", errors="replace").rstrip("\r\n")
    text = json.dumps({"where": line.where, "reason": str(error), "record": record}, ensure_ascii=False) + "\n"
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
