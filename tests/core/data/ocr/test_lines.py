import json
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.ocr.lines import OcrLine, read_ocr_lines
from polylens.data.ocr.records import _certainly_valid
from polylens.errors import InputError


def line(box=(10, 20, 110, 40), text="OPEN", score=0.9, **more):
    return {"box": list(box), "text": text, "score": score, **more}


def record(*lines, width=300, height=200, **picture):
    return {**(picture or {"image": "a.png"}), "width": width, "height": height, "engine": "test 1",
            "lines": list(lines)}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def lines(*values, name="ocr.jsonl"):
        path = tmp_path / name
        path.write_text("".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) + "\n" for v in values))
        return path

    return lines


def test_lines_are_found_by_picture_and_document_in_any_file_and_after_pickling(write):
    first = write(record(line(), line(text="泵"), image="a.png"), record(document="m.pdf#1"), name="1.jsonl")
    second = write("\n", record(line(text="B"), image="x/b.png"), name="2.jsonl")
    ocr = pickle.loads(pickle.dumps(read_ocr_lines([first, second])))
    assert len(ocr) == 3
    assert ocr.of(ImageRef("path", "a.png")) == (
        OcrLine((10.0, 20.0, 110.0, 40.0), "OPEN", 0.9),
        OcrLine((10.0, 20.0, 110.0, 40.0), "泵", 0.9),
    )
    assert ocr.of(ImageRef("document", "m.pdf#1"), (300, 200)) == ()
    assert ocr.of(ImageRef("path", "x/b.png"), (300, 200))[0].text == "B"


def test_a_path_is_the_same_picture_however_it_is_written(write, tmp_path):
    ocr = read_ocr_lines([write(record(image="./x/../a.png"))], image_root=tmp_path)
    assert all(ImageRef("path", path) in ocr for path in ("a.png", "./a.png", "y/../a.png", str(tmp_path / "a.png")))
    assert ImageRef("document", "a.png") not in ocr
    assert ImageRef("bytes", b"a.png") not in ocr


def test_a_copy_is_small(write):
    path = write(*(record(*[line(text="word " * 20)] * 20, image=f"{i}.png") for i in range(200)))
    assert len(pickle.dumps(read_ocr_lines([path]))) < 200 * 60 + 2000 < path.stat().st_size / 10


@pytest.mark.parametrize("image", [ImageRef("path", "b.png"), ImageRef("document", "a.png"), ImageRef("bytes", b"x")])
def test_a_picture_without_entry_is_refused(write, image):
    path = write(record())
    with pytest.raises(InputError, match=rf"has no entry in {path}: run 'polylens data ocr'"):
        read_ocr_lines([path]).of(image)


def test_a_picture_of_another_size_is_refused(write):
    ocr = read_ocr_lines([write("\n", record())])
    with pytest.raises(InputError, match=r"ocr\.jsonl:2: picture 'a\.png' has 200 x 300 pixels.* 300 x 200"):
        ocr.of(ImageRef("path", "a.png"), (200, 300))


def test_a_file_that_has_changed_is_noticed(write):
    ocr = read_ocr_lines([write(record(image="a.png"))])
    write(record(image="b.png"))
    with pytest.raises(InputError, match="changed while it was in use"):
        ocr.of(ImageRef("path", "a.png"))


def test_boxes_that_stick_out_a_little_are_clipped(write):
    ocr = read_ocr_lines([write(record(line((-2, -1.5, 302, 204)), line((-6, 0, 5, 206))))])
    assert [found.box for found in ocr.of(ImageRef("path", "a.png"))] == [(0, 0, 300, 200), (0, 0, 5, 200)]


