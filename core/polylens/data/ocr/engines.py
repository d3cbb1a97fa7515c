"""Programs that recognise text in pictures, behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from polylens.errors import InputError, closest

__all__ = ["ENGINES", "Engine", "EngineSettings", "line_of", "make_engine"]

ENGINES = ("rapidocr", "tesseract")

PAGE_MODES = (1, 3, 4, 6, 11, 12)
"""Of Tesseract, those that find lines: a page with and without its orientation, one column, one block, sparse text."""


class Engine(Protocol):
    """Recognises the text of pictures, one at a time.

    Attributes:
        name: of the engine, and its version.
    """

    name: str

    def lines(self, image: Image.Image) -> list[dict[str, Any]]:
        """The lines of an RGB picture as an OCR file holds them, in pixels of the picture.

        Raises:
            InputError: the engine fails on the picture.
        """
        ...


@dataclass(frozen=True)
class EngineSettings:
    """What recognises text, and what is kept of it.

    Args:
        engine: ``rapidocr`` or ``tesseract``.
        min_score: lines of which the engine is less sure are left out.
        languages: of Tesseract, such as ``eng`` or ``deu+eng``.
        page_mode: of Tesseract (``--psm``): 3 for pages, 11 for text here and there in a photograph.
    """

    engine: str = "rapidocr"
    min_score: float = 0.5
    languages: str = "eng"
    page_mode: int = 3

    def __post_init__(self) -> None:
        """Raises ``InputError`` for what no engine has."""
        if self.engine not in ENGINES:
            hint = closest(self.engine, ENGINES)
            raise InputError(f"there is no OCR engine {self.engine!r}{hint}; there are {', '.join(ENGINES)}")
        if not 0 <= self.min_score <= 1:
            raise InputError(f"the least score of a line is between 0 and 1, not {self.min_score}")
        if self.page_mode not in PAGE_MODES:
            raise InputError(f"the page mode {self.page_mode} finds no lines; use {', '.join(map(str, PAGE_MODES))}")


def make_engine(settings: EngineSettings) -> Engine:
    """An engine, ready to be used in this process.

    Raises:
        InputError: it, or one of its languages, is not installed.
    """
    if settings.engine == "tesseract":
        from polylens.data.ocr.tesseract import Tesseract

        return Tesseract(settings.languages, settings.page_mode, settings.min_score)
    from polylens.data.ocr.rapid import RapidOcr

    return RapidOcr(settings.min_score)


def line_of(
    corners: Sequence[Sequence[float]], text: str, score: float, size: tuple[int, int]
) -> dict[str, Any] | None:
    """A line of an OCR file, with its box clipped to the picture of ``size``; ``None`` if nothing of it is left.

    Args:
        corners: of the line, [x, y] each. Where they are not those of an upright box they are kept as ``polygon``.
    """
    x, y = ([float(corner[axis]) for corner in corners] for axis in (0, 1))
    left, right = max(min(x), 0.0), min(max(x), float(size[0]))
    top, bottom = max(min(y), 0.0), min(max(y), float(size[1]))
    text = " ".join(text.split())
    box = [round(value, 2) for value in (left, top, right, bottom)]
    if not text or not (box[0] < box[2] and box[1] < box[3]):
        return None
    line: dict[str, Any] = {"box": box, "text": text, "score": round(min(max(score, 0.0), 1.0), 4)}
    if len(set(x)) > 2 or len(set(y)) > 2:
        line["polygon"] = [[round(float(value), 2) for value in corner] for corner in corners]
    return line
