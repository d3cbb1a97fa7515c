"""Engines on pictures whose text is known."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from polylens.data.ocr.engines import EngineSettings, line_of, make_engine
from polylens.data.ocr.rapid import _prepared
from polylens.errors import InputError


@pytest.fixture(scope="session")
def rapid():
    pytest.importorskip("rapidocr")
    return make_engine(EngineSettings())


def overlap(a, b):
    """Intersection over union."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inner / (sum(areas) - inner)


def test_rapidocr_finds_lines_in_their_places(rapid, written):
    image, boxes = written((700, 300), [((30, 20), "Serial number 4711"), ((350, 240), "Replace the filter")])
    lines = rapid.lines(image)
    assert [line["text"].replace(" ", "") for line in lines] == ["Serialnumber4711", "Replacethefilter"]
    assert all(line["score"] > 0.8 for line in lines)
    assert all(overlap(line["box"], box) > 0.5 for line, box in zip(lines, boxes, strict=True))
    assert rapid.name.startswith("rapidocr 3.")


@pytest.mark.parametrize(("size", "corner"), [((4400, 90), (3500, 10))])
def test_rapidocr_gives_places_in_slim_pictures_that_are_scaled(rapid, written, size, corner):
    image, (box,) = written(size, [(corner, "Replace the filter")], height=60)
    (line,) = rapid.lines(image)
    assert line["text"].replace(" ", "") == "Replacethefilter"
    assert overlap(line["box"], box) > 0.4


def test_rapidocr_finds_nothing_where_nothing_is(rapid):
    assert rapid.lines(Image.new("RGB", (1, 1), "white")) == []


def test_rapidocr_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    with pytest.raises(InputError, match=r"not installed \(rapidocr\): pip install 'polylens\[ocr\]'"):
        make_engine(EngineSettings(min_score=0.123))


@pytest.mark.parametrize("size", [(4000, 3000), (5000, 20), (20, 5000), (7, 9), (300, 200)])
def test_a_prepared_picture_is_neither_large_nor_slim_and_keeps_its_scale(size):
    """A grey picture with a black lower right corner: it is where the scale says."""
    image = Image.new("RGB", size, "grey")
    image.paste("black", (size[0] // 2, size[1] // 2, *size))
    prepared, scale = _prepared(image)
    assert max(prepared.size) <= 4000
    assert prepared.width * prepared.height <= 4_010_000
    assert min(prepared.size) >= max(32, min(736, max(prepared.size) // 4))
    dark = np.argwhere(np.asarray(prepared).max(axis=2) < 64)[:, ::-1]
    wanted = np.array([(side // 2, side) for side in size]).T * scale
    np.testing.assert_allclose([dark.min(axis=0), dark.max(axis=0) + 1], wanted, atol=1)


def test_tesseract_joins_words_and_tells_their_mean_confidence(fake_tesseract):
    engine = make_engine(EngineSettings("tesseract", languages="eng+chi_sim"))
    assert engine.name == "tesseract 5.0.0-fake"
    assert engine.lines(Image.new("RGB", (40, 30))) == [
        {"box": [0, 2, 40, 12], "text": 'PUMP "7', "score": round((0.9 * 4 + 0.3 * 2) / 6, 4)},
        {"box": [0, 22, 5, 26], "text": "泵站", "score": 0.995},
    ]


def test_what_tesseract_lacks_is_named(fake_tesseract, monkeypatch):
    with pytest.raises(InputError, match=r"no data of the language 'deu', it has eng, chi_sim; .* apt-get install"):
        make_engine(EngineSettings("tesseract", languages="eng+deu"))
    with pytest.raises(InputError, match="exit code 1: Error in pixCreate"):
        make_engine(EngineSettings("tesseract")).lines(Image.new("RGB", (13, 13)))
    monkeypatch.setenv("PATH", str(Path(fake_tesseract.parent, "none")))
    with pytest.raises(InputError, match="needs the program 'tesseract', which is not installed"):
        make_engine(EngineSettings("tesseract", min_score=0.4))


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="needs the program tesseract")
def test_tesseract_finds_lines_in_their_places(written):
    image, boxes = written((700, 300), [((30, 20), "Serial number 4711"), ((30, 240), "Replace the filter")])
    lines = make_engine(EngineSettings("tesseract")).lines(image)
    assert [line["text"] for line in lines] == ["Serial number 4711", "Replace the filter"]
    assert all(overlap(line["box"], box) > 0.5 for line, box in zip(lines, boxes, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"engine": "rapid"}, r"no OCR engine 'rapid' \(did you mean 'rapidocr'\?\)"),
        ({"min_score": 1.5}, "least score of a line is between 0 and 1, not 1.5"),
        ({"page_mode": 7}, "page mode 7 finds no lines"),
    ],
)
def test_settings_that_no_engine_has_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        EngineSettings(**given)


def test_a_line_is_clipped_and_keeps_the_corners_that_its_box_does_not_tell():
    upright = [(-3, 2), (9, 2), (9, 8), (-3, 8)]
    assert line_of(upright, " two\n words ", 1.2, (10, 10)) == {"box": [0, 2, 9, 8], "text": "two words", "score": 1}
    slanted = [(1, 2), (9, 3), (9, 8), (1, 7)]
    assert line_of(slanted, "x", 0.5, (10, 10)) == {
        "box": [1, 2, 9, 8], "text": "x", "score": 0.5, "polygon": [[1, 2], [9, 3], [9, 8], [1, 7]]
    }  # fmt: skip
    assert line_of(upright, " \n", 1, (10, 10)) is None
    assert line_of([(x + 20, y) for x, y in upright], "x", 1, (10, 10)) is None
