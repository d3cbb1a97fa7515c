"""DocVQA's annotations (``val_v1.0.json``, Mathew et al. 2021, arXiv 2007.00398)."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, data_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _items(entry: Entry) -> Iterator[Item]:
    value = entry.value
    id, answers = value["questionId"], value.get("answers", [])
    yield Item(str(id), value["image"], value["question"], answers, entry.where, {"question_id": id})


DOCVQA = QuestionFormat(
    name="docVQA",
    about="DocVQA's val_v1.0.json",
    fits=lambda peek: {"question", "questionId", "image"} <= peek.data.keys(),
    entries=data_entries,
    items=_items,
    schema="questions_docvqa",
)
