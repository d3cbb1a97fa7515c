"""Answers of batches on disk until all are there, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.errors import InputError
from polylens.files import write_text
from polylens.generation.generator import Answer

_INCIDENTAL = ("model", "versions")
"""What may differ when a run goes on: weights are compared, not where they lie."""


class Parts:
    """What is done of a file of answers.

    Each start writes files of its own into the folder ``<output>.parts``, one line a batch; a line that was cut short
    does not count. Beside the output lies ``<output>.run.json`` (``schemas/prediction.schema.json``), which says how
    the answers were made: a run goes on only with what has the same settings.

    Args:
        output: the file of answers, which appears when all are there.
        run: content of ``<output>.run.json``.
    """

    def __init__(self, output: Path, run: Mapping[str, Any]) -> None:
        self.output, self._run = output, dict(run)
        self.folder = parts_folder(output)
        self._card = run_card(output)

    def done(self) -> set[int] | None:
        """The batches that are done, or ``None`` if the output is there.

        Raises:
            InputError: the output is of another run.
        """
        self._check()
        return None if self.output.exists() else set(self._read())

    def begin(self) -> None:
        """Say what is being made, before anything is; for one process."""
        write_text(self._card, [json.dumps(self._run, indent=2, ensure_ascii=False), "\n"])

    def _check(self) -> None:
        if self.output.exists() and not self._card.is_file():
            raise InputError(
                f"{self.output} exists, and no {self._card.name} says how it was made; choose another --output"
            )
        if not self._card.is_file() or not (self.output.exists() or self._files()):
            return
        old = read_json_object(self._card)
        schemas.check("prediction", old, str(self._card))
        for name in self._run:
            if name not in _INCIDENTAL and old.get(name) != self._run[name]:
                raise InputError(
                    f"{self.output} was begun with {_difference(name, old.get(name), self._run[name])}; choose "
                    f"another --output, or delete {self._card.name} and what lies beside it"
                )

    @contextmanager
    def writer(self, rank: int) -> Iterator[PartWriter]:
        """A new file for what this rank does."""
        number = sum(path.name.startswith(f"{rank}-") for path in self._files())
        with (self.folder / f"{rank}-{number}.jsonl").open("x", encoding="utf-8") as file:
            yield PartWriter(file)

    def answers(self) -> list[Answer]:
        """All answers, in the order of the records."""
        placed = {place: answer for batch in self._read().values() for place, answer in batch}
        return [placed[place] for place in range(len(placed))]

    def clear(self) -> None:
        """Delete the parts."""
        for path in self._files():
            path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*-*.jsonl"))

    def _read(self) -> dict[int, list[tuple[int, Answer]]]:
        """Places and answers of every batch that was written down whole."""
        found = {}
        for path in self._files():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    value = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:  # of a machine that lost its power
                    value = None
                if value is not None:
                    found[value["batch"]] = [(place, Answer(**answer)) for place, answer in value["answers"]]
        return found


class PartWriter:
    """Writes answers of batches down, each at once and for good."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def add(self, batch: int, places: Sequence[int], answers: Iterable[Answer]) -> None:
        pairs = [(place, asdict(answer)) for place, answer in zip(places, answers, strict=True)]
        self._file.write(json.dumps({"batch": batch, "answers": pairs}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def run_card(output: Path) -> Path:
    """The file that says how a file of answers was made."""
    return output.with_name(f"{output.name}.run.json")


def parts_folder(output: Path) -> Path:
    """Where the parts of a file of answers lie."""
    return output.with_name(f"{output.name}.parts")


def _difference(name: str, old: Any, new: Any) -> str:
    """What is different, in few words."""
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(key for key in {**old, **new} if old.get(key) != new.get(key))
        return _difference(inner, old.get(inner), new.get(inner))
    if name in ("records", "weights"):
        return f"other {name}"
    return f"{name} {old!r}, and now it is {new!r}"
