"""The sentences of subtitles, and the fonts that can show each."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polylens.data.records import Line, Quarantine, scan_jsonl
from polylens.data.subtitles.fonts import Face, open_face
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.errors import InputError

__all__ = ["Sentence", "read_sentences"]

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_EM = 2
"""Widths of a font that no character exceeds; shorter sentences need not be measured."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as it is drawn, and the numbers of the fonts that can draw it."""

    text: str
    faces: tuple[int, ...]


def read_sentences(path: Path, faces: Sequence[Face], settings: SubtitleSettings, bad: Quarantine) -> list[Sentence]:
    """The sentences of a text file, one a line; blank lines do not count.

    Tabs and other control characters become a space, and characters are composed (NFC): what is drawn is the label.

    Raises:
        InputError: a line is no UTF-8, no font has all its characters, or it is too long for a picture (if ``bad``
            does not set such lines aside); or no sentence is left.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; sentences are the lines of a text file")
    found = []
    for line in scan_jsonl(path):
        try:
            sentence = _sentence(line, faces, settings)
        except InputError as error:
            bad.add(line, error)
            continue
        if sentence is not None:
            found.append(sentence)
    if not found:
        aside = f"; {bad.count} were set aside" if bad.count else ""
        raise InputError(f"{path} has no sentence to draw{aside}")
    return found


def _sentence(line: Line, faces: Sequence[Face], settings: SubtitleSettings) -> Sentence | None:
    try:
        text = line.data.decode("utf-8-sig" if line.number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{line.where}: not valid UTF-8 text: {error.reason}") from None
    text = unicodedata.normalize("NFC", _CONTROL.sub(" ", text).strip())
    if not text:
        return None
    able = [number for number, face in enumerate(faces) if not face.lacks(text)]
    if not able:
        raise InputError(f"{line.where}: {_lacking(text, faces)}")
    fitting = tuple(number for number in able if _fits(text, faces[number], settings))
    if not fitting:
        raise InputError(
            f"{line.where}: {len(text)} characters are too long for a picture {settings.size[0]} pixels wide, at "
            f"{settings.least_pixels} pixels a character; shorten it, or make least_font_size smaller"
        )
    return Sentence(text, fitting)


def _lacking(text: str, faces: Sequence[Face]) -> str:
    """Why no font can show the text, by the font that can show most of it."""
    nearest = min(faces, key=lambda face: len(face.lacks(text)))
    missing = ", ".join(f"{letter!r} (U+{ord(letter):04X})" for letter in nearest.lacks(text)[:5])
    return (
        f"no font has all characters of {text!r}; {nearest.family} comes nearest and lacks {missing}. Install a font "
        "(for Chinese, Japanese and Korean: fonts-noto-cjk), or name one with the option fonts"
    )


def _fits(text: str, face: Face, settings: SubtitleSettings) -> bool:
    pixels = settings.least_pixels
    outline = 2 * max(1.0, settings.stroke_width[1] * pixels)
    if _EM * pixels * len(text) + outline <= settings.room:
        return True
    left, _, right, _ = open_face(face.file, face.index, pixels).getbbox(text)
    return right - left + outline <= settings.room
