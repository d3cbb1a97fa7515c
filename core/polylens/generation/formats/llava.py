"""LLaVA's questions: JSON Lines of ``question_id``, ``image`` and ``text``, as ``model_vqa.py`` reads them."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, record_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _items(entry: Entry) -> Iterator[Item]:
    value = entry.value
    id = value["question_id"]
    yield Item(str(id), value.get("image"), value["text"], [], entry.where, {"question_id": id})


LLAVA = QuestionFormat(
    name="llava",
    about="LLaVA's question files (llava/eval/model_vqa.py), TextVQA with OCR tokens among them",
    fits=lambda peek: {"question_id", "text"} <= peek.record.keys() and "prompt" not in peek.record,
    entries=record_entries,
    items=_items,
    schema="questions_llava",
    answers="llava",
)
