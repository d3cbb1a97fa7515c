"""The text layer of PDF files, against the ink of the pages that are rendered from them."""

import shutil

import numpy as np
import pymupdf
import pytest

from polylens.data.images import decode_image
from polylens.data.ocr.pdf_text import PdfPage, PdfPages, page_text
from polylens.data.ocr.pictures import rendered_pages
from polylens.data.render import RenderSettings, render_pdfs
from polylens.data.store import open_documents
from polylens.errors import InputError

WORDS = ("Serial number 4711", "Größe, fünfzig Maße", "Replace the filter every 500 hours")


def written(path):
    """A file whose pages are turned, cropped and of broken sizes; the last has no text."""
    document = pymupdf.open()
    for rotation in (0, 90, 180, 270):
        page = document.new_page(width=300.7, height=201.3)
        for number, word in enumerate(WORDS):
            page.insert_text((40 + 20 * number, 50 + 50 * number), word, fontsize=11)
        page.set_rotation(rotation)
    page = document.new_page(width=300, height=200)
    page.insert_text((110, 80), WORDS[0])
    page.insert_text((10, 150), "not shown")
    page.insert_text((10, 180), "cut in two at the edge")
    page.set_cropbox(pymupdf.Rect(90.5, 40.25, 290, 190))
    document.new_page(width=300, height=200).draw_rect((10, 10, 90, 90), fill=(0, 0, 0))
    path.parent.mkdir()
    document.save(path)
    return path


