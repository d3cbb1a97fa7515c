"""One line of an OCR file: what it says about a picture, and whether that can be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.documents import check_id
from polylens.data.records import BadRecord, Line, parse_line

__all__ = ["OcrLine", "OcrRecord", "box_problem", "parse_record", "reach"]

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class OcrLine:
    """A line of text in a picture.

    Attributes:
        box: left, top, right and bottom in pixels of the original picture; inside of it, and not empty.
        text: not blank.
        score: how sure the engine is, from 0 to 1.
    """

    box: Box
    text: str
    score: float


@dataclass(frozen=True, slots=True)
class OcrRecord:
    """What was recognised in a picture of ``size`` (width, height)."""

    image: ImageRef
    size: tuple[int, int]
    engine: str
    lines: tuple[OcrLine, ...]


def reach(size: tuple[int, int]) -> float:
    """Pixels by which a box may stick out of a picture: 2, or 2 % of the longer side.

    Engines let boxes reach over the edge a little; what does is clipped. A box that reaches further is of another
    picture, or of another size of it.
    """
    return max(2.0, 0.02 * max(size))


def parse_record(line: Line) -> OcrRecord:
    """The record of a line (``schemas/ocr.schema.json``), with boxes clipped to the picture.

    Raises:
        InputError: it is no such record; or a box is empty, wholly outside of the picture or more than ``reach``
            outside of it; or a text is blank.
    """
    value = parse_line(line)
    name = _name(value)
    problems = [] if _certainly_valid(value) else schemas.errors("ocr", value)
    if problems:
        raise BadRecord(line.where, problems, record=name)
    size = value["width"], value["height"]
    problems = list(_problems(value["lines"], size))
    if problems:
        raise BadRecord(line.where, problems, record=name)
    kind = "document" if "document" in value else "path"
    found = (OcrLine(_clipped(item["box"], size), item["text"], float(item["score"])) for item in value["lines"])
    return OcrRecord(ImageRef(kind, check_id(name, line.where)), size, value["engine"], tuple(found))


def _name(value: Any) -> str:
    given = value.get("image", value.get("document")) if isinstance(value, dict) else None
    return given if isinstance(given, str) else ""


def _problems(lines: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> Iterator[str]:
    for number, line in enumerate(lines):
        problem = box_problem(line["box"], size)
        if problem:
            yield f"/lines/{number}/box: {problem}"
        if not line["text"].strip():
            yield f"/lines/{number}/text: the text {line['text']!r} is blank; leave the line out"


def box_problem(box: Sequence[float], size: tuple[int, int]) -> str:
    """Why a box cannot be that of a line in a picture of ``size``; empty if it can."""
    left, top, right, bottom = box
    if not (left < right and top < bottom):
        return f"{list(box)} is empty; a box is [left, top, right, bottom] with left < right and top < bottom"
    if right <= 0 or bottom <= 0 or left >= size[0] or top >= size[1]:
        return f"{list(box)} lies outside of the picture of {size[0]} x {size[1]} pixels"
    outside, allowed = max(-left, -top, right - size[0], bottom - size[1]), reach(size)
    if outside > allowed:
        return (
            f"{list(box)} reaches {outside:g} pixels out of the picture of {size[0]} x {size[1]} pixels, which may be "
            f"{allowed:g}: are these boxes of another size of the picture?"
        )
    return ""


def _clipped(box: Sequence[float], size: tuple[int, int]) -> Box:
    left, top, right, bottom = box
    return max(0.0, float(left)), max(0.0, float(top)), min(float(size[0]), right), min(float(size[1]), bottom)


_KEYS = ({"image", "width", "height", "engine", "lines"}, {"document", "width", "height", "engine", "lines"})
_LINES = ({"box", "text", "score"}, {"box", "text", "score", "polygon"})

_MOST = 10**9
"""Pixels, so that every number has a float."""


def _certainly_valid(value: Any) -> bool:
    """Whether the schema would accept the record, answered at once for records as programs write them."""
    return (
        (type(value) is dict and value.keys() in _KEYS)
        and (type(_name(value)) is str and _name(value) != "")
        and all(type(value[side]) is int and 1 <= value[side] <= _MOST for side in ("width", "height"))
        and (type(value["engine"]) is str and value["engine"] != "")
        and (type(value["lines"]) is list and all(map(_is_line, value["lines"])))
    )


def _is_line(value: Any) -> bool:
    return (
        (type(value) is dict and value.keys() in _LINES and type(value["text"]) is str and value["text"] != "")
        and (type(value["score"]) in (int, float) and 0 <= value["score"] <= 1)
        and _are_numbers(value["box"], 4)
        and ("polygon" not in value or _is_polygon(value["polygon"]))
    )


def _is_polygon(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(_are_numbers(point, 2) for point in value)


def _are_numbers(value: Any, count: int) -> bool:
    return type(value) is list and len(value) == count and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_MOST <= value <= _MOST
