"""The OCR file that is being written: what is done is kept when a run is stopped, and complete when it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.data.ocr.records import parse_record
from polylens.data.records import Line, scan_jsonl
from polylens.errors import InputError
from polylens.files import locked, write_text

__all__ = ["OcrOutput"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record stands, and how many lines of text it has."""

    path: Path
    offset: int
    length: int
    lines: int


class OcrOutput:
    """A file that grows by the records of pictures, and is put into order when all are there.

    Records are appended to ``<file>.partial``. A record that a kill cut off is removed by the next run, which goes on
    after the last whole one. ``<file>.run.json`` (``schemas/ocr_run.schema.json``) says how the records are made: a
    run that makes them otherwise is refused.

    Use it as a context manager.

    Args:
        path: of the file. One that is there already is taken as done before.
        card: how records are made.

    Raises:
        InputError: the file was made in another way, or another process is writing it.
    """

    def __init__(self, path: Path, card: Mapping[str, Any]) -> None:
        self.path, self._partial = path, path.with_name(path.name + ".partial")
        self._card_path = path.with_name(path.name + ".run.json")
        self._places: dict[str, _Place] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = locked(self._partial)
        if lock is None:
            raise InputError(f"another process is writing {path}; wait for its end, or choose another output")
        self._lock = lock
        try:
            self._begin(card)
            self._file = self._take_up()
        except BaseException:
            self._unlock()
            raise

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __enter__(self) -> OcrOutput:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._partial.exists() and not self._partial.stat().st_size:
            self._partial.unlink()
        self._lock.close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append the record of a picture; from here on a kill does not lose it.

        Raises:
            InputError: readers of OCR files would refuse the record.
        """
        data = (json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8")
        line = Line(self._partial, len(self._places) + 1, self._file.tell(), data)
        name, place = _placed(line)
        self._file.write(data)
        self._file.flush()
        self._places[name] = place

    def finish(self, names: Iterable[str]) -> None:
        """Write the file anew, in the order of ``names``, leaving out those that have no record."""
        self._file.flush()
        write_text(self.path, (text for name in names if (text := self._text(name))))
        self._partial.unlink()

    def lines(self, name: str) -> int:
        """How many lines of text a picture has."""
        return self._places[name].lines

    def _text(self, name: str) -> str:
        if name not in self._places:
            return ""
        place = self._places[name]
        with place.path.open("rb") as file:
            file.seek(place.offset)
            return file.read(place.length).decode("utf-8")

    def _begin(self, card: Mapping[str, Any]) -> None:
        """Note how records are made, or see that those of before are made like that."""
        if self._card_path.exists():
            before = read_json_object(self._card_path)
            schemas.check("ocr_run", before, str(self._card_path))
            changed = [f"{key} was {before.get(key)}, now {card[key]}" for key in card if before.get(key) != card[key]]
            if changed:
                raise InputError(
                    f"{self.path} was made with other settings ({self._card_path}): {'; '.join(changed)}. Use the "
                    "same ones to go on, or choose another output"
                )
        elif self.path.exists():
            raise InputError(
                f"{self.path} is there, and no {self._card_path.name} says how it was made; choose another output"
            )
        else:
            write_text(self._card_path, [json.dumps(dict(card), indent=2, ensure_ascii=False), "\n"])

    def _take_up(self) -> IO[bytes]:
        """Find what is done; cut off what a kill left of the last record."""
        if self.path.exists():
            for line in scan_jsonl(self.path):
                self._note(line)
        end = 0
        for line in scan_jsonl(self._partial):
            if not line.data.endswith(b"\n"):
                break
            self._note(line)
            end = line.offset + len(line.data)
        os.truncate(self._partial, end)
        return self._partial.open("ab")

    def _note(self, line: Line) -> None:
        name, place = _placed(line)
        self._places[name] = place


def _placed(line: Line) -> tuple[str, _Place]:
    record = parse_record(line)
    return str(record.image.value), _Place(line.path, line.offset, len(line.data), len(record.lines))
