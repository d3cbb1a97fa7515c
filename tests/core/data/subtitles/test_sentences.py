from __future__ import annotations

import json

import pytest

from polylens.config import schemas
from polylens.data.records import Quarantine
from polylens.data.subtitles.fonts import find_faces
from polylens.data.subtitles.sentences import read_sentences
from polylens.data.subtitles.settings import SubtitleSettings
from polylens.errors import InputError

SMALL = SubtitleSettings(size=(200, 100), least_font_size=0.1)


@pytest.fixture
def read(tmp_path, font):
    def call(data: bytes, mode="error", settings=SMALL):
        (tmp_path / "s.txt").write_bytes(data)
        with Quarantine(mode, tmp_path / "quarantine.jsonl") as bad:
            return read_sentences(tmp_path / "s.txt", find_faces([str(font)]), settings, bad)

    return call


def test_lines_as_they_are_drawn(read):
    data = "\ufeff今天\r\n\n  a\tb\x0b \n好\u2028a\n".encode()
    assert [sentence.text for sentence in read(data)] == ["今天", "a b", "好 a"]


def test_marks_are_composed_before_glyphs_are_looked_for(read, tmp_path, make_font):
    (tmp_path / "s.txt").write_text("e\u0301")
    faces = find_faces([str(make_font(tmp_path / "e.ttf", "é"))])
    with Quarantine("error") as bad:
        (found,) = read_sentences(tmp_path / "s.txt", faces, SMALL, bad)
    assert found.text == "\u00e9"


def test_a_sentence_takes_the_fonts_that_have_it_all(tmp_path, font, make_font):
    faces = find_faces([str(font), str(make_font(tmp_path / "more.ttf", "今明", "More"))])
    (tmp_path / "s.txt").write_text("今\n今明\n天\n", encoding="utf-8")
    with Quarantine("error") as bad:
        found = read_sentences(tmp_path / "s.txt", faces, SMALL, bad)
    assert [sentence.faces for sentence in found] == [(0, 1), (1,), (0,)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\n今明x天".encode(), r"s\.txt:2: no font has all characters of '今明x天'; Blocks comes nearest and lacks "
                               r"'明' \(U\+660E\), 'x' \(U\+0078\)"),
        (b"a\nb" + b"a" * 40, r"s\.txt:2: 41 characters are too long for a picture 200 pixels wide, at 7 pixels"),
        (b"a\n\xff\n", r"s\.txt:2: not valid UTF-8"),
        (b"\n \n", r"s\.txt has no sentence"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(read, data, message):
    with pytest.raises(InputError, match=message):
        read(data)


def test_or_set_aside(read, tmp_path):
    found = read("a\n明\n\xe9今\n天".encode(), "quarantine")
    assert [sentence.text for sentence in found] == ["a", "天"]
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    for line in lines:
        schemas.check("quarantine", line, "quarantine.jsonl")
    assert [line["record"] for line in lines] == ["明", "\xe9今"]
    with pytest.raises(InputError, match="no sentence to draw; 1 were set aside"):
        read("明\n".encode(), "quarantine")
