"""Makes conversations files of other forms, and of lists of pictures with texts, and divides them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from polylens.contracts import ImageRef, Record
from polylens.data.captions import ListLayout, read_captions
from polylens.data.conversations import ConversationReader, conversation_files
from polylens.data.hash_splits import HashSplits
from polylens.data.images import ImageOpener
from polylens.data.placeholders import PLACEHOLDER
from polylens.data.records import Line, Quarantine, parse_line
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["Conversion", "ConversionReport", "convert_conversations"]

_SPOKEN = {"human": "user", "gpt": "assistant"}
_LLAVA = {"user": "human", "assistant": "gpt"}
WHOLE = "conversations"
"""Name of the only file, if nothing is divided."""


@dataclass(frozen=True)
class Conversion:
    """What becomes of records.

    Args:
        turns: ``role`` writes ``role`` and ``content``, as MiniCPM-V has them; ``from`` writes ``from`` and ``value``
            with ``human`` and ``gpt``, as LLaVA has them.
        prompt: what the user asks about every picture of a list; without it the files are conversations.
        layout: of lists.
        splits: name -> part of the records; empty: one file.
        split_by: what stays in one split: the record (``id``), everything about a picture (``image``), or everything
            with the same answers (``answer``).
        seed: of the division.
        pictures: ``check`` looks at the header of every picture, ``trust`` at none.
    """

    turns: Literal["role", "from"] = "role"
    prompt: str | None = None
    layout: ListLayout = field(default_factory=ListLayout)
    splits: Mapping[str, float] = field(default_factory=dict)
    split_by: Literal["id", "image", "answer"] = "id"
    seed: int = 42
    pictures: Literal["check", "trust"] = "check"

    def __post_init__(self) -> None:
        """Raises ``InputError`` for a prompt that asks nothing."""
        if self.prompt is not None and (not self.prompt.strip() or PLACEHOLDER.search(self.prompt)):
            raise InputError(f"the prompt {self.prompt!r} must be a question, without placeholders of pictures")


@dataclass
class ConversionReport:
    """What was written.

    Attributes:
        files: name -> number of records.
        image_root: folder that the pictures' paths start from, if it is not that of the files.
        quarantined: bad records that were set aside.
    """

    files: dict[Path, int]
    image_root: Path | None
    quarantined: int


def convert_conversations(
    inputs: Sequence[str | Path],
    output: str | Path,
    conversion: Conversion,
    *,
    image_root: str | Path | None = None,
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> ConversionReport:
    """Write the records of files into ``<output>/<split>.jsonl``, in their order.

    Picture paths start from ``output`` if the pictures lie below it, else from the image root of the inputs.

    Args:
        inputs: conversations files, or with a prompt lists of pictures with texts.
        image_root: where relative picture paths start; by default the folder of each file.

    Raises:
        InputError: a bad record (with ``on_bad_record="error"``), or a split that gets no record.
    """
    files, output = conversation_files(inputs), Path(output)
    root = (
        Path(image_root) if image_root is not None else Path(os.path.commonpath([f.parent.resolve() for f in files]))
    )
    splits = HashSplits(conversion.splits or {WHOLE: 1.0}, conversion.seed)
    _check_inputs_stay(files, [output / f"{name}.jsonl" for name in splits.parts])
    places = _Places(root, None if image_root is not None else root, output)
    divided: dict[str, list[str]] = {name: [] for name in splits.parts}
    with Quarantine(on_bad_record, output / "quarantine.jsonl") as bad:
        source = _Source(conversion, places, bad)
        for file in files:
            for value in tqdm(source.records(file), unit="record", desc=file.name, disable=None):
                split = splits.split(_key(value, conversion.split_by))
                divided[split].append(json.dumps(value, ensure_ascii=False) + "\n")
    _check_filled(divided, bad.count)
    for name, lines in divided.items():
        write_text(output / f"{name}.jsonl", lines)
    counts = {name: len(lines) for name, lines in divided.items()}
    write_text(output / "conversion.json", [json.dumps(_card(conversion, counts, bad.count), indent=2), "\n"])
    report_root = None if places.inside else root
    return ConversionReport(
        {output / f"{name}.jsonl": count for name, count in counts.items()}, report_root, bad.count
    )


def _check_inputs_stay(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    both = {path.resolve() for path in inputs} & {path.resolve() for path in outputs}
    if both:
        raise InputError(f"{both.pop()} would be replaced by what is made of it; choose another output")


@dataclass(frozen=True)
class _Places:
    """Where pictures lie, and how paths to them are written.

    Attributes:
        root: what the paths of the opener start from.
        common: folder above all input files, if paths start from each file's own.
    """

    root: Path
    common: Path | None
    output: Path

    @property
    def inside(self) -> bool:
        return self.root.resolve().is_relative_to(self.output.resolve())

    def of_file(self, file: Path) -> str:
        """The folder of a file's pictures, below the root."""
        return "" if self.common is None else _below(os.path.relpath(file.parent.resolve(), self.common))

    def written(self, path: str, folder: str) -> str:
        if os.path.isabs(path):
            return path
        prefix = os.path.relpath(self.root.resolve(), self.output.resolve()) if self.inside else ""
        return Path(_below(prefix), folder, path).as_posix()