@pytest.fixture
def turned(tmp_path):
    return written(tmp_path / "in" / "turned #1.pdf")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store that PDFium rendered, and its file."""
    folder = tmp_path_factory.mktemp("made")
    path = written(folder / "in" / "turned #1.pdf")
    render_pdfs([path], folder / "store", RenderSettings("pdfium", dpi=36), workers=1)
    return folder


@pytest.fixture
def rendered(made, tmp_path):
    """A copy of it, whose file has moved to ``in``."""
    shutil.copytree(made / "store", tmp_path / "rendered")
    noted = tmp_path / "rendered" / "files.jsonl"
    noted.write_text(noted.read_text().replace(str(made), str(tmp_path)))
    (tmp_path / "in").mkdir()
    shutil.copy(made / "in" / "turned #1.pdf", tmp_path / "in")
    return tmp_path / "rendered"


@pytest.mark.parametrize(("renderer", "settings"), [("pymupdf", {"dpi": 144}), ("pdfium", {"long_side": 777})])
def test_boxes_lie_around_the_ink_of_rendered_pages(turned, tmp_path, renderer, settings):
    store = tmp_path / "store"
    render_pdfs([turned], store, RenderSettings(renderer, **settings), workers=1)
    documents, pages = open_documents([store]), PdfPages([store])
    assert len(documents) == 6
    for number in range(1, 6):
        id = f"turned%20%231.pdf#{number}"
        image = decode_image(documents.read(id).image or b"", id)
        lines = page_text(pages.of(id), image.size)
        wanted = WORDS if number < 5 else (WORDS[0], "edge")
        assert sorted(line["text"] for line in lines) == sorted(wanted)
        ink = np.asarray(image.convert("L")) < 128
        for line in lines:
            left, top, right, bottom = line["box"]
            inside = ink[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
            shown = np.argwhere(inside)
            assert len(shown) > 20, "there is no ink in the box"
            upright = right - left > bottom - top
            along = shown[:, 1 if upright else 0]
            free = inside.shape[1 if upright else 0] - (along.max() - along.min())
            assert free <= min(inside.shape) / 2, "the ink does not fill the box from end to end"
            ink[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = False
        assert not ink.any(), "there is ink outside of all boxes"
    image = decode_image(documents.read("turned%20%231.pdf#6").image or b"", "")
    assert page_text(pages.of("turned%20%231.pdf#6"), image.size) is None


def test_files_are_known_by_their_content_wherever_they_lie(rendered, tmp_path):
    store, turned = rendered, tmp_path / "in" / "turned #1.pdf"
    assert PdfPages([next(store.glob("*.h5"))]).names() == ["turned%20%231.pdf"]
    (tmp_path / "elsewhere").mkdir()
    shutil.move(turned, tmp_path / "elsewhere" / "other.pdf")
    turned.write_bytes(b"%PDF another")
    lost = PdfPages([store])
    assert (len(lost), lost.missing) == (0, ["turned%20%231.pdf"])
    found = PdfPages([store], [tmp_path / "elsewhere"])
    assert found.of("turned%20%231.pdf#2").path.name == "other.pdf"
    assert found.of("turned%20%231.pdf#0") is found.of("turned%20%231.pdf") is found.of("x.pdf#1") is None


def test_what_the_text_layer_is_taken_from_is_said(rendered, tmp_path, store):
    turned = tmp_path / "in" / "turned #1.pdf"
    assert rendered_pages([rendered], [], "never") is None
    assert rendered_pages([rendered], [], "auto") is None, "PyMuPDF was not asked for"
    assert len(rendered_pages([rendered], [], "only")) == 1
    assert len(rendered_pages([rendered], [turned.parent], "auto")) == 1
    with pytest.raises(InputError, match="--pdfs is for the text layer"):
        rendered_pages([rendered], [turned.parent], "never")
    assert len(rendered_pages([store], [], "auto")) == 0
    with pytest.raises(InputError, match="no page comes from a PDF file"):
        rendered_pages([store], [], "only")
    turned.unlink()
    with pytest.raises(InputError, match=r"1 of 1 PDF files .* not found, or have changed: turned.*\.pdf\. Name the"):
        rendered_pages([rendered], [], "only")


def test_a_damaged_store_is_named(rendered):
    (rendered / "files.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(InputError, match=r"files\.jsonl:1: is damaged"):
        PdfPages([rendered])


def page_of(tmp_path, draw, size=(200, 300)):
    """A page that is rendered with a pixel a point."""
    document = pymupdf.open()
    draw(document.new_page(width=size[0], height=size[1]))
    path = tmp_path / f"{draw.__name__}.pdf"
    document.save(path)
    return PdfPage(path, 0, RenderSettings(dpi=72))


@pytest.fixture
def scan():
    return pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 50, 50), False).tobytes()


def test_a_scan_with_a_stamp_has_no_text_layer_and_one_with_its_text_has(tmp_path, scan):
    def stamped(page):
        page.insert_image(page.rect, stream=scan)
        page.insert_text((20, 40), "Received 12 May")

    assert page_text(page_of(tmp_path, stamped), (200, 300)) is None

    def recognised(page):
        stamped(page)
        for row in range(8):
            page.insert_text((20, 60 + 20 * row), "words of a hidden layer", render_mode=3)

    assert len(page_text(page_of(tmp_path, recognised), (200, 300))) == 9


def test_a_small_picture_on_the_page_changes_nothing(tmp_path, scan):
    def draw(page):
        page.insert_image((10, 100, 60, 150), stream=scan)
        page.insert_text((20, 40), "Figure 1")

    (line,) = page_text(page_of(tmp_path, draw), (200, 300))
    assert line["text"] == "Figure 1"


def test_a_picture_of_another_size_is_not_the_page(tmp_path):
    def draw(page):
        page.insert_text((20, 40), "Figure 1")

    page = page_of(tmp_path, draw)
    assert page_text(page, (201, 300)) is not None
    assert page_text(page, (202, 300)) is None
    assert page_text(page, (400, 600)) is None


def test_letters_that_nobody_can_read_are_no_text_layer(tmp_path, monkeypatch):
    def draw(page):
        page.insert_text((20, 40), "Figure 1")

    page = page_of(tmp_path, draw)
    from polylens.data.ocr import pdf_text

    class Unreadable:
        def __init__(self, text):
            self.words = text

        def size(self, page):
            return 200.0, 300.0

        def text(self, page):
            return [((20, 30, 90, 42), self.words)]

        def pictured(self, page):
            return 0.0

    for text, readable in (("\ue001\ue002\ue003 \ufffd", False), ("Figure \ufffd of the manual", True), (" ", False)):
        monkeypatch.setattr(pdf_text, "_open", {page.path: Unreadable(text)})
        assert (page_text(page, (200, 300)) is not None) == readable
