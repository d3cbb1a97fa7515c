"""Parts of a file of questions that processes of their own answer, each as if it were alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.engine.run_folder import exclusive
from polylens.errors import InputError
from polylens.files import write_text
from polylens.generation.formats.answer_files import AnswerFormat, read_answer_values, write_answer_values
from polylens.generation.parts import parts_folder, run_card

T = TypeVar("T")

_OWN = ("records", "model", "versions")
"""Of how answers were made: what chunks may differ in."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One of several parts of like size, in their order.

    Attributes:
        index: from 0.
        count: how many there are.

    Raises:
        InputError: there is no such chunk.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise InputError(
                f"there is no chunk {self.index} of {self.count}: --chunk-index goes from 0 to --num-chunks less 1"
            )

    def of(self, values: Sequence[T]) -> list[T]:
        """This part of the values.

        Raises:
            InputError: there are fewer values than chunks.

        >>> [Chunk(index, 3).of("abcdefg") for index in range(3)]
        [['a', 'b'], ['c', 'd'], ['e', 'f', 'g']]
        """
        if 0 < len(values) < self.count:
            raise InputError(f"{len(values)} records cannot be divided into {self.count} chunks")
        edges = (len(values) * self.index // self.count, len(values) * (self.index + 1) // self.count)
        return list(values[slice(*edges)])

    def output(self, whole: Path) -> Path:
        """The file of this chunk, beside the file of all answers."""
        return whole if self.count == 1 else self._files(whole)[self.index]

    def _files(self, whole: Path) -> list[Path]:
        named = (f"{whole.stem}.chunk-{index}-of-{self.count}{whole.suffix}" for index in range(self.count))
        return [whole.with_name(name) for name in named]

    def join(self, whole: Path, format: AnswerFormat) -> list[int]:
        """Put the chunks together if all are done; returns those that are not.

        Whichever process ends last does it; of two, one after the other.

        Raises:
            InputError: they were made in different ways, or ``whole`` is of another run.
        """
        files = self._files(whole)
        missing = [index for index, file in enumerate(files) if not file.exists()]
        if not missing:
            with exclusive(parts_folder(whole)):
                self._write(whole, files, format)
        return missing

    def _write(self, whole: Path, files: Sequence[Path], format: AnswerFormat) -> None:
        card = self._card(files)
        if not whole.exists():
            values = (value for file in files for value, _ in read_answer_values(file, format.name)[1])
            write_text(run_card(whole), [json.dumps(card, indent=2, ensure_ascii=False), "\n"])
            write_answer_values(whole, format, values)
        elif _read(whole).get("records") != card["records"]:
            raise InputError(f"{whole} is made of other chunks; choose another --output")

    def check_whole(self, whole: Path) -> None:
        """Whether the file of all answers may be written.

        Raises:
            InputError: it is there, and not made of as many chunks.
        """
        if self.count > 1 and whole.exists() and _read(whole).get("chunks") != self.count:
            raise InputError(f"{whole} exists, and is not made of {self.count} chunks; choose another --output")

    def _card(self, files: Iterable[Path]) -> dict[str, Any]:
        """How all of them were made."""
        cards = [_read(file) for file in files]
        for card in cards[1:]:
            name = next((name for name in cards[0] if name not in _OWN and card.get(name) != cards[0][name]), None)
            if name is not None:
                one, other = cards[0][name], card.get(name)
                raise InputError(f"the chunks cannot be joined: {name} is {one!r} in one and {other!r} in another")
        records = hashlib.sha256("".join(card["records"] for card in cards).encode()).hexdigest()
        return {**cards[0], "records": records, "chunks": self.count}


def _read(output: Path) -> Mapping[str, Any]:
    path = run_card(output)
    if not path.is_file():
        raise InputError(f"{output} exists, and no {path.name} says how it was made; choose another --output")
    card = read_json_object(path)
    schemas.check("prediction", card, str(path))
    return card
