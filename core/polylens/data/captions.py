"""Reads lists of pictures with their texts: CSV, tab-separated, and JSON Lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.data.pairs import BadRecords
from polylens.data.records import BadRecord, Line, parse_line, scan_records
from polylens.errors import InputError, closest

__all__ = ["TABLES", "Caption", "ListLayout", "read_captions"]

TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
"""Suffixes of tables, and what separates their columns."""

_FIELDS = ("id", "image", "text")
_LONGEST = 2**27
"""Characters of a cell at most."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A picture and its text; the id is that of the list, or the path of the picture."""

    id: str
    image: str
    text: str
    line: Line


@dataclass(frozen=True, slots=True)
class ListLayout:
    """How a list is written.

    Args:
        columns: ``image``, ``text`` and ``id`` -> the column, or key of JSON Lines, that holds it; by default the same
            name.
        header: names of the columns of a table that does not begin with them.
        delimiter: between columns; by default a comma in ``.csv`` and a tab in ``.tsv`` and ``.txt``.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    header: Sequence[str] = ()
    delimiter: str | None = None

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what no list has."""
        for name in self.columns:
            if name not in _FIELDS:
                raise InputError(f"a list has no {name!r}{closest(name, _FIELDS)}; it has {', '.join(_FIELDS)}")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise InputError(f"columns are separated by one character, not by {self.delimiter!r}")

    def column(self, name: str) -> str:
        return self.columns.get(name, name)


def read_captions(path: str | Path, layout: ListLayout, bad: BadRecords) -> Iterator[Caption]:
    """The good rows of a list (``schemas/captions.schema.json``), in order; ``bad`` is told of the others.

    In a comma-separated table a cell with a comma, a quotation mark or a line break stands in quotation marks, a mark
    inside is doubled (RFC 4180); in a tab-separated one quotation marks are letters.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    path = Path(path)
    table = path.suffix.lower() in TABLES
    for line, row in _table_rows(path, layout, bad) if table else _json_rows(path, bad):
        try:
            yield _caption(line, row, layout)
        except InputError as error:
            bad.add(line, error)


def _caption(line: Line, row: Any, layout: ListLayout) -> Caption:
    if isinstance(row, dict):
        names = {layout.column(name): name for name in _FIELDS}
        row = {names[key]: value for key, value in row.items() if key in names}
    problems = schemas.errors("captions", row)
    if problems:
        raise BadRecord(line.where, problems, record=str(row.get("id", "")) if isinstance(row, dict) else "")
    if not row["text"].strip():
        raise BadRecord(line.where, ["/text: the text of this picture is empty"], record=str(row.get("id", "")))
    return Caption(str(row.get("id", row["image"])), row["image"], row["text"], line)


def _json_rows(path: Path, bad: BadRecords) -> Iterator[tuple[Line, Any]]:
    for line in scan_records(path):
        try:
            yield line, parse_line(line)
        except InputError as error:
            bad.add(line, error)


def _table_rows(path: Path, layout: ListLayout, bad: BadRecords) -> Iterator[tuple[Line, dict[str, str]]]:
    reader = _reader(path, layout)
    header = list(layout.header)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            bad.add(Line(path, start, 0, b""), InputError(f"{path}:{start}: not a row of a table: {error}"))
            continue
        if row is None:
            return
        if row and not header:
            header = _header(row, path, layout)
        elif row:
            line = Line(path, start, 0, json.dumps(row, ensure_ascii=False).encode())
            if len(row) == len(header):
                yield line, dict(zip(header, row, strict=True))
            else:
                problem = f"{len(row)} columns, where there are {len(header)}: {', '.join(header)}"
                bad.add(line, BadRecord(line.where, [problem]))


def _reader(path: Path, layout: ListLayout):
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:
        raise InputError(f"{path}: not valid UTF-8 text: {error.reason}") from None  # type: ignore[attr-defined]
    csv.field_size_limit(_LONGEST)
    delimiter = layout.delimiter or TABLES[path.suffix.lower()]
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)


def _header(row: Sequence[str], path: Path, layout: ListLayout) -> list[str]:
    for name in ("image", "text"):
        wanted = layout.column(name)
        if wanted not in row:
            raise InputError(
                f"{path}:1: there is no column {wanted!r}{closest(wanted, row)}; the first line has {', '.join(row)}. "
                "Say which column is the image and which the text, or, if there is no line of names, what the columns "
                "are"
            )
    return list(row)
