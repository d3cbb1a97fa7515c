"""What a file of questions holds, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from polylens.config import schemas
from polylens.data.records import BadRecord
from polylens.errors import InputError
from polylens.files import write_text
from polylens.generation.formats.entries import Entry, Peek

__all__ = ["BadItems", "Item", "QuestionFormat", "read_items"]


@dataclass(frozen=True, slots=True)
class Item:
    """A question of a benchmark.

    Attributes:
        id: of the question, or its place where the format has no ids.
        image: path of its picture, relative to the folder of pictures; ``None`` if it is about none.
        question: what is asked.
        answers: what is known to be right, as the file has it: a text, several, or nothing.
        where: file, line and JSON pointer; every item has its own.
        fields: what else files of answers repeat.
    """

    id: str
    image: str | None
    question: str
    answers: Any
    where: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def raw(self) -> str:
        """In words, for a file of bad records."""
        value = {"id": self.id, "image": self.image, "question": self.question, "answers": self.answers}
        return json.dumps(value, ensure_ascii=False)

    @property
    def references(self) -> tuple[str, ...]:
        """The answers that are texts or numbers."""
        several = self.answers if isinstance(self.answers, list) else [self.answers]
        return tuple(str(one) for one in several if isinstance(one, str | int | float) and not isinstance(one, bool))


@dataclass(frozen=True, slots=True)
class QuestionFormat:
    """How files of questions are read.

    Attributes:
        about: whose format it is, in a few words.
        fits: whether a file or folder is of this format, as far as its beginning shows.
        entries: what it holds, one by one, not yet checked.
        items: the questions of an entry.
        schema: of an entry, if it is JSON.
        pictures: where pictures lie, seen from the folder of the file.
        answers: format in which answers are written.
    """

    name: str
    about: str
    fits: Callable[[Peek], bool]
    entries: Callable[[Path], Iterator[Entry]]
    items: Callable[[Entry], Iterator[Item]]
    schema: str | None = None
    pictures: str = "."
    answers: str = "mmocr"

    def read(self, path: Path, bad: BadItems | None) -> Iterator[Item]:
        """The items of a file.

        Args:
            bad: is told of entries that cannot be used.

        Raises:
            InputError: there is such an entry, and ``bad`` is ``None``; or the file cannot be read.
        """
        for entry in self.entries(path):
            try:
                found = self._checked(entry)
            except InputError as error:
                if bad is None:
                    raise
                bad.add(entry, error)
            else:
                yield from found

    def _checked(self, entry: Entry) -> list[Item]:
        if entry.problem is not None:
            raise entry.problem
        problems = [] if self.schema is None else schemas.errors(self.schema, entry.value)
        if problems:
            raise BadRecord(entry.where, problems)
        return list(self.items(entry))

    def picture_folder(self, path: Path) -> Path:
        """Where the pictures of a file, or a folder, lie."""
        return (path if path.is_dir() else path.parent) / self.pictures


class BadItems:
    """Entries that cannot be used, kept in mind until all of them are known.

    Attributes:
        errors: by the place of the entry or question.
    """

    def __init__(self) -> None:
        self.errors: dict[str, InputError] = {}
        self._raw: dict[str, str] = {}

    def add(self, part: Entry | Item, error: InputError) -> None:
        """Keep an entry or question in mind."""
        self.errors[part.where] = error
        self._raw[part.where] = part.raw

    def know(self, item: Item) -> None:
        """Keep the words of a question that may yet turn out to be bad."""
        self._raw[item.where] = item.raw

    def write(self, files: Sequence[Path], path: Path) -> None:
        """Set them aside in a file (``schemas/quarantine.schema.json``), those first that were found while reading."""
        lines = (
            {"where": where, "reason": str(error), "record": self._raw[where]} for where, error in self.errors.items()
        )
        texts = (json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_text(path, (text.encode("utf-8", "backslashreplace").decode("utf-8") for text in texts))


def read_items(
    paths: Sequence[Path], format: QuestionFormat, bad: BadItems | None, limit: int | None
) -> Iterator[tuple[Path, Item]]:
    """The items of files, each with its file.

    Args:
        limit: how many of them at most, counted over all files.
    """
    found = ((path, item) for path in paths for item in format.read(path, bad))
    return islice(found, limit)
