"""OCR-VQA's annotations (``dataset.json``, Mishra et al. 2019): an object of books by the name of their picture."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.config import schemas
from polylens.data.records import BadRecord
from polylens.generation.formats.entries import Entry, Peek, member_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _fits(peek: Peek) -> bool:
    book = next(iter(peek.whole.values()), None)
    return isinstance(book, dict) and {"questions", "answers"} <= book.keys()


def _items(entry: Entry) -> Iterator[Item]:
    name, book = entry.value
    problems = schemas.errors("questions_ocrvqa", book)
    if not problems and len(book["questions"]) != len(book["answers"]):
        problems = [f"/answers: {len(book['answers'])} answers to {len(book['questions'])} questions"]
    if problems:
        raise BadRecord(entry.where, problems)
    for n, (question, answer) in enumerate(zip(book["questions"], book["answers"], strict=True)):
        yield Item(f"{name}-{n}", f"{name}.jpg", question, answer, f"{entry.where}/questions/{n}")


OCRVQA = QuestionFormat(
    name="ocrVQA",
    about="OCR-VQA's dataset.json",
    fits=_fits,
    entries=member_entries,
    items=_items,
    pictures="images",
)
