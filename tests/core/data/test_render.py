import json
import os
import signal
import subprocess
import sys
import time

import pytest

from polylens.config import schemas
from polylens.data.images import decode_image
from polylens.data.render import RenderSettings, render_pdfs
from polylens.data.renderers import open_pdf
from polylens.data.store import DocumentStore, DocumentWriter
from polylens.errors import InputError

SMALL = RenderSettings("pdfium", dpi=36)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(params=["pymupdf", "pdfium"])
def renderer(request):
    return request.param


def test_pages_in_order_with_safe_ids_and_whole_pictures(tmp_path, make_pdf, renderer):
    make_pdf(tmp_path / "in" / "a b#1.pdf", 6)
    make_pdf(tmp_path / "in" / "sub" / "手册\n.PDF", 1)
    os.rename(make_pdf(tmp_path / "in" / "x.pdf", 1), os.fsencode(tmp_path) + b"/in/\xff.pdf")
    report = render_pdfs([tmp_path / "in"], tmp_path / "out", RenderSettings(renderer), workers=2)
    assert (report.files, report.new, report.total, report.skipped) == (3, 8, 8, [])
    store = DocumentStore([tmp_path / "out"])
    assert list(store.ids()) == [*(f"a%20b%231.pdf#{n}" for n in range(1, 7)), "sub/手册%0A.PDF#1", "%FF.pdf#1"]
    for id in store.ids():
        image = decode_image(store.read(id).image or b"", id)
        assert image.size == (400, 600)
        assert image.convert("L").getextrema()[0] < 100, "the page has no text"
    schemas.check("render", json.loads((tmp_path / "out/render.json").read_text()), "render.json")
    for line in lines(tmp_path / "out/files.jsonl"):
        schemas.check("rendered_file", line, "files.jsonl")


@pytest.mark.parametrize(
    ("settings", "size", "start"),
    [
        ({"dpi": 72}, (200, 300), b"\xff\xd8"),
        ({"long_side": 450}, (300, 450), b"\xff\xd8"),
        ({"dpi": 36, "image_format": "png"}, (100, 150), b"\x89PNG"),
    ],
)
def test_size_and_format(tmp_path, make_pdf, settings, size, start):
    render_pdfs([make_pdf(tmp_path / "a.pdf", 1)], tmp_path / "out", RenderSettings("pdfium", **settings), workers=1)
    data = DocumentStore([tmp_path / "out"]).read("a.pdf#1").image or b""
    assert data.startswith(start)
    assert decode_image(data, "x").size == size


def test_what_cannot_be_rendered_is_skipped_with_its_reason(tmp_path, make_pdf, renderer):
    folder = tmp_path / "in"
    make_pdf(folder / "good.pdf", 1)
    make_pdf(folder / "locked.pdf", 1, password="secret")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 and nothing more")
    (folder / "cut.pdf").write_bytes(b"%PDF-1.4\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n")
    (folder / "empty.pdf").write_bytes(b"")
    if renderer == "pdfium":  # which believes the number, and would try every page; MuPDF counts
        few = (folder / "good.pdf").read_bytes().replace(b"/Count 1", b"/Count 1000000")
        (folder / "many.pdf").write_bytes(few)
    make_pdf(folder / "huge.pdf", 1, size=(14000, 14000))
    report = render_pdfs([folder], tmp_path / "out", RenderSettings(renderer), workers=1)
    reasons = {entry["file"].rpartition("/")[2]: entry["reason"] for entry in lines(tmp_path / "out/skipped.jsonl")}
    many = reasons.pop("many.pdf", "")
    assert ("bytes cannot hold its 1,000,000 pages" in many) == (renderer == "pdfium")
    assert reasons.keys() == {"locked.pdf", "broken.pdf", "cut.pdf", "empty.pdf", "huge.pdf"}
    assert reasons["locked.pdf"] == "is encrypted and needs a password"
    assert reasons["empty.pdf"] == "is empty"
    damaged = {"pymupdf": "is damaged or cut short", "pdfium": "is no readable PDF"}[renderer]
    assert reasons["cut.pdf"].startswith(damaged)
    assert "would have 28000 x 28000 pixels" in reasons["huge.pdf"]
    assert (report.total, len(report.skipped)) == (1, 5 + bool(many))
    for line in lines(tmp_path / "out/skipped.jsonl"):
        schemas.check("skipped", line, "skipped.jsonl")

    # A file that was repaired is rendered by the next run, and is no longer among the skipped.
    make_pdf(folder / "broken.pdf", 2)
    assert render_pdfs([folder], tmp_path / "out", RenderSettings(renderer), workers=1).new == 2
    assert len(lines(tmp_path / "out/skipped.jsonl")) == 4 + bool(many)


def test_nothing_to_render_is_an_error(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"")
    with pytest.raises(InputError, match=r"no page could be rendered: .*a\.pdf is empty"):
        render_pdfs([tmp_path], tmp_path / "out", SMALL, workers=1)
    with pytest.raises(InputError, match="no file or folder"):
        render_pdfs([tmp_path / "none"], tmp_path / "out2", SMALL)
    assert not (tmp_path / "out2").exists()


