"""OCRBench's questions, v1 (``OCRBench.json``, ``FullTest.json``) and v2 (``OCRBench_v2.json``): a JSON array."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, record_entries
from polylens.generation.formats.items import Item, QuestionFormat

MADE = ("predict", "result", "score")
"""What other programs write into the records; they are answered anew."""


def _items(entry: Entry) -> Iterator[Item]:
    value = {key: one for key, one in entry.value.items() if key not in MADE}
    id = f"{value['dataset_name']}-{value['id']}"
    yield Item(id, value["image_path"], value["question"], value["answers"], entry.where, value)


OCRBENCH = QuestionFormat(
    name="ocrbench",
    about="OCRBench.json, FullTest.json and OCRBench_v2.json",
    fits=lambda peek: {"dataset_name", "image_path", "question", "type"} <= peek.record.keys(),
    entries=record_entries,
    items=_items,
    schema="questions_ocrbench",
    answers="ocrbench",
)
