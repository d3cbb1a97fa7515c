"""A small font of our own, so that no test depends on the fonts of the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

EM = 1000


def _glyph(number: int):
    """A block with a window of its own; the first is empty, as that of a space."""
    pen = TTGlyphPen(None)
    window = 100 + 40 * number
    for left, top, right, bottom in [(50, 800, 950, -50), (950 - window, 600, 900, 100)] if number else []:
        pen.moveTo((left, bottom))
        for point in ((left, top), (right, top), (right, bottom)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()


@pytest.fixture(scope="session")
def make_font() -> Callable[[Path, str, str], Path]:
    """``make_font(path, characters, family)``: a font file with these characters and a space."""

    def make(path: Path, characters: str, family: str = "Blocks") -> Path:
        names = {letter: f"uni{ord(letter):04X}" for letter in " " + characters}
        builder = FontBuilder(EM)
        builder.setupGlyphOrder([".notdef", *names.values()])
        builder.setupCharacterMap({ord(letter): name for letter, name in names.items()})
        glyphs = [_glyph(1), *(_glyph(number) for number in range(len(names)))]
        builder.setupGlyf(dict(zip([".notdef", *names.values()], glyphs, strict=True)))
        builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (EM, 0)))
        builder.setupHorizontalHeader(ascent=880, descent=-120)
        builder.setupNameTable({"familyName": family, "styleName": "Regular"})
        builder.setupOS2()
        builder.setupPost()
        path.parent.mkdir(parents=True, exist_ok=True)
        builder.save(path)
        return path

    return make


@pytest.fixture(scope="session")
def font(tmp_path_factory, make_font) -> Path:
    return make_font(tmp_path_factory.mktemp("fonts") / "blocks.ttf", '今天氣好ab",')


@pytest.fixture
def backgrounds(tmp_path) -> Path:
    """A dark JPEG, a bright PNG in a folder, and what is no picture."""
    folder = tmp_path / "backgrounds"
    (folder / "in").mkdir(parents=True)
    Image.new("RGB", (320, 240), (20, 30, 40)).save(folder / "dark.jpg")
    shades = np.linspace(180, 255, 300).astype(np.uint8)
    Image.fromarray(np.repeat(np.tile(shades, (100, 1))[..., None], 3, axis=2)).save(folder / "in" / "bright.PNG")
    (folder / "notes.txt").write_text("no picture")
    return folder
