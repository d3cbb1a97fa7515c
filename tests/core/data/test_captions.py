from __future__ import annotations

import json
from pathlib import Path

import pytest

from polylens.data.captions import ListLayout, read_captions
from polylens.data.records import Quarantine
from polylens.errors import InputError


@pytest.fixture
def read(tmp_path):
    def call(name: str, data: str | bytes, layout: ListLayout | None = None, mode="error"):
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        with Quarantine(mode, tmp_path / "quarantine.jsonl") as bad:
            return [(row.id, row.image, row.text) for row in read_captions(path, layout or ListLayout(), bad)]

    return call


def quarantined(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]


def test_comma_separated_with_quotation_marks(read):
    data = '\ufefftext,image,note\r\n"one, two",a.jpg,x\r\n"say ""hi""\nthere",b.jpg,\r\n\r\n三,c d.jpg,y\r\n'
    assert read("list.csv", data) == [
        ("a.jpg", "a.jpg", "one, two"),
        ("b.jpg", "b.jpg", 'say "hi"\nthere'),
        ("c d.jpg", "c d.jpg", "三"),
    ]


def test_tab_separated_without_names_and_with_marks_as_letters(read):
    layout = ListLayout(header=("image", "text"))
    assert read("labels.txt", 'a.jpg\t"Hello," he said\nb.jpg\t好\n', layout) == [
        ("a.jpg", "a.jpg", '"Hello," he said'),
        ("b.jpg", "b.jpg", "好"),
    ]


def test_other_names_and_delimiters(read):
    layout = ListLayout({"image": "file", "text": "caption", "id": "key"}, delimiter=";")
    assert read("list.csv", "key;caption;file\n7;x, y;a.jpg\n", layout) == [("7", "a.jpg", "x, y")]
    lines = json.dumps({"file": "a.jpg", "caption": "x", "key": 7, "other": [1]})
    assert read("list.jsonl", lines, layout) == [("7", "a.jpg", "x")]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", "file,text\na,b\n", r"a\.csv:1: there is no column 'image'; the first line has file, text"),
        ("a.csv", "image,text\na.jpg,b,c\n", r"a\.csv:2: 3 columns, where there are 2: image, text"),
        ("a.csv", 'image,text\na.jpg,"b"c\n', r"a\.csv:2: not a row of a table"),
        ("a.csv", 'image,text\na.jpg,"b\nc', r"a\.csv:2: not a row of a table"),
        ("a.csv", "image,text\na.jpg, \n", r"a\.csv:2: record '': /text: the text of this picture is empty|is empty"),
        ("a.csv", "image,text\n,b\n", r"a\.csv:2: /image"),
        ("a.csv", b"image,text\n\xff,b\n", "not valid UTF-8"),
        ("a.jsonl", '{"image": "a.jpg"}', r"a\.jsonl:1: /: 'text' is a required property"),
        ("a.jsonl", '{"image": "a.jpg", "text": 3}', "/text: 3 is not of type 'string'"),
        ("a.jsonl", "[1]", "is not of type 'object'"),
        ("a.jsonl", "{", "not JSON"),
    ],
)
def test_bad_rows_are_named(read, name, data, message):
    with pytest.raises(InputError, match=message):
        read(name, data)


def test_or_set_aside(read, tmp_path):
    assert read("a.csv", 'image,text\na.jpg,b,c\nb.jpg,"x"y\nc.jpg,z\n', mode="quarantine") == [
        ("c.jpg", "c.jpg", "z")
    ]
    assert [line["where"].rpartition(":")[2] for line in quarantined(tmp_path)] == ["2", "3"]
    assert read("a.jsonl", '{"image": ""}\nx\n{"image": "c", "text": "z"}\n', mode="quarantine") == [("c", "c", "z")]


def test_wrong_layouts():
    with pytest.raises(InputError, match=r"a list has no 'imgae' \(did you mean 'image'"):
        ListLayout({"imgae": "x"})
    with pytest.raises(InputError, match="separated by one character, not by '::'"):
        ListLayout(delimiter="::")
