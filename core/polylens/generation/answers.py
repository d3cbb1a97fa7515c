"""Files of answers, one JSON object a line (``schemas/answers.schema.json``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.data.records import parse_line, scan_records
from polylens.errors import InputError


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

    def value(self) -> dict[str, Any]:
        """As the file holds it."""
        return {key: item for key, item in asdict(self).items() if key != "where" and item is not None}


def answer_of(value: Mapping[str, Any], where: str) -> AnsweredQuestion:
    """A line that keeps the schema; ``where`` is its place."""
    known = {key: value[key] for key in ("answer", "question", "tokens", "finished") if key in value}
    return AnsweredQuestion(str(value["id"]), references=tuple(value.get("references", ())), where=where, **known)


def with_references(answers: Sequence[AnsweredQuestion], path: Path) -> list[AnsweredQuestion]:
    """Answers with the references of a file of ``{"id": ..., "references": [...]}`` instead of their own.

    Raises:
        InputError: a line that breaks the schema, an id that is there twice, or one that is missing.
    """
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
