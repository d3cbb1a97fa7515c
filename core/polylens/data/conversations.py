"""Reads conversations, as MiniCPM-V and LLaVA write them, into records that a model can be given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from polylens.config import schemas
from polylens.contracts import ImageRef, Message, Record
from polylens.data.documents import DocumentSource, check_id, missing
from polylens.data.pairs import BadRecords
from polylens.data.placeholders import Said, pictures_of, place_pictures
from polylens.data.records import BadRecord, Line, Quarantine, parse_line, scan_records
from polylens.errors import InputError

__all__ = ["ConversationReader", "Conversations", "conversation_files", "read_conversations", "scan_conversations"]

_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}


@dataclass(frozen=True, slots=True)
class Conversations:
    """Conversations in file order.

    Attributes:
        records: their pictures are paths under ``image_root``, or documents.
        quarantined: bad records that were set aside.
        image_root: folder for an ``ImageOpener``.
    """

    records: list[Record]
    quarantined: int
    image_root: Path


def read_conversations(
    paths: Sequence[str | Path],
    *,
    image_root: str | Path | None = None,
    documents: DocumentSource | None = None,
    answered: bool = True,
    on_bad_record: Literal["error", "quarantine"] = "error",
    quarantine: Path | None = None,
) -> Conversations:
    """Read conversations files: JSON Lines, or a JSON array of records (``schemas/conversations.schema.json``).

    Pictures are not opened. Ids need not be unique.

    Args:
        paths: files, or folders of ``*.jsonl`` and ``*.json`` files.
        image_root: where relative picture paths start; by default the folder of each file.
        documents: what pictures of the form ``{"document": id}`` refer to.
        answered: every conversation must end with an answer, as training needs it.
        quarantine: file for bad records; needed if they are not errors.

    Raises:
        InputError: a bad record (with ``on_bad_record="error"``), or none is left.
    """
    with Quarantine(on_bad_record, quarantine) as bad:
        records, root = scan_conversations(paths, bad, image_root=image_root, documents=documents, answered=answered)
    if not records:
        aside = f"; {bad.count} bad records were set aside in {quarantine}" if bad.count else ""
        raise InputError(f"no conversations are left in {', '.join(map(str, paths))}{aside}")
    return Conversations(records, bad.count, root)


def scan_conversations(
    paths: Sequence[str | Path],
    bad: BadRecords,
    *,
    image_root: str | Path | None = None,
    documents: DocumentSource | None = None,
    answered: bool = True,
) -> tuple[list[Record], Path]:
    """The good records of files, and the folder that their pictures lie under; ``bad`` is told of the others."""
    files = conversation_files(paths)
    root = Path(image_root) if image_root is not None else _common_folder(files)
    reader = ConversationReader(documents, bad, answered=answered)
    records = [
        record
        for file in files
        for record in reader.read(file, "" if image_root is not None else os.path.relpath(file.parent, root))
    ]
    return records, root


def conversation_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files themselves, and the ``*.jsonl`` and ``*.json`` files of folders, in order of name."""
    found: list[Path] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        inside = sorted([*path.glob("*.jsonl"), *path.glob("*.json")]) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"the folder {path} has no *.jsonl or *.json file")
        found += inside
    return found


def _common_folder(files: Sequence[Path]) -> Path:
    folders = {file.parent for file in files}
    return folders.pop() if len(folders) == 1 else Path(os.path.commonpath([folder.resolve() for folder in folders]))


