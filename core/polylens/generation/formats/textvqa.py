"""TextVQA's annotations (``TextVQA_0.5.1_val.json``, Singh et al. 2019, arXiv 1904.08920)."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, data_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _items(entry: Entry) -> Iterator[Item]:
    value = entry.value
    id, answers = value["question_id"], value.get("answers", [])
    yield Item(str(id), f"{value['image_id']}.jpg", value["question"], answers, entry.where, {"question_id": id})


TEXTVQA = QuestionFormat(
    name="textVQA",
    about="TextVQA_0.5.1_val.json",
    fits=lambda peek: {"question", "question_id", "image_id"} <= peek.data.keys(),
    entries=data_entries,
    items=_items,
    schema="questions_textvqa",
    pictures="train_images",
)
