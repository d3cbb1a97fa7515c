"""Runs and relevance judgements in the formats of TREC and BEIR.

Ids of polylens may contain spaces, so runs are written with tabs, and a line that has tabs is split at tabs alone;
other lines are split at spaces, as TREC does. A line that mixes both is refused: where it lacks a column, parts of an
id would be taken for others. An id may hold any character but tab, line feed and carriage return.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from polylens.errors import InputError
from polylens.files import replacing

Run = dict[str, dict[str, float]]
"""Query id -> document id -> score."""

Qrels = dict[str, dict[str, int]]
"""Query id -> document id -> grade of relevance; documents that are not named are not relevant."""

TAG = "polylens"

_HEADER = ("query-id", "corpus-id", "score")

_NUMBER = re.compile(r" *[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)? *")
"""Python takes ``1_0`` and the digits of other scripts as well."""

_MAX_GRADE = 2**31 - 1
"""What trec_eval holds a grade in."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The documents found for a query, the best first."""

    query_id: str
    document_ids: list[str]
    scores: list[float]


def run_lines(hits: Hits, tag: str = TAG) -> str:
    """The lines of one query: id, ``Q0``, document, rank from 1, score (9 digits, exact for float32), tag.

    Raises:
        InputError: an id cannot be written.
    """
    query = _writable(hits.query_id)
    found = enumerate(zip(hits.document_ids, hits.scores, strict=True), start=1)
    return "".join(f"{query}\tQ0\t{_writable(id)}\t{rank}\t{score:.9g}\t{tag}\n" for rank, (id, score) in found)


def write_run(path: Path, hits: Iterable[Hits], tag: str = TAG) -> None:
    """Write a run file; it appears whole or not at all."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for one in hits:
            file.write(run_lines(one, tag))


def read_run(path: Path) -> Run:
    """Read a run file. Ranks are ignored: scores decide, as in trec_eval.

    Raises:
        InputError: a line is not of six columns, a score is no finite number, a document is named twice for a query.
    """
    run: Run = {}
    for line, columns in _rows(path, {6}):
        query, _, document, _, score, _ = columns
        found = run.setdefault(query, {})
        if document in found:
            raise InputError(f"{path}:{line}: document {document!r} is named twice for query {query!r}")
        found[document] = _number(score, f"{path}:{line}: score")
    return run


def read_qrels(path: Path) -> Qrels:
    """Read relevance judgements.

    Accepted are four columns (TREC: query, iteration, document, grade) and three (query, document, grade), the
    latter with or without the header line of BEIR, which may also name the columns in another order.

    Raises:
        InputError: there is no judgement, a line has other columns, a grade is not a whole number, or a pair is judged
            twice with different grades.
    """
    qrels: Qrels = {}
    order = [0, 1, 2]
    width = 0
    for line, columns in _rows(path, {3, 4}):
        if not width and sorted(columns) == sorted(_HEADER):
            order, width = [columns.index(name) for name in _HEADER], 3
            continue
        width = width or len(columns)
        if len(columns) != width:
            raise InputError(f"{path}:{line}: {len(columns)} columns after lines of {width}")
        if width == 4:
            columns = [columns[0], columns[2], columns[3]]
        query, document, grade = (columns[place] for place in order)
        _judge(qrels, query, document, _grade(grade, f"{path}:{line}"), f"{path}:{line}")
    if not qrels:
        raise InputError(f"{path} holds no judgement")
    return qrels


def _judge(qrels: Qrels, query: str, document: str, grade: int, where: str) -> None:
    before = qrels.setdefault(query, {}).setdefault(document, grade)
    if before != grade:
        raise InputError(f"{where}: query {query!r}, document {document!r} has grade {grade}, and {before} further up")


def _rows(path: Path, widths: set[int]) -> Iterator[tuple[int, list[str]]]:
    """Line number and columns of every line that is not blank."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for line, text in enumerate(file, start=1):
                text = text.rstrip("\n")
                if text.strip(" \t"):
                    yield line, _columns(text, widths, f"{path}:{line}")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error


def _columns(text: str, widths: set[int], where: str) -> list[str]:
    columns = text.split("\t") if "\t" in text.strip(" \t") else re.split(" +", text.strip(" \t"))
    if len(columns) not in widths or not all(columns):
        allowed = " or ".join(map(str, sorted(widths)))
        raise InputError(f"{where}: {len(columns)} columns in {_short(text)}, expected {allowed}, separated by tabs")
    return columns


def _number(text: str, what: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not math.isfinite(number):
        raise InputError(f"{what} {_short(text)} is not a finite number")
    return number


def _grade(text: str, where: str) -> int:
    grade = _number(text, f"{where}: grade")
    if grade != int(grade):
        raise InputError(f"{where}: grade {_short(text)} is not a whole number")
    if abs(grade) > _MAX_GRADE:
        raise InputError(f"{where}: grade {_short(text)} is too large: at most {_MAX_GRADE} is allowed")
    return int(grade)


def _writable(id: str) -> str:
    if not id or re.search(r"[\t\r\n]", id):
        raise InputError(f"the id {id!r} cannot be written to a run file: it is empty, or has a tab or a line break")
    try:
        id.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the id {id!r} cannot be written to a run file: it is not valid Unicode") from error
    return id


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:79] + "…")