class ConversationReader:
    """Turns lines into records and tells ``bad`` of those that cannot be used.

    Args:
        documents: ids are checked against it; with ``None`` no picture may be a document.
        answered: every conversation must end with an answer.
        check_documents: ``False`` takes ids as they are, for programs that only count.
    """

    def __init__(
        self,
        documents: DocumentSource | None,
        bad: BadRecords,
        *,
        answered: bool = True,
        check_documents: bool = True,
    ) -> None:
        self._documents, self._bad, self._answered = documents, bad, answered
        self._check_documents = check_documents

    def read(self, path: str | Path, folder: str = "") -> Iterator[Record]:
        """The good records of a file, in order; ``folder`` is put before relative picture paths."""
        return (record for _, record in self.lines(path, folder))

    def lines(self, path: str | Path, folder: str = "") -> Iterator[tuple[Line, Record]]:
        """The good records of a file, each with its line."""
        for line in scan_records(path):
            try:
                record = self._record(line, folder)
            except InputError as error:
                self._bad.add(line, error)
            else:
                yield line, record

    def _record(self, line: Line, folder: str) -> Record:
        value = parse_line(line)
        problems = [] if _certainly_valid(value) else schemas.errors("conversations", value)
        id = _id(value, line)
        if problems:
            raise BadRecord(line.where, problems, record=id)
        turns = [_said(number, turn) for number, turn in enumerate(value["conversations"])]
        pictures, named = pictures_of(value.get("image"))
        refs = {name: _reference(picture, folder) for name, picture in pictures.items()}
        parts, problems = place_pictures(turns, refs, named)
        problems = [*_order_problems(turns, self._answered), *_empty_problems(turns), *problems]
        problems += self._document_problems(refs.values())
        if problems:
            raise BadRecord(line.where, problems, record=id)
        messages = (Message(turn.role, own) for turn, own in zip(turns, parts, strict=True))  # type: ignore[arg-type]
        return Record(id, tuple(messages), line.where)

    def _document_problems(self, pictures: Iterable[ImageRef]) -> list[str]:
        ids = [str(picture.value) for picture in pictures if picture.kind == "document"]
        if not ids or not self._check_documents:
            return []
        if self._documents is None:
            return ["/image: no document store was given, so a document has no picture"]
        return [f"/image: {missing(id, self._documents)}" for id in ids if id not in self._documents]


def _id(value: Any, line: Line) -> str:
    given = value.get("id") if isinstance(value, dict) else None
    return f"{line.path.name}:{line.place}" if given is None else check_id(str(given), line.where)


def _said(number: int, turn: Mapping[str, str]) -> Said:
    role, text = ("role", "content") if "role" in turn else ("from", "value")
    return Said(_ROLES[turn[role]], turn[text], f"/conversations/{number}/{text}")


def _reference(picture: Any, folder: str) -> ImageRef:
    if isinstance(picture, dict):
        return ImageRef("document", picture["document"])
    return ImageRef("path", picture if folder in ("", ".") else os.path.join(folder, picture))


def _order_problems(turns: Sequence[Said], answered: bool) -> list[str]:
    """The first who speaks out of turn, and a question that is left open."""
    start = 1 if turns[0].role == "system" else 0
    for number, turn in enumerate(turns[start:], start):
        expected = ("user", "assistant")[(number - start) % 2]
        if turn.role != expected:
            found = "the conversation starts with" if number == start else "this turn is of"
            return [f"/conversations/{number}: {found} the {turn.role}; turns are user, assistant, user, ..."]
    if len(turns) == start:
        return ["/conversations: nothing comes after the system turn"]
    if answered and turns[-1].role != "assistant":
        return [f"/conversations/{len(turns) - 1}: the last turn has no answer, so there is nothing to learn from it"]
    return []


def _empty_problems(turns: Sequence[Said]) -> list[str]:
    names = {"assistant": "an empty answer", "user": "an empty question", "system": "an empty system turn"}
    return [f"{turn.pointer}: {names[turn.role]}" for turn in turns if not turn.text.strip()]


_KEYS = {"id", "image", "conversations"}
_TURNS = ({"role", "content"}, {"from", "value"})


def _certainly_valid(value: Any) -> bool:
    """Whether the schema would accept the record, answered at once for records as programs write them."""
    if type(value) is not dict or not value.keys() <= _KEYS:
        return False
    turns, image, id = value.get("conversations"), value.get("image", ""), value.get("id", "x")
    return (
        (type(id) is int or (type(id) is str and id != ""))
        and ("image" not in value or (type(image) is str and image != ""))
        and (type(turns) is list and bool(turns) and all(map(_is_turn, turns)))
    )


def _is_turn(turn: Any) -> bool:
    if type(turn) is not dict or turn.keys() not in _TURNS:
        return False
    speaker = turn.get("role", turn.get("from"))
    return type(speaker) is str and speaker in _ROLES and type(turn.get("content", turn.get("value"))) is str
