"""Files of answers in the formats of several programs: written, recognised by their fields, and read."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polylens.config import schemas
from polylens.data.records import parse_line, scan_records
from polylens.errors import InputError, closest
from polylens.files import write_text
from polylens.generation.answers import AnsweredQuestion, answer_of, with_references
from polylens.generation.prompts import Question

if TYPE_CHECKING:
    from polylens.generation.generator import Answer

__all__ = [
    "ANSWER_FORMATS",
    "AnswerFormat",
    "Author",
    "answer_format",
    "read_answer_values",
    "read_answers",
    "write_answer_values",
]

_LETTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Author:
    """Who answers.

    Attributes:
        model_id: name of the model.
        image_root: folder that the paths of pictures start from.
    """

    model_id: str
    image_root: Path


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How answers are written and read.

    Attributes:
        array: the file is one JSON array, rather than JSON Lines.
        signed: answers name the model.
        schema: of an answer.
        fields: that an answer has, and those of formats before it in ``ANSWER_FORMATS`` have not.
        make: an answer as the file has it.
        read: the other way round, with the place of the answer.
    """

    name: str
    array: bool
    signed: bool
    schema: str
    fields: frozenset[str]
    make: Callable[[Question, Answer, Author], dict[str, Any]]
    read: Callable[[Mapping[str, Any], str], AnsweredQuestion]

    def check(self, questions: Sequence[Question]) -> None:
        """Whether answers to these questions can be written.

        Raises:
            InputError: a question lacks what an answer repeats.
        """
        if self.name in _NEEDS:
            need, has = _NEEDS[self.name]
            for one in questions:
                if one.item is None or not has(one):
                    raise InputError(f"{one.record.where}: answers of the format {self.name} need {need}")


def _polylens(asked: Question, answer: Answer, author: Author) -> dict[str, Any]:
    return AnsweredQuestion(
        asked.record.id, answer.text, asked.references, asked.text, answer.tokens, answer.finished
    ).value()


def _llava(asked: Question, answer: Answer, author: Author) -> dict[str, Any]:
    id = asked.record.id if asked.item is None else asked.item.fields.get("question_id", asked.record.id)
    prompt = asked.text if asked.item is None else asked.item.question
    return {
        "question_id": id,
        "prompt": prompt,
        "text": answer.text,
        "answer_id": _answer_id(asked.record.where, prompt, answer.text, author.model_id),
        "model_id": author.model_id,
        "metadata": {},
    }


def _answer_id(*words: str) -> str:
    """22 letters as ``shortuuid`` gives them, but the same for the same answer, so that files can be compared."""
    number = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(words)).int
    letters = ""
    for _ in range(22):
        number, letter = divmod(number, len(_LETTERS))
        letters = _LETTERS[letter] + letters
    return letters


def _mmocr(asked: Question, answer: Answer, author: Author) -> dict[str, Any]:
    assert asked.item is not None
    return {
        "question": asked.item.question,
        "answer": answer.text,
        "gt_answers": asked.item.answers,
        "image_path": os.path.join(author.image_root, str(asked.record.images[0].value)),
        "model_name": author.model_id,
    }


def _ocrbench(asked: Question, answer: Answer, author: Author) -> dict[str, Any]:
    assert asked.item is not None
    return {**asked.item.fields, "predict": answer.text}


_NEEDS: dict[str, tuple[str, Callable[[Question], bool]]] = {
    "mmocr": (
        "a question about one picture, of a data set",
        lambda one: one.item is not None and bool(one.item.image),
    ),
    "ocrbench": (
        "questions of OCRBench",
        lambda one: one.item is not None and {"dataset_name", "type"} <= one.item.fields.keys(),
    ),
}


def _of_llava(value: Mapping[str, Any], where: str) -> AnsweredQuestion:
    return AnsweredQuestion(str(value["question_id"]), value["text"], question=value.get("prompt", ""), where=where)


def _of_mmocr(value: Mapping[str, Any], where: str) -> AnsweredQuestion:
    given = value["gt_answers"]
    references = (given,) if isinstance(given, str) else tuple(given)
    id = value.get("image_path") or where
    return AnsweredQuestion(id, value["answer"], references, value.get("question", ""), where=where)