BAD = {
    "empty": (record(line(), line((10, 20, 10, 40))), r"/lines/1/box: \[10, 20, 10, 40\] is empty"),
    "turned": (record(line((110, 20, 10, 40))), "left < right"),
    "outside": (record(line((300, 20, 310, 40))), r"/lines/0/box: \[300, 20, 310, 40\] lies outside of the picture"),
    "above": (record(line((10, -20, 110, 0))), "lies outside"),
    "far out": (record(line((10, 20, 307, 40))), "reaches 7 pixels out .* of 300 x 200 pixels, which may be 6"),
    "blank": (record(line(text=" \t")), r"/lines/0/text: the text ' \\t' is blank"),
    "no text": (record(line(text="")), "/lines/0/text: "),
    "too sure": (record(line(score=1.01)), "/lines/0/score: 1.01 is greater than the maximum of 1"),
    "negative score": (record(line(score=-0.1)), "/lines/0/score: "),
    "NaN": (record(line(score=float("nan"))), "NaN is not a JSON number"),
    "a score that is true": (record(line(score=True)), "/lines/0/score: "),
    "huge": (record(line((0, 0, 10**400, 5))), "/lines/0/box/2: "),
    "five numbers": (record(line((1, 2, 3, 4, 5))), "/lines/0/box: "),
    "no size": ({"image": "a.png", "engine": "x", "lines": []}, "'width' is a required property"),
    "no engine": ({"image": "a.png", "width": 1, "height": 1, "lines": []}, "'engine' is a required property"),
    "two pictures": ({**record(), "document": "a"}, "valid under each of"),
    "no picture": ({key: value for key, value in record().items() if key != "image"}, "not valid under any of"),
    "flat": (record(width=0), "/width: 0 is less than the minimum of 1"),
    "triangle": (record(line(polygon=[[0, 0], [1, 0], [1, 1]])), "/lines/0/polygon: "),
    "a NUL": (record(document="a\0"), "no NUL"),
    "no JSON": ("{\n", "not JSON"),
    "no object": ("[]\n", "is not of type 'object'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_are_named_with_their_place_or_set_aside(write, tmp_path, name):
    value, message = BAD[name]
    path, aside = write(record(image="good.png"), value), tmp_path / "aside.jsonl"
    with pytest.raises(InputError, match=rf"(?s){path}:2: .*{message}"):
        read_ocr_lines([path])
    ocr = read_ocr_lines([path], on_bad_record="quarantine", quarantine=aside)
    assert ImageRef("path", "good.png") in ocr
    assert len(ocr) == len(aside.read_text().splitlines()) == 1
    with pytest.raises(InputError, match=f"no OCR record is left in .*; 1 bad records were set aside in {aside}"):
        read_ocr_lines([write(value)], on_bad_record="quarantine", quarantine=aside)


def test_a_picture_named_twice_is_refused_or_its_second_record_set_aside(write, tmp_path):
    first, second = write(record(), name="1.jsonl"), write(record(line(), image="./a.png"), name="2.jsonl")
    with pytest.raises(InputError, match=rf"{second}:1: picture './a.png' already has the record {first}:1"):
        read_ocr_lines([first, second])
    ocr = read_ocr_lines([first, second], on_bad_record="quarantine", quarantine=tmp_path / "aside.jsonl")
    assert ocr.of(ImageRef("path", "a.png")) == ()


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        read_ocr_lines([Path("none.jsonl")])


NUMBERS = st.one_of(st.integers(-5, 400), st.floats(allow_nan=False), st.sampled_from([True, None, "1", 10**10]))
ITEMS = st.fixed_dictionaries(
    {"box": st.lists(NUMBERS, min_size=3, max_size=5), "text": st.sampled_from(["", "x", 1]), "score": NUMBERS},
    optional={"polygon": st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=4, max_size=4), "x": NUMBERS},
)
RECORDS = st.fixed_dictionaries(
    {"width": NUMBERS, "height": NUMBERS, "engine": st.sampled_from(["", "x", None]), "lines": st.lists(ITEMS)},
    optional={"image": st.sampled_from(["", "a", None]), "document": st.sampled_from(["", "a", None])},
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(RECORDS)
def test_the_quick_check_accepts_nothing_that_the_schema_refuses(value):
    assert not _certainly_valid(value) or not schemas.errors("ocr", value)


def test_the_quick_check_accepts_what_is_usual():
    assert _certainly_valid(record(line(), line(polygon=[[0, 0], [1, 0], [1, 1], [0.5, 1]])))
    assert _certainly_valid(record(document="a#1"))
