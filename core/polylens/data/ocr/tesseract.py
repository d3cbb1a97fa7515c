"""Tesseract, as a program of the machine (https://tesseract-ocr.github.io)."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from polylens.data.ocr.engines import line_of
from polylens.errors import InputError

__all__ = ["Tesseract"]

_PROGRAM = "tesseract"
_CJK = r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]"
_BETWEEN_CJK = re.compile(rf"(?<={_CJK}) (?={_CJK})")
_LINE = ("page_num", "block_num", "par_num", "line_num")
_MARGIN = 8
"""Pixels around a picture: text at its very edge is not found."""


class Tesseract:
    """Recognises lines in the languages whose data are installed.

    Args:
        languages: as Tesseract names them, joined by ``+``.
        page_mode: how it looks for lines (``--psm``).
        min_score: lines whose words have a lower mean confidence are left out.

    Raises:
        InputError: the program or a language is not installed.
    """

    def __init__(self, languages: str = "eng", page_mode: int = 3, min_score: float = 0.5) -> None:
        self.name = f"tesseract {_version()}"
        self._languages, self._page_mode, self._min_score = languages, page_mode, min_score
        known = _run(["--list-langs"]).decode(errors="replace").splitlines()[1:]
        missing = [language for language in languages.split("+") if language not in known]
        if missing:
            raise InputError(
                f"tesseract has no data of the language {', '.join(map(repr, missing))}, it has {', '.join(known)}; "
                "in Debian and Ubuntu: apt-get install tesseract-ocr-LANGUAGE"
            )

    def lines(self, image: Image.Image) -> list[dict[str, Any]]:
        """See ``Engine``."""
        canvas = Image.new("RGB", (image.width + 2 * _MARGIN, image.height + 2 * _MARGIN), "white")
        canvas.paste(image, (_MARGIN, _MARGIN))
        buffer = io.BytesIO()
        canvas.save(buffer, "PPM")
        options = ["stdin", "stdout", "-l", self._languages, "--psm", str(self._page_mode), "tsv"]
        table = _run(options, buffer.getvalue()).decode("utf-8", errors="replace")
        return list(_lines(csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE), image.size,
                           self._min_score))  # fmt: skip


def _lines(rows: Iterable[Mapping[str, str]], size: tuple[int, int], min_score: float) -> Iterable[dict[str, Any]]:
    boxes: dict[tuple[str, ...], Mapping[str, str]] = {}
    words: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        key = tuple(row[name] for name in _LINE)
        if row["level"] == "4":
            boxes[key] = row
        elif row["level"] == "5" and row["text"].strip():
            words.setdefault(key, []).append(row)
    for key, said in words.items():
        text = _BETWEEN_CJK.sub("", " ".join(word["text"] for word in said))
        score = _mean_confidence(said)
        line = line_of(_corners(boxes[key]), text, score, size)
        if line is not None and score >= min_score:
            yield line


def _corners(row: Mapping[str, str]) -> list[tuple[float, float]]:
    left, top, width, height = (int(row[name]) for name in ("left", "top", "width", "height"))
    left, top = left - _MARGIN, top - _MARGIN
    return [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]


def _mean_confidence(words: Iterable[Mapping[str, str]]) -> float:
    """From 0 to 1, by the letters of the words."""
    weighted = [(float(word["conf"]) / 100, len(word["text"])) for word in words]
    return sum(score * length for score, length in weighted) / sum(length for _, length in weighted)


def _version() -> str:
    found = re.search(r"tesseract v?(\S+)", _run(["--version"]).decode(errors="replace"))
    return found[1] if found else "of unknown version"


def _run(options: list[str], given: bytes = b"") -> bytes:
    if shutil.which(_PROGRAM) is None:
        raise InputError(
            "the OCR engine tesseract needs the program 'tesseract', which is not installed; in Debian and Ubuntu: "
            "apt-get install tesseract-ocr; or take --engine rapidocr"
        )
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}  # it is fastest with one thread a process
    ran = subprocess.run([_PROGRAM, *options], input=given, capture_output=True, env=environment, check=False)
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().splitlines() or ["without a word"]
        raise InputError(f"tesseract fails with exit code {ran.returncode}: {said[-1]}")
    return ran.stdout
