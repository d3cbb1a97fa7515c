"""Whole OCR files, with the text layer of real PDF files and with a program that stands for Tesseract."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from polylens.config import schemas
from polylens.contracts import ImageRef
from polylens.data.images import ImageOpener
from polylens.data.ocr import recognition
from polylens.data.ocr.engines import EngineSettings
from polylens.data.ocr.lines import read_ocr_lines
from polylens.data.ocr.pdf_text import PdfPages, text_layer_name
from polylens.data.ocr.pictures import FolderPictures, StorePictures
from polylens.data.ocr.recognition import recognise
from polylens.data.render import RenderSettings, render_pdfs
from polylens.data.store import Document, DocumentWriter
from polylens.data.validate import validate
from polylens.errors import InputError
from polylens.files import locked

FAKE = EngineSettings("tesseract")


@pytest.fixture(scope="module")
def pages(tmp_path_factory, make_pdf):
    """A store of 12 pages with text, and what they were rendered from."""
    folder = tmp_path_factory.mktemp("pages")
    make_pdf(folder / "in" / "a.pdf", 7)
    make_pdf(folder / "in" / "b.pdf", 5)
    render_pdfs([folder / "in"], folder / "store", RenderSettings(dpi=36), workers=1)
    return StorePictures([folder / "store"], PdfPages([folder / "store"]))


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders; one lies on its side by its EXIF orientation."""
    pictures = tmp_path / "pictures"
    (pictures / "sub").mkdir(parents=True)
    for name in ("b.png", "a.png", "sub/c.png"):
        Image.new("RGB", (40, 30), "white").save(pictures / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "white").save(pictures / "turned.jpg", exif=exif)
    return pictures


def only_text(pictures, output, **options):
    return recognise(pictures, output, EngineSettings(), text_layer="only", workers=1, **options)


def test_pages_in_order_with_the_text_of_their_files(pages, tmp_path, lines_of_file):
    output = tmp_path / "out" / "ocr.jsonl"
    report = only_text(pages, output)
    assert (report.new, report.total, report.lines, report.from_text_layer) == (12, 12, 12, 12)
    records = lines_of_file(output)
    assert [record["document"] for record in records] == list(pages.names)
    assert [record["lines"][0]["text"] for record in records[6:8]] == ["a.pdf 7", "b.pdf 1"]
    assert not [problem for record in records for problem in schemas.errors("ocr", record)]
    schemas.check("ocr_run", json.loads(output.with_name("ocr.jsonl.run.json").read_text()), "run.json")
    assert sorted(os.listdir(output.parent)) == ["ocr.jsonl", "ocr.jsonl.run.json"]
    assert read_ocr_lines([output]).of(ImageRef("document", "b.pdf#1"), (100, 150))[0].text == "b.pdf 1"


def test_pictures_of_a_folder_in_the_coordinates_in_which_they_are_opened(folder, tmp_path, fake_tesseract):
    report = recognise(FolderPictures(folder, tmp_path), tmp_path / "ocr.jsonl", FAKE, workers=2)
    assert (report.new, report.total, report.lines, report.from_text_layer) == (4, 4, 8, 0)
    ocr = read_ocr_lines([tmp_path / "ocr.jsonl"], image_root=tmp_path)
    opener = ImageOpener(tmp_path)
    for name in ("a.png", "b.png", "sub/c.png", "turned.jpg"):
        ref = ImageRef("path", f"pictures/{name}")
        first = ocr.of(ref, opener.open(ref, "x").size)[0]
        assert (first.text, first.box[2]) == ('PUMP "7', 60 if name == "turned.jpg" else 40)


def test_the_number_of_processes_changes_nothing(folder, tmp_path, fake_tesseract):
    for workers in (1, 3):
        recognise(FolderPictures(folder), tmp_path / f"{workers}.jsonl", FAKE, workers=workers)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "3.jsonl").read_bytes()


