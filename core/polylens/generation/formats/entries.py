"""What files of questions are made of: lines, records, members of one JSON object, files of a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from polylens.config.json_text import parse_json
from polylens.data.records import parse_line, scan_jsonl, scan_records
from polylens.errors import InputError

__all__ = ["Entry", "Peek", "data_entries", "file_entries", "line_entries", "member_entries", "record_entries"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A part of a file.

    Attributes:
        where: file and line, or file and JSON pointer.
        raw: as the file has it.
        value: its JSON value, or its text.
        problem: why it has none.
    """

    where: str
    raw: str
    value: Any = None
    problem: InputError | None = None


def record_entries(path: Path) -> Iterator[Entry]:
    """The records of JSON Lines, or of a JSON array."""
    for line in scan_records(path):
        raw = line.data.decode("utf-8", "replace").rstrip("\r\n")
        try:
            yield Entry(line.where, raw, parse_line(line))
        except InputError as error:
            yield Entry(line.where, raw, problem=error)


def data_entries(path: Path) -> Iterator[Entry]:
    """The items of the array ``data`` of a file that is one JSON object."""
    data = json_object(path).get("data")
    if not isinstance(data, list):
        raise InputError(f"{path}: /data: there is no array of questions")
    yield from (Entry(f"{path}: /data/{n}", _text(value), value) for n, value in enumerate(data))


def member_entries(path: Path) -> Iterator[Entry]:
    """The members of a file that is one JSON object, each as ``(name, value)``."""
    for name, value in json_object(path).items():
        pointer = name.replace("~", "~0").replace("/", "~1")
        yield Entry(f"{path}: /{pointer}", _text({name: value}), (name, value))


def line_entries(path: Path) -> Iterator[Entry]:
    """The lines of a text file that are not blank, each with its line break."""
    for number, line in enumerate(io.StringIO(_read(path)), 1):
        if line.strip():
            yield Entry(f"{path}:{number}", line.rstrip("\n"), line)


def file_entries(folder: Path, inside: str) -> Iterator[Path]:
    """The files of a folder, in order of name.

    Args:
        inside: pattern such as ``ann/*.txt``.

    Raises:
        InputError: there is none.
    """
    found = sorted(folder.glob(inside))
    if not found:
        raise InputError(f"the folder {folder} has no {inside}")
    yield from found


def json_entry(path: Path) -> Entry:
    """A file that holds one JSON object."""
    try:
        value = json_object(path)
    except InputError as error:
        return Entry(str(path), path.read_bytes().decode("utf-8", "replace") if path.is_file() else "", problem=error)
    return Entry(str(path), _text(value), value)


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds."""
    text = _read(path)
    try:
        value = parse_json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON that polylens reads: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds {type(value).__name__}, not an object")
    return value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InputError(f"{path}: not valid UTF-8 text: {error.reason}") from None  # type: ignore[attr-defined]
    except ValueError as error:  # a NUL in the path
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class Peek:
    """The beginning of a file or folder, by which its format is recognised."""

    LOOKED_AT = 100
    """Records of which the first that is an object counts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def holds(self, inside: str) -> bool:
        """Whether it is a folder with such files."""
        return self.path.is_dir() and next(self.path.glob(inside), None) is not None

    @cached_property
    def line(self) -> str:
        """The first line of a file that is not JSON."""
        if self.path.is_dir() or self.record or self.whole:
            return ""
        first = next(scan_jsonl(self.path), None)
        return "" if first is None else first.data.decode("utf-8", "replace").strip()

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The first object of JSON Lines, or of an array."""
        if self.path.is_dir():
            return {}
        entries = islice(record_entries(self.path), self.LOOKED_AT)
        return next((entry.value for entry in entries if isinstance(entry.value, dict)), {})

    @cached_property
    def whole(self) -> Mapping[str, Any]:
        """The object that the file is."""
        if self.path.is_dir() or (self.record and len(list(islice(scan_jsonl(self.path), 2))) > 1):
            return {}
        try:
            return json_object(self.path)
        except InputError:
            return {}

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """The first object of the array ``data``."""
        given = self.whole.get("data")
        items = given[: self.LOOKED_AT] if isinstance(given, list) else []
        return next((item for item in items if isinstance(item, dict)), {})
