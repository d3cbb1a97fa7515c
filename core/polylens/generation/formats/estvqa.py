"""ESTVQA's annotations (``en_train.json`` and ``cn_train.json``, Wang et al. 2020, arXiv 2002.10215)."""

from __future__ import annotations

from collections.abc import Iterator

from polylens.generation.formats.entries import Entry, record_entries
from polylens.generation.formats.items import Item, QuestionFormat


def _items(entry: Entry) -> Iterator[Item]:
    image = entry.value["image"]
    for n, one in enumerate(entry.value["annotation"]):
        yield Item(f"{image}-{n}", image, one["question"], one["answer"], f"{entry.where}: /annotation/{n}")


ESTVQA = QuestionFormat(
    name="ESTVQA",
    about="ESTVQA's en_train.json and cn_train.json",
    fits=lambda peek: {"image", "annotation"} <= peek.record.keys(),
    entries=record_entries,
    items=_items,
    schema="questions_estvqa",
    pictures="../images/train",
)