def test_a_second_run_does_what_is_new_and_forgets_what_is_gone(folder, tmp_path, fake_tesseract, lines_of_file):
    output = tmp_path / "ocr.jsonl"
    recognise(FolderPictures(folder), output, FAKE, workers=1)
    Image.new("RGB", (41, 30), "white").save(folder / "aa.png")
    (folder / "b.png").unlink()
    report = recognise(FolderPictures(folder), output, FAKE, workers=1)
    assert (report.new, report.total) == (1, 4)
    assert [record["image"] for record in lines_of_file(output)] == ["a.png", "aa.png", "sub/c.png", "turned.jpg"]
    assert recognise(FolderPictures(folder), output, FAKE, workers=1).new == 0


def test_a_partial_file_is_taken_up_after_its_last_whole_record(folder, tmp_path, fake_tesseract):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "ocr.jsonl"
    recognise(FolderPictures(folder), whole, FAKE, workers=1)
    card = whole.with_name("whole.jsonl.run.json").read_bytes()
    output.with_name("ocr.jsonl.run.json").write_bytes(card)
    kept = whole.read_bytes().splitlines(keepends=True)
    output.with_name("ocr.jsonl.partial").write_bytes(b"".join(kept[:2]) + b'{"image": "sub/c.png", "wid')
    report = recognise(FolderPictures(folder), output, FAKE, workers=1)
    assert (report.new, report.total) == (2, 4)
    assert output.read_bytes() == whole.read_bytes()
    assert not output.with_name("ocr.jsonl.partial").exists()


def test_pages_without_a_text_layer_are_recognised(tmp_path, make_pdf, fake_tesseract, lines_of_file):
    import pymupdf

    document = pymupdf.open(make_pdf(tmp_path / "made.pdf", 2))
    document.new_page(width=200, height=300)
    (tmp_path / "in").mkdir()
    document.save(tmp_path / "in" / "a.pdf")
    render_pdfs([tmp_path / "in"], tmp_path / "store", RenderSettings(dpi=36), workers=1)
    pictures = StorePictures([tmp_path / "store"], PdfPages([tmp_path / "store"]))
    report = recognise(pictures, tmp_path / "auto.jsonl", FAKE, workers=1)
    engines = [record["engine"].partition(" ")[0] for record in lines_of_file(tmp_path / "auto.jsonl")]
    assert (engines, report.from_text_layer) == (["text", "text", "tesseract"], 2)
    recognise(pictures, tmp_path / "never.jsonl", FAKE, text_layer="never", workers=1)
    assert all(record["engine"].startswith("tess") for record in lines_of_file(tmp_path / "never.jsonl"))
    task = recognition._Task("x", pictures.source("a.pdf#3"), pictures.page("a.pdf#3"), FAKE, "only")
    assert recognition._recognise(task) == recognition._Found((100, 150), text_layer_name())


def test_bad_pictures_stop_the_run_or_are_set_aside(folder, tmp_path, fake_tesseract, lines_of_file):
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:40])
    Image.new("RGB", (13, 30)).save(folder / "odd.png")
    output = tmp_path / "ocr.jsonl"
    with pytest.raises(InputError, match=rf"{folder}: picture 'cut\.png' "):
        recognise(FolderPictures(folder), output, FAKE, workers=1)
    assert not output.exists()
    os.rename(folder / "b.png", os.fsencode(folder) + b"/\xff.png")
    report = recognise(FolderPictures(folder), output, FAKE, workers=1, on_bad_record="quarantine")
    assert (report.total, report.quarantined) == (3, 3)
    aside = lines_of_file(tmp_path / "ocr.jsonl.quarantine.jsonl")
    reasons = {json.loads(line["record"])["image"]: line["reason"] for line in aside}
    assert "is not a readable picture" in reasons["cut.png"]
    assert "tesseract fails with exit code 1: Error in pixCreate" in reasons["odd.png"]
    assert "not valid Unicode" in reasons["\udcff.png"]
    for line in aside:
        schemas.check("quarantine", line, "quarantine.jsonl")


def test_a_run_in_which_nothing_can_be_read_is_an_error(tmp_path, fake_tesseract):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"no picture that can be read; 1 were set aside in .*quarantine\.jsonl"):
        recognise(FolderPictures(tmp_path / "in"), tmp_path / "o.jsonl", FAKE, workers=1, on_bad_record="quarantine")


