"""ST-VQA's annotations (``train_task_3.json``, Biten et al. 2019, arXiv 1905.13648)."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, data_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _items(entry: Entry) -> Iterator[Item]:
    value = entry.value
    number = entry.where.rpartition("/")[2]
    image = f"{value['dataset']}/{value['file_name']}"
    yield Item(f"STVQA-{number}", image, value["question"], value["answers"], entry.where)


STVQA = QuestionFormat(
    name="STVQA",
    about="ST-VQA's train_task_3.json",
    fits=lambda peek: {"question", "dataset", "file_name"} <= peek.data.keys(),
    entries=data_entries,
    items=_items,
    schema="questions_stvqa",
)