def _below(folder: str) -> str:
    return "" if folder == "." else folder


@dataclass(frozen=True)
class _Source:
    """Reads records in their new form."""

    conversion: Conversion
    places: _Places
    bad: Quarantine

    def records(self, file: Path) -> Iterator[dict[str, Any]]:
        folder = self.places.of_file(file)
        read = self._conversations if self.conversion.prompt is None else self._captions
        opener = ImageOpener(self.places.root)
        for line, value, paths in read(file, folder):
            try:
                if self.conversion.pictures == "check":
                    for path in paths:
                        opener.size(ImageRef("path", path), f"{line.where}: record {value.get('id', '')!r}")
            except InputError as error:
                self.bad.add(line, error)
            else:
                yield value

    def _conversations(self, file: Path, folder: str) -> Iterator[tuple[Line, dict[str, Any], list[str]]]:
        reader = ConversationReader(None, self.bad, answered=False, check_documents=False)
        for line, record in reader.lines(file, folder):
            value = parse_line(line)
            turns = [(turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))) for turn in
                     value["conversations"]]  # fmt: skip
            value = {**value, "conversations": self._turns(_shown(turns, record))}
            if "image" in value:
                value["image"] = self._moved(value["image"], folder)
            yield line, value, [str(ref.value) for ref in record.images if ref.kind == "path"]

    def _captions(self, file: Path, folder: str) -> Iterator[tuple[Line, dict[str, Any], list[str]]]:
        for caption in read_captions(file, self.conversion.layout, self.bad):
            turns = [("user", f"<image>\n{self.conversion.prompt}"), ("assistant", caption.text)]
            image = self.places.written(caption.image, folder)
            value = {"id": caption.id, "image": image, "conversations": self._turns(turns)}
            yield caption.line, value, [os.path.join(folder, caption.image)]

    def _turns(self, turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
        spoken = [(_SPOKEN.get(role, role), text) for role, text in turns]
        if self.conversion.turns == "from":
            return [{"from": _LLAVA.get(role, role), "value": text} for role, text in spoken]
        return [{"role": role, "content": text} for role, text in spoken]

    def _moved(self, image: Any, folder: str) -> Any:
        """The pictures of a record with paths as they are written; documents stay."""
        if isinstance(image, str):
            return self.places.written(image, folder)
        if isinstance(image, list):
            return [self._moved(picture, folder) for picture in image]
        if isinstance(image, dict) and image.keys() != {"document"}:
            return {name: self._moved(picture, folder) for name, picture in image.items()}
        return image


def _shown(turns: Sequence[tuple[str, str]], record: Record) -> list[tuple[str, str]]:
    """The turns with the placeholder that other programs need where a single picture has none."""
    asked = [number for number, (role, _) in enumerate(turns) if _SPOKEN.get(role, role) == "user"]
    if not record.images or any(PLACEHOLDER.search(turns[number][1]) for number in asked):
        return list(turns)
    return [(role, f"<image>\n{text}" if number == asked[0] else text) for number, (role, text) in enumerate(turns)]


def _key(value: Mapping[str, Any], by: str) -> str:
    """What a record is divided by; without an id, by all that it holds."""
    if by == "image" and value.get("image"):
        return json.dumps(value["image"], sort_keys=True)
    if by == "answer":
        answers = [_said(turn) for turn in value["conversations"] if turn.get("role", turn.get("from")) in _ANSWERS]
        return json.dumps(answers)
    if "id" in value:
        return str(value["id"])
    return hashlib.sha256(json.dumps([value.get("image"), [*map(_said, value["conversations"])]]).encode()).hexdigest()


_ANSWERS = ("assistant", "gpt")


def _said(turn: Mapping[str, str]) -> str:
    return turn["content"] if "content" in turn else turn["value"]


def _check_filled(divided: Mapping[str, Sequence[str]], bad: int) -> None:
    total = sum(map(len, divided.values()))
    if not total:
        raise InputError("no record is left" + (f"; {bad} bad records were set aside" if bad else ""))
    for name, lines in divided.items():
        if not lines:
            raise InputError(f"split {name} gets none of {total} records; give it a larger part, or another seed")


def _card(conversion: Conversion, counts: Mapping[str, int], bad: int) -> dict[str, Any]:
    """``conversion.json`` (``schemas/conversion.schema.json``)."""
    settings = {**asdict(conversion), "layout": None if conversion.prompt is None else asdict(conversion.layout)}
    return {"settings": settings, "records": dict(counts), "quarantined": bad}
