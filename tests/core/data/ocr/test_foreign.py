"""OCR lists of REMGCL, made into OCR files."""

import json

import pytest
from PIL import Image

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.ocr.foreign import convert_ocr
from polylens.data.ocr.lines import read_ocr_lines
from polylens.errors import InputError


def corners(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.fixture
def write(tmp_path):
    def lists(*values, pictures=(("a.jpg", (200, 100)), ("b.jpg", (64, 50)))):
        for name, size in pictures:
            Image.new("RGB", size).save(tmp_path / name)
        (tmp_path / "train.json").write_text(json.dumps(list(values), indent=1))
        return tmp_path / "train.json"

    return lists


def test_shares_become_pixels_of_the_pictures_and_pixels_stay(write, tmp_path, lines_of_file):
    path = write(
        {"id": "1", "image": "a.jpg", "caption": "x", "ocr": [[corners(0.1, 0.2, 0.5, 0.3), ["STEM ", 0.98]]]},
        {"id": 2, "image": "b.jpg", "width": 64, "height": 50, "ocr": [[corners(5, 5, 60, 10), ["OPEN", 1]]]},
        {"id": "3", "image": "gone.jpg", "width": 640, "height": 480, "ocr": None},
    )
    made = convert_ocr([path], tmp_path / "out")
    assert (made.pictures, made.lines, made.quarantined) == (3, 2, 0)
    records = lines_of_file(tmp_path / "out" / "ocr.jsonl")
    assert not [problem for record in records for problem in schemas.errors("ocr", record)]
    ocr = read_ocr_lines([tmp_path / "out" / "ocr.jsonl"])
    (line,) = ocr.of(ImageRef("path", "a.jpg"), (200, 100))
    assert (line.box, line.text, line.score) == ((20, 20, 100, 30), "STEM", 0.98)
    assert ocr.of(ImageRef("path", "b.jpg"), (64, 50))[0].box == (5, 5, 60, 10)
    assert ocr.of(ImageRef("path", "gone.jpg"), (640, 480)) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": "gone.jpg", "ocr": None}, "picture 'gone.jpg' does not exist under the image root"),
        ({"image": "b.jpg", "width": 65, "height": 50, "ocr": None}, r"/width: the picture has 64 x 50 pixels, not"),
        ({"image": "b.jpg", "ocr": [[corners(5, 5, 90, 9), ["x", 1]]]}, "/ocr/0/0: .* reaches 26 pixels out of"),
        ({"image": "b.jpg", "ocr": [[corners(5, 5, 5, 9), ["x", 1]]]}, "/ocr/0/0: .* is empty"),
        ({"image": "b.jpg", "ocr": [[corners(5, 5, 9, 9), ["x", 1.2]]]}, "/ocr/0/1/1: 1.2 is greater"),
        ({"image": "b.jpg", "ocr": [[corners(5, 5, 9, 9)[:3], ["x", 1]]]}, "/ocr/0/0: "),
        ({"image": "b.jpg", "ocr": "x"}, "/ocr: "),
        ({"image": "b.jpg"}, "'ocr' is a required property"),
        ({"image": "a.jpg", "ocr": None}, r"/image: .*train\.json:2 is about it already"),
    ],
)
def test_bad_records_are_named_or_set_aside(write, tmp_path, value, message):
    path = write({"image": "a.jpg", "ocr": None}, value)
    with pytest.raises(InputError, match=rf"train\.json:\d+: .*{message}"):
        convert_ocr([path], tmp_path / "out")
    made = convert_ocr([path], tmp_path / "out", on_bad_record="quarantine")
    assert (made.pictures, made.quarantined) == (1, 1)
    with pytest.raises(InputError, match="no OCR record is left; 1 were set aside"):
        convert_ocr([write({"image": "b.jpg"})], tmp_path / "out", on_bad_record="quarantine")


def test_the_sample_of_the_original_is_converted(golden, tmp_path):
    samples = golden / "llava_remgcl" / "samples"
    made = convert_ocr([samples / "ocr_train.example.json"], tmp_path / "out")
    assert (made.pictures, made.lines) == (2, 1)
    Image.new("RGB", (500, 400)).save(tmp_path / "000000000001.jpg")
    convert_ocr([samples / "promptGPT.example.json"], tmp_path / "out", image_root=tmp_path)
    line = read_ocr_lines([tmp_path / "out" / "ocr.jsonl"]).of(ImageRef("path", "000000000001.jpg"))[0]
    assert line.box == pytest.approx((0.013 * 500, 0, 0.901 * 500, 0.109 * 400), abs=0.01)
