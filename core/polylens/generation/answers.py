"""Files of answers, one JSON object a line (``schemas/answers.schema.json``)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from polylens.config import schemas
from polylens.data.records import parse_line, scan_records
from polylens.errors import InputError
from polylens.files import write_text


@dataclass(frozen=True, slots=True)
class AnsweredQuestion:
    """A line of a file of answers.

    Attributes:
        answer: what the model said.
        references: answers that are known to be right.
        question: the words of the last user turn.
        tokens: of the answer.
        finished: whether the model ended the answer itself.
        where: ``file:line``.
    """

    id: str
    answer: str
    references: tuple[str, ...] = ()
    question: str = ""
    tokens: int | None = None
    finished: bool | None = None
    where: str = ""

    def line(self) -> str:
        """As the file holds it."""
        value = {key: item for key, item in asdict(self).items() if key != "where" and item is not None}
        return json.dumps(value, ensure_ascii=False) + "\n"


def write_answers(path: Path, answers: Iterable[AnsweredQuestion]) -> None:
    """Write a file; it appears whole or not at all."""
    write_text(path, (answer.line() for answer in answers))


def read_answers(path: str | Path, references: str | Path | None = None) -> list[AnsweredQuestion]:
    """Read a file of answers.

    Args:
        references: file of ``{"id": ..., "references": [...]}``, which counts instead of what the answers carry.

    Raises:
        InputError: a line that breaks the schema, no line at all, or an id without references.
    """
    found = []
    for line in scan_records(path):
        value = parse_line(line)
        schemas.check("answers", value, line.where)
        known = {key: value[key] for key in ("answer", "question", "tokens", "finished") if key in value}
        given = tuple(value.get("references", ()))
        found.append(AnsweredQuestion(str(value["id"]), references=given, where=line.where, **known))
    if not found:
        raise InputError(f"{path} has no answers")
    return found if references is None else _with_references(found, Path(references))


def _with_references(answers: Sequence[AnsweredQuestion], path: Path) -> list[AnsweredQuestion]:
    known: dict[str, tuple[str, ...]] = {}
    for line in scan_records(path):
        value = parse_line(line)
        schemas.check("references", value, line.where)
        id = str(value["id"])
        if id in known:
            raise InputError(f"{line.where}: id {id!r} is there twice; write all its references into one line")
        known[id] = tuple(value["references"])
    for answer in answers:
        if answer.id not in known:
            raise InputError(f"{answer.where}: {path} has no references for id {answer.id!r}")
    return [replace(answer, references=known[answer.id]) for answer in answers]
