"""SROIE's receipts (Huang et al. 2019, arXiv 2103.10213): a folder with ``ann/*.txt`` and ``image/*.jpg``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from polylens.generation.formats.entries import Entry, file_entries, json_entry
from polylens.generation.formats.items import Item, QuestionFormat

QUESTIONS = {
    "company": "what is the name of the company that issued this receipt?",
    "date": "when was this receipt issued?",
    "address": "where was this receipt issued?",
    "total": "what is the total amount of this receipt?",
}
"""What is asked about a field, in MultimodalOCR's words."""


def _entries(folder: Path) -> Iterator[Entry]:
    """Copies of a receipt, such as ``X1(1).txt``, are left out."""
    return (json_entry(path) for path in file_entries(folder, "ann/*.txt") if "(" not in path.name)


def _items(entry: Entry) -> Iterator[Item]:
    name = Path(entry.where).stem
    for key, question in QUESTIONS.items():
        if key in entry.value:
            image = f"image/{name}.jpg"
            yield Item(f"{name}-{key}", image, question, entry.value[key], f"{entry.where}: /{key}")


SROIE = QuestionFormat(
    name="SROIE",
    about="SROIE's folder of ann and image",
    fits=lambda peek: peek.holds("ann/*.txt"),
    entries=_entries,
    items=_items,
    schema="questions_sroie",
)