def test_documents_without_a_picture_are_passed_over(tmp_path, picture, fake_tesseract):
    with DocumentWriter(tmp_path / "store") as writer:
        writer.write(Document("text", None, "words"))
        writer.write(Document("page", picture(size=(40, 30))))
    report = recognise(StorePictures([tmp_path / "store"]), tmp_path / "ocr.jsonl", FAKE, workers=1)
    assert (report.new, report.without_picture, report.total) == (1, 1, 1)


def test_other_settings_and_files_of_others_are_refused(folder, tmp_path, fake_tesseract):
    output = tmp_path / "ocr.jsonl"
    recognise(FolderPictures(folder), output, FAKE, workers=1)
    changed = EngineSettings("tesseract", min_score=0.7)
    with pytest.raises(InputError, match=r"made with other settings .* settings was .*choose another output"):
        recognise(FolderPictures(folder), output, changed, workers=1)
    with pytest.raises(InputError, match="pictures was"):
        recognise(FolderPictures(folder / "sub"), output, FAKE, workers=1)
    foreign = tmp_path / "mine.jsonl"
    foreign.write_text("{}\n")
    with pytest.raises(InputError, match=r"no mine\.jsonl\.run\.json says how it was made"):
        recognise(FolderPictures(folder), foreign, FAKE, workers=1)
    assert foreign.read_text() == "{}\n"
    assert not list(tmp_path.glob("*.partial"))


def test_two_processes_do_not_write_one_file(folder, tmp_path, fake_tesseract, monkeypatch):
    monkeypatch.setattr("polylens.files._PATIENCE", 0.1)
    lock = locked(tmp_path / "ocr.jsonl.partial")
    assert lock is not None
    with lock, pytest.raises(InputError, match="another process is writing"):
        recognise(FolderPictures(folder), tmp_path / "ocr.jsonl", FAKE, workers=1)


def test_ctrl_c_keeps_what_is_done(folder, tmp_path, monkeypatch, fake_tesseract):
    stored = recognition._Run._store

    def interrupted(self, task, found):
        stored(self, task, found)
        if self.report.new == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(recognition._Run, "_store", interrupted)
    report = recognise(FolderPictures(folder), tmp_path / "ocr.jsonl", FAKE, workers=1)
    assert (report.interrupted, report.new, report.total) == (True, 3, 3)
    assert not (tmp_path / "ocr.jsonl").exists()
    monkeypatch.setattr(recognition._Run, "_store", stored)
    assert recognise(FolderPictures(folder), tmp_path / "ocr.jsonl", FAKE, workers=1).new == 1


def test_a_killed_run_goes_on_and_ends_with_the_same(folder, tmp_path, fake_tesseract):
    for number in range(36):
        Image.new("RGB", (20 + number, 30)).save(folder / f"{number:02}.png")
    output, partial = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.partial"
    recognise(FolderPictures(folder), tmp_path / "whole.jsonl", FAKE, workers=1)
    command = [sys.executable, "-m", "polylens", "data", "ocr", "--images", str(folder), "--output", str(output)]
    process = subprocess.Popen([*command, "--engine", "tesseract", "--workers", "1"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if partial.exists() and partial.read_bytes().count(b"\n") >= 5:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = partial.read_bytes().count(b"\n")
    assert 5 <= done < 40
    assert not output.exists()
    assert recognise(FolderPictures(folder), output, FAKE, workers=1).new == 40 - done
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_what_is_written_is_valid(folder, tmp_path, fake_tesseract):
    recognise(FolderPictures(folder), tmp_path / "folder.jsonl", FAKE, workers=1)
    assert validate(tmp_path / "folder.jsonl", image_root=folder).problems == []
    Image.new("RGB", (7, 30)).save(folder / "a.png")
    (folder / "b.png").unlink()
    findings = validate(tmp_path / "folder.jsonl", image_root=folder)
    assert [problem.split(": ")[1][:16] for problem in findings.problems] == ["picture 'a.png' ", "picture 'b.png' "]
