"""Finds fonts, and knows which characters they can show."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fontTools.ttLib import TTCollection, TTFont, TTLibError
from PIL import ImageFont

from polylens.errors import InputError, closest

__all__ = ["Face", "find_faces", "open_face"]

_LOG = logging.getLogger(__name__)
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_OUTLINES = ("glyf", "CFF ", "CFF2")
_BROKEN = (TTLibError, OSError, ValueError, KeyError, AttributeError, AssertionError)
"""What fontTools and FreeType raise on damaged files."""

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
"""Where systems without fontconfig keep their fonts."""


@dataclass(frozen=True, slots=True)
class Face:
    """A font of a font file.

    Attributes:
        file: its path.
        index: its number in a collection, else 0.
        family: its name.
        characters: code points that it has a glyph for.
    """

    file: Path
    index: int
    family: str
    characters: frozenset[int]

    def lacks(self, text: str) -> list[str]:
        """Characters of ``text`` that it would show as an empty box, in order, each once."""
        return [letter for letter in dict.fromkeys(text) if ord(letter) not in self.characters]


@lru_cache(maxsize=256)
def open_face(file: Path, index: int, pixels: int) -> ImageFont.FreeTypeFont:
    """The font at a size, kept for the next picture of that size."""
    return ImageFont.truetype(file, pixels, index=index)


def find_faces(names: Sequence[str] = ()) -> list[Face]:
    """Fonts with outlines, in order of their file names.

    Args:
        names: font files, folders of them, or names of families that the system has; none at all: every font of the
            system.

    Raises:
        InputError: a name that is none of these, a file that is no font, or no font at all.
    """
    if not names:
        return _some([face for file in _system_files() for face in _faces(file)], "this system has no font")
    found: list[Face] = []
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = [face for file in _font_files([path]) for face in _faces(file)]
            found += _some(inside, f"the folder {name} has no font ({', '.join(_SUFFIXES)})")
        elif path.is_file():
            found += _some(_faces(path), f"{name} is no font with outlines that can be read")
        else:
            found += _family(name)
    return list({(face.file, face.index): face for face in found}.values())


def _some(faces: list[Face], otherwise: str) -> list[Face]:
    if not faces:
        raise InputError(f"{otherwise}; name font files, folders or families with the option fonts")
    return faces


def _family(name: str) -> list[Face]:
    everything = [face for file in _system_files() for face in _faces(file)]
    found = [face for face in everything if face.family.casefold() == name.casefold()]
    near = closest(name, {face.family for face in everything})
    return _some(found, f"{name!r} is neither a font file, nor a folder, nor a family of this system{near}")


def _system_files() -> list[Path]:
    """By fontconfig, where it is; otherwise what lies in the folders that systems have for fonts."""
    program = shutil.which("fc-list")
    if program is None:
        return _font_files(Path(folder).expanduser() for folder in _FOLDERS)
    done = subprocess.run([program, "--format", "%{file}\n"], capture_output=True, check=False, timeout=60)
    return _in_order(Path(os.fsdecode(line)) for line in done.stdout.splitlines())


def _font_files(folders: Iterable[Path]) -> list[Path]:
    return _in_order(path for folder in folders if folder.is_dir() for path in folder.rglob("*"))


def _in_order(paths: Iterable[Path]) -> list[Path]:
    fonts = {path for path in paths if path.suffix.lower() in _SUFFIXES and path.is_file()}
    return sorted(fonts, key=lambda path: (path.name, str(path)))


@lru_cache(maxsize=1024)
def _read(file: Path) -> tuple[Face, ...]:
    with file.open("rb") as opened:
        count = len(TTCollection(opened, lazy=True).fonts) if opened.read(4) == b"ttcf" else 1
    return tuple(face for index in range(count) if (face := _face(file, index)))


def _face(file: Path, index: int) -> Face | None:
    """One font of a file; ``None`` for one of bitmaps, which has no size of ours."""
    with TTFont(file, fontNumber=index, lazy=True) as font:
        if not any(table in font for table in _OUTLINES) or "cmap" not in font:
            return None
        glyphs = font.getBestCmap() or {}
        family = font["name"].getBestFamilyName() or file.stem
    open_face(file, index, 16)
    return Face(file, index, family, frozenset(code for code, glyph in glyphs.items() if glyph != ".notdef"))


def _faces(file: Path) -> list[Face]:
    try:
        return list(_read(file))
    except _BROKEN as error:
        _LOG.warning("font %s is left out: %s", file, error)
        return []