def test_a_second_run_adds_what_is_new_and_nothing_twice(tmp_path, make_pdf):
    make_pdf(tmp_path / "in" / "a.pdf", 2)
    assert render_pdfs([tmp_path / "in"], tmp_path / "out", SMALL, workers=1).new == 2
    make_pdf(tmp_path / "in" / "b.pdf", 3)
    make_pdf(tmp_path / "other" / "a.pdf", 1)
    report = render_pdfs([tmp_path / "in", tmp_path / "other"], tmp_path / "out", SMALL, workers=1)
    assert (report.new, report.total) == (4, 6)
    ids = sorted(DocumentStore([tmp_path / "out"]).ids())
    assert ids == ["a.pdf#1", "a.pdf#2", "b.pdf#1", "b.pdf#2", "b.pdf#3", "other/a.pdf#1"]

    make_pdf(tmp_path / "in" / "a.pdf", 5)
    report = render_pdfs([tmp_path / "in"], tmp_path / "out", SMALL, workers=1)
    assert report.new == 0
    assert [entry.reason for entry in report.skipped] == [
        "has changed since its pages were stored; render it into another folder"
    ]


def test_other_settings_need_another_folder(tmp_path, make_pdf):
    make_pdf(tmp_path / "a.pdf", 1)
    render_pdfs([tmp_path / "a.pdf"], tmp_path / "out", SMALL, workers=1)
    with pytest.raises(InputError, match=r"other settings: dpi was 36, now 72\. Use the same ones"):
        render_pdfs([tmp_path / "a.pdf"], tmp_path / "out", RenderSettings("pdfium", dpi=72), workers=1)
    with DocumentWriter(tmp_path / "foreign") as writer:
        writer.write(DocumentStore([tmp_path / "out"]).read("a.pdf#1"))
    with pytest.raises(InputError, match="a document store that was not rendered"):
        render_pdfs([tmp_path / "a.pdf"], tmp_path / "foreign", SMALL, workers=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"renderer": "word"},
        {"dpi": 0},
        {"dpi": float("nan")},
        {"long_side": -5},
        {"dpi": 72, "long_side": 5},
        {"quality": 100},
        {"image_format": "gif"},
    ],
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(InputError):
        RenderSettings(**settings)


def test_a_page_without_area(tmp_path):
    assert RenderSettings(dpi=72).scale((10, 10)) == 1
    with pytest.raises(InputError, match="has no area"):
        SMALL.scale((0, 10))
    with pytest.raises(InputError, match="would have 0 x 0 pixels"):
        RenderSettings(dpi=0.1).scale((10, 10))
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_pdf("pymupdf", tmp_path / "x")


def start(inputs, output, dpi: int = 36) -> subprocess.Popen:
    code = (
        "import sys; from polylens.cli.data import add_arguments, run; import argparse\n"
        "if __name__ == '__main__':\n"
        "    parser = argparse.ArgumentParser(); add_arguments(parser); sys.exit(run(parser.parse_args()))\n"
    )
    program = output.parent / "program.py"
    program.write_text(code)
    options = ["--output", output, "--renderer", "pdfium", "--workers", "1", "--dpi", dpi]
    command = [sys.executable, program, "render", inputs, *options]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path, size: int) -> None:
    for _ in range(1200):
        if path.exists() and path.stat().st_size >= size:
            return
        time.sleep(0.02)
    pytest.fail(f"{path} did not grow to {size} bytes")


@pytest.mark.parametrize(("file", "size"), [("render.json", 1), ("pages-00000.h5.tmp", 1_000_000)])
def test_kill_and_resume(tmp_path, make_pdf, file, size):
    make_pdf(tmp_path / "in" / "a.pdf", 200)
    make_pdf(tmp_path / "in" / "b.pdf", 30)
    with start(tmp_path / "in", tmp_path / "out") as process:
        # The file of pages grows by its reserve when the first 64 pages are flushed.
        wait_for(tmp_path / "out" / file, size)
        process.send_signal(signal.SIGKILL)
    report = render_pdfs([tmp_path / "in"], tmp_path / "out", SMALL, workers=1)
    assert report.total == 230
    ids = DocumentStore([tmp_path / "out"]).ids()
    expected = [f"{name}.pdf#{n}" for name, count in (("a", 200), ("b", 30)) for n in range(1, count + 1)]
    assert list(ids) == expected


def test_ctrl_c_keeps_what_is_stored(tmp_path, make_pdf):
    make_pdf(tmp_path / "in" / "a.pdf", 400)
    with start(tmp_path / "in", tmp_path / "out", dpi=150) as process:  # slow enough to be caught in the middle
        wait_for(tmp_path / "out" / "pages-00000.h5.tmp", 1_000_000)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        last = process.stdout.read().splitlines()[-1]
    assert process.returncode == 130
    assert last.startswith("stopped; run it again to go on: 1 files, ")
    stored = int(last.split(" has ")[1].split()[0])
    assert 0 < stored < 400
    assert len(DocumentStore([tmp_path / "out"])) == stored


def test_pdfium_never_imports_pymupdf(tmp_path, make_pdf):
    make_pdf(tmp_path / "a.pdf", 1)
    code = """
import sys
from pathlib import Path
from polylens.data import render
sys.modules["pymupdf"] = sys.modules["fitz"] = None   # an import would raise ImportError
settings = render.RenderSettings(renderer="pdfium", dpi=36)
task = render._Task(Path(sys.argv[1]), settings, (0,))
(page,) = render._render(task)
assert page.image.startswith(b"\\xff\\xd8"), page
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.pdf"], check=True)
