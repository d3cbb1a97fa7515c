"""IAM's handwritten words (Marti and Bunke 2002): a folder with ``xml/*.xml`` and pictures of words in folders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from polylens.errors import InputError
from polylens.generation.formats.entries import Entry, file_entries
from polylens.generation.formats.items import Item, QuestionFormat
from polylens.generation.formats.labels import READ

_SIGNS = re.compile(r"[^a-zA-Z0-9\s]")


def _entries(folder: Path) -> Iterator[Entry]:
    for path in file_entries(folder, "xml/*.xml"):
        try:
            yield Entry(str(path), str(path), list(ElementTree.parse(path).getroot().iter("word")))
        except (ElementTree.ParseError, LookupError, ValueError, OSError) as error:  # an encoding that nobody knows
            yield Entry(str(path), str(path), problem=InputError(f"{path}: not XML: {error}"))


def _items(entry: Entry) -> Iterator[Item]:
    """The words that have a letter or digit, without signs; their pictures lie in ``a01/a01-000u/ID.png``."""
    form = Path(entry.where).name.split(".")[0]
    for number, word in enumerate(entry.value):
        id, text = word.get("id"), word.get("text")
        where = f"{entry.where}: word {number}"
        if id is None or text is None:
            raise InputError(f"{where}: a word needs an id and a text, not {dict(word.attrib)!r:.80}")
        answer = _SIGNS.sub("", text)
        if answer:
            yield Item(id, f"{form.split('-')[0]}/{form}/{id}.png", READ, answer, where)


IAM = QuestionFormat(
    name="IAM",
    about="IAM's folder of xml and pictures of words",
    fits=lambda peek: peek.holds("xml/*.xml"),
    entries=_entries,
    items=_items,
)