def _of_ocrbench(value: Mapping[str, Any], where: str) -> AnsweredQuestion:
    given = value["answers"] if isinstance(value["answers"], list) else [value["answers"]]
    references = tuple(str(one) for one in given if isinstance(one, str | int | float))
    said = "" if value["predict"] is None else str(value["predict"])
    id = f"{value['dataset_name']}-{value.get('id', where)}"
    return AnsweredQuestion(id, said, references, value["question"], where=where)


ANSWER_FORMATS = {
    format.name: format
    for format in (
        AnswerFormat(
            name="ocrbench",
            array=True,
            signed=False,
            schema="answers_ocrbench",
            fields=frozenset({"dataset_name", "answers"}),
            make=_ocrbench,
            read=_of_ocrbench,
        ),
        AnswerFormat(
            name="mmocr",
            array=True,
            signed=True,
            schema="answers_mmocr",
            fields=frozenset({"gt_answers"}),
            make=_mmocr,
            read=_of_mmocr,
        ),
        AnswerFormat(
            name="llava",
            array=False,
            signed=True,
            schema="answers_llava",
            fields=frozenset({"question_id"}),
            make=_llava,
            read=_of_llava,
        ),
        AnswerFormat(
            name="polylens",
            array=False,
            signed=False,
            schema="answers",
            fields=frozenset({"id"}),
            make=_polylens,
            read=answer_of,
        ),
    )
}
"""By name; of formats whose fields an answer has, the first is meant."""


def answer_format(name: str) -> AnswerFormat:
    """The format of this name.

    Raises:
        InputError: there is none.
    """
    if name not in ANSWER_FORMATS:
        names = ", ".join(ANSWER_FORMATS)
        raise InputError(f"no format of answers {name!r}{closest(name, ANSWER_FORMATS)}; there are: {names}")
    return ANSWER_FORMATS[name]


def read_answer_values(
    path: Path, format: str | None = None
) -> tuple[AnswerFormat, list[tuple[Mapping[str, Any], str]]]:
    """The answers of a file, each with its place.

    Args:
        format: name of it; by default the fields of the first answer tell.

    Raises:
        InputError: a file that is empty or of no format, or an answer that breaks the schema.
    """
    values = [(parse_line(line), line.where) for line in scan_records(path)]
    if not values:
        raise InputError(f"{path} has no answers")
    found = _recognised(*values[0]) if format is None else answer_format(format)
    for value, where in values:
        schemas.check(found.schema, value, where)
    return found, values


def _recognised(value: Any, where: str) -> AnswerFormat:
    fields = value.keys() if isinstance(value, dict) else ()
    for format in ANSWER_FORMATS.values():
        if format.fields <= set(fields):
            return format
    known = "; ".join(f"{format.name} has {', '.join(sorted(format.fields))}" for format in ANSWER_FORMATS.values())
    raise InputError(f"{where}: an answer of no format that is known ({known}); say --format")


def write_answer_values(path: Path, format: AnswerFormat, values: Iterable[Mapping[str, Any]]) -> None:
    """Write a file; it appears whole or not at all."""
    write_text(path, _array(values) if format.array else _lines(values))


def _lines(values: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def _array(values: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    before = "["
    for value in values:
        yield before + "\n" + json.dumps([value], ensure_ascii=False, indent=4)[2:-2]
        before = ","
    yield "\n]\n" if before == "," else "[]\n"


def read_answers(
    path: str | Path, references: str | Path | None = None, format: str | None = None
) -> list[AnsweredQuestion]:
    """Read a file of answers.

    Args:
        references: file of ``{"id": ..., "references": [...]}``, which counts instead of what the answers carry.
        format: as for ``read_answer_values``.

    Raises:
        InputError: a line that breaks the schema, no line at all, or an id without references.
    """
    found, values = read_answer_values(Path(path), format)
    answers = [found.read(value, where) for value, where in values]
    return answers if references is None else with_references(answers, Path(references))
