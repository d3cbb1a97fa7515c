"""FUNSD's forms (Jaume et al. 2019, arXiv 1905.13538): a folder with ``annotations/*.json`` and ``images/*.png``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from polylens.generation.formats.entries import Entry, Peek, file_entries, json_entry
from polylens.generation.formats.items import Item, QuestionFormat


def _fits(peek: Peek) -> bool:
    if not peek.holds("annotations/*.json"):
        return False
    return "form" in Peek(next(file_entries(peek.path, "annotations/*.json"))).whole


def _entries(folder: Path) -> Iterator[Entry]:
    return map(json_entry, file_entries(folder, "annotations/*.json"))


def _items(entry: Entry) -> Iterator[Item]:
    """Every question of the form that has an answer, in the order of the form."""
    name, form = Path(entry.where).stem, entry.value["form"]
    answers = [part for part in form if part["label"] == "answer" and part.get("linking")]
    for number, part in enumerate(form):
        answer = _answer(part, answers) if part["label"] == "question" else ""
        if answer:
            where = f"{entry.where}: /form/{number}"
            asked = f'what is "{part["text"]}" information in the image?'
            yield Item(f"{name}-{part['id']}", f"images/{name}.png", asked, answer, where)


def _answer(question: dict[str, Any], answers: list[dict[str, Any]]) -> str:
    """The words that a question is linked to, in the order of the links."""
    words = (one["text"] for _, target in question.get("linking", ()) for one in answers if one["id"] == target)
    text = ""
    for word in words:
        text = f"{text} {word}" if text else word
    return text


FUNSD = QuestionFormat(
    name="FUNSD",
    about="FUNSD's folder of annotations and images",
    fits=_fits,
    entries=_entries,
    items=_items,
    schema="questions_funsd",
)
