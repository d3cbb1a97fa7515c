import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.data.records import Quarantine, decode_base64, parse_line, read_jsonl, scan_jsonl
from polylens.errors import InputError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(json_values, max_size=6), st.booleans(), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_values_and_line_numbers(tmp_path_factory, values, ascii, end):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_bytes("".join(json.dumps(value, ensure_ascii=ascii) + end for value in values).encode())
    step = end.count("\n")
    assert list(read_jsonl(path)) == [(1 + step * number, value) for number, value in enumerate(values)]


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_the_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    path.write_bytes(data)
    for line in scan_jsonl(path):
        try:
            parse_line(line)
        except InputError as error:
            message = str(error)
        else:
            message = f"{path}:{line.number}: "
        assert message.startswith(f"{path}:{line.number}: ")
        assert data[line.offset : line.offset + len(line.data)] == line.data


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        (b"\xff\xfe", "not valid UTF-8"),
        (b'{"a": NaN}', "not JSON that polylens reads: NaN is not a JSON number"),
        (b'{"a": "\\ud800"}', "not valid UTF-8 text: surrogates not allowed"),
        (b"[" * 100_000, "not JSON that polylens reads: it is nested"),
        (b"[" * 101 + b"]" * 101, "not JSON that polylens reads: it is nested more than 100 deep"),
        (b'{"a": 1, "b": {"a": 2, "a": 2}}', "not JSON that polylens reads: the key 'a' stands in one object twice"),
        (b'{"a": 1e999}', "not JSON that polylens reads: 1e999 is too large a number"),
        (b"1" * 5000, "not JSON that polylens reads"),
    ],
)
def test_broken_lines_say_where_and_why(tmp_path, line, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    records = read_jsonl(path)
    assert next(records) == (1, {"a": 1})
    with pytest.raises(InputError) as caught:
        next(records)
    assert str(caught.value).startswith(f"{path}:2: {reason}")


def test_a_byte_order_mark_and_surrogate_pairs_are_fine(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert list(read_jsonl(path)) == [(1, {"a": "😀"})]


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read: No such file"):
        list(read_jsonl(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, "must be a base64 string, not int"),
        ("", "is empty"),
        ("abc", "not valid base64"),
        ("ab\ncd", "not valid base64"),
        ("ä===", "not valid base64"),
        ("data:image/png;base64,AAAA", "leave out the 'data:...;base64,' prefix"),
    ],
)
def test_base64_is_strict(value, reason):
    with pytest.raises(InputError) as caught:
        decode_base64(value, "x:1: /image")
    assert str(caught.value).startswith("x:1: /image: ")
    assert reason in str(caught.value)


def test_quarantine_keeps_record_and_reason(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"good\nb\xffd\n")
    line = list(scan_jsonl(tmp_path / "a.jsonl"))[1]
    with Quarantine("quarantine", tmp_path / "out" / "q.jsonl") as bad:
        bad.add(line, InputError("why"))
    (entry,) = [value for _, value in read_jsonl(tmp_path / "out" / "q.jsonl")]
    assert entry == {"where": f"{tmp_path}/a.jsonl:2", "reason": "why", "record": "b\ufffdd"}
    schemas.check("quarantine", entry, "q.jsonl:1")
    assert bad.count == 1


def test_errors_are_raised_unless_they_are_set_aside(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"x\n")
    (line,) = scan_jsonl(tmp_path / "a.jsonl")
    with Quarantine("error") as bad, pytest.raises(InputError, match="why"):
        bad.add(line, InputError("why"))
    with pytest.raises(InputError, match="quarantine file"):
        Quarantine("quarantine")


def test_a_path_with_a_nul_cannot_be_read():
    with pytest.raises(InputError, match=r"'a\\x00b' cannot be read: embedded null byte"):
        list(scan_jsonl("a\0b"))


def test_a_file_whose_name_is_no_text_has_its_lines_set_aside(tmp_path):
    path = tmp_path / os.fsdecode(b"p\xff.jsonl")
    path.write_bytes(b"{bad\n")
    with Quarantine("quarantine", tmp_path / "quarantine.jsonl") as bad:
        for line in scan_jsonl(path):
            bad.add(line, InputError(f"{line.where}: no"))
    entry = json.loads((tmp_path / "quarantine.jsonl").read_text(encoding="utf-8"))
    assert (entry["where"], entry["record"]) == (f"{path}:1", "{bad")
