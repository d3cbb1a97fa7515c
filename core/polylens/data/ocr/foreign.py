"""Lists of OCR lines as the scripts of REMGCL write them, made into an OCR file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.images import ImageOpener
from polylens.data.ocr.engines import line_of
from polylens.data.ocr.records import box_problem
from polylens.data.records import BadRecord, Line, Quarantine, parse_line, scan_records
from polylens.errors import InputError
from polylens.files import write_text

__all__ = ["OcrConversion", "convert_ocr"]

ENGINE = "paddleocr, converted"

_SHARES = 1.5
"""No corner's share of the width or height is larger; a larger number counts pixels."""


@dataclass(frozen=True, slots=True)
class OcrConversion:
    """What was written: pictures, lines, and pictures that were set aside."""

    pictures: int
    lines: int
    quarantined: int


def convert_ocr(
    inputs: Sequence[str | Path],
    output: Path,
    *,
    image_root: Path | None = None,
    on_bad_record: Literal["error", "quarantine"] = "error",
) -> OcrConversion:
    """Write ``ocr.jsonl`` (``schemas/ocr.schema.json``) into a folder.

    Inputs (``schemas/ocr_list.schema.json``) hold for each picture ``[[4 corners], [text, score]]`` a line, or null.
    Corners are shares of width and height, or pixels if any is larger than 1.5. Sizes are those of the pictures; of
    pictures that are not there, those of the records.

    Args:
        image_root: where paths start; by default the folder of the first input.

    Raises:
        InputError: a bad record (with ``on_bad_record="error"``), or none is left.
    """
    files = [Path(path) for path in inputs]
    opener = ImageOpener(image_root or files[0].parent)
    made: dict[str, tuple[Line, str, int]] = {}
    with Quarantine(on_bad_record, output / "quarantine.jsonl") as bad:
        for line in _lines(files):
            try:
                record = _record(line, opener)
                if record["image"] in made:
                    raise BadRecord(line.where, [f"/image: {made[record['image']][0].where} is about it already"])
            except InputError as error:
                bad.add(line, error)
            else:
                made[record["image"]] = line, json.dumps(record, ensure_ascii=False) + "\n", len(record["lines"])
    if not made:
        raise InputError("no OCR record is left" + (f"; {bad.count} were set aside" if bad.count else ""))
    write_text(output / "ocr.jsonl", (text for _, text, _ in made.values()))
    return OcrConversion(len(made), sum(count for *_, count in made.values()), bad.count)


def _lines(files: Sequence[Path]) -> Iterator[Line]:
    for file in files:
        yield from tqdm(scan_records(file), unit="picture", desc=file.name, disable=None)


def _record(line: Line, opener: ImageOpener) -> dict[str, Any]:
    value = parse_line(line)
    problems = schemas.errors("ocr_list", value)
    if problems:
        raise BadRecord(line.where, problems, record=str(value.get("id", "")) if isinstance(value, dict) else "")
    size = _size(value, line, opener)
    found = value["ocr"] or []
    numbers = [number for corners, _ in found for corner in corners for number in corner]
    scale = (1, 1) if any(number > _SHARES for number in numbers) else size
    placed = [([(x * scale[0], y * scale[1]) for x, y in corners], said) for corners, said in found]
    problems = [
        f"/ocr/{n}/0: {problem}" for n, (corners, _) in enumerate(placed) if (problem := _problem(corners, size))
    ]
    if problems:
        raise BadRecord(line.where, problems, record=value["image"])
    lines = [line_of(corners, said[0], float(said[1]), size) for corners, said in placed]
    kept = [line for line in lines if line is not None]
    return {"image": value["image"], "width": size[0], "height": size[1], "engine": ENGINE, "lines": kept}


def _problem(corners: Sequence[tuple[float, float]], size: tuple[int, int]) -> str:
    x, y = zip(*corners, strict=True)
    return box_problem((min(x), min(y), max(x), max(y)), size)


def _size(value: dict[str, Any], line: Line, opener: ImageOpener) -> tuple[int, int]:
    said = (value["width"], value["height"]) if {"width", "height"} <= value.keys() else None
    try:
        size = opener.size(ImageRef("path", value["image"]), line.where)
    except InputError:
        if said is None:
            raise
        return said
    if said not in (None, size):
        raise BadRecord(
            line.where, [f"/width: the picture has {size[0]} x {size[1]} pixels, not {said[0]} x {said[1]}"]
        )
    return size
