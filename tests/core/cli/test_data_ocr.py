import json
import subprocess
import sys

import pymupdf
import pytest
from PIL import Image

from polylens.cli import main


@pytest.fixture
def store(tmp_path):
    document = pymupdf.open()
    for page in range(3):
        document.new_page(width=100, height=100).insert_text((10, 50), f"page {page + 1}")
    (tmp_path / "in").mkdir()
    document.save(tmp_path / "in" / "a.pdf")
    assert main(["data", "render", str(tmp_path / "in"), "--output", str(tmp_path / "store"), "--workers", "1"]) == 0
    return tmp_path / "store"


def test_from_pages_to_a_file_that_is_valid(store, tmp_path, capsys):
    output = tmp_path / "ocr.jsonl"
    command = ["data", "ocr", "--documents", str(store), "--output", str(output), "--text-layer", "only"]
    assert main([*command, "--jobs", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"3 new pictures (3 by their text layer): {output} has 3 pictures with 3 lines"
    assert main(command) == 0
    assert capsys.readouterr().out == f"0 new pictures: {output} has 3 pictures with 3 lines\n"

    assert main(["data", "validate", str(output), "--documents", str(store)]) == 0
    assert capsys.readouterr().out == f"{output}: 3 OCR records, no errors\n"
    assert main(["data", "stats", str(output), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["kind"], figures["pictures"], figures["lines"], figures["without text"]) == ("ocr", 3, 3, 0)
    assert list(figures["engines"].values()) == [3]
    assert main(["data", "show", str(output), "--id", "a.pdf#2"]) == 0
    assert json.loads(capsys.readouterr().out)["lines"][0]["text"] == "page 2"

    value = json.loads(output.read_text().splitlines()[0])
    value["lines"][0]["box"] = [5000, 0, 5001, 1]
    output.write_text(json.dumps(value) + "\n{}\n" + json.dumps({**value, "lines": [], "width": 199}) + "\n")
    assert main(["data", "validate", str(output), "--documents", str(store), "--kind", "ocr"]) == 2
    problems = capsys.readouterr().out.splitlines()
    assert problems[0].startswith(f"{output}:1: record 'a.pdf#1': /lines/0/box: [5000, 0, 5001, 1] lies outside")
    assert "a.pdf#1' has 200 x 200 pixels, and its text was recognised at 199 x 200" in problems[-2]
    assert main(["data", "validate", str(output), "--kind", "ocr"]) == 2
    assert capsys.readouterr().out.splitlines()[-1].endswith("not looked at, for want of --documents or --image-root")


def test_lists_of_remgcl_are_converted(tmp_path, capsys):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    line = [[[0.1, 0.1], [0.9, 0.1], [0.9, 0.5], [0.1, 0.5]], ["OPEN", 0.9]]
    (tmp_path / "list.json").write_text(json.dumps([{"id": "a", "image": "a.png", "ocr": [line]}]))
    command = ["data", "convert", str(tmp_path / "list.json"), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert capsys.readouterr().out == f"1 lines of 1 pictures in {tmp_path}/out/ocr.jsonl\n"
    assert main(["data", "validate", str(tmp_path / "out" / "ocr.jsonl"), "--image-root", str(tmp_path)]) == 0
    assert main([*command, "--turns", "from"]) == 2
    assert "--turns is for conversations, and these are OCR lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "{}"], "has no pictures"),
        (["--images", "{}/none"], "is no folder of pictures"),
        (["--images", "{}", "--text-layer", "only"], "--images has no text layer"),
        (["--images", "{}", "--pdfs", "x.pdf"], "--images has no text layer"),
        (["--images", "{}", "--documents", "x"], "not allowed with"),
        (["--documents", "{}/none"], "the document store {}/none does not exist"),
        (["--documents", "{}", "--image-root", "{}"], "--image-root is for --images"),
        (["--images", "{}", "--min-score", "2"], "between 0 and 1, not 2.0"),
        (["--images", "{}", "--workers", "0"], "0 is not at least 1"),
        ([], "one of the arguments --documents --images is required"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, capsys, options, message):
    given = [option.format(tmp_path) for option in options]
    assert main(["data", "ocr", "--output", str(tmp_path / "o.jsonl"), *given]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_imports_no_engine():
    program = (
        "import sys; from polylens.cli import main\n"
        "try: main(['data', 'ocr', '--help'])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'rapidocr', 'cv2', 'pymupdf', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "set()"
