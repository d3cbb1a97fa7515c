import gc
import sys

import numpy as np
import pymupdf
import pytest
from PIL import Image

from polylens.data.renderers import open_pdf, open_text
from polylens.errors import InputError

OPAQUE = ("text", "opaque picture", "rotated", "cropped")
PAGES = (
    *OPAQUE,
    "note",
    "field",
    "pale",
    "pale form",
    "blended",
    "soft picture",
    "isolated group",
    "knockout group",
    "soft mask",
)
FORM = "<< /Type /XObject /Subtype /Form /BBox [0 0 200 200] {} >>"
GROUP = "/Group << /S /Transparency /CS /DeviceRGB {} >>"
STATES = "/ExtGState << /Half << /ca 0.5 >> /Masked << /SMask << /S /Luminosity /G {} 0 R >> >> >>"
SHAPES = b"/Half gs 1 0 0 rg 10 10 100 90 re f 0 0.5 1 rg 60 50 120 100 re f"


def picture(mode: str) -> pymupdf.Pixmap:
    values = np.random.default_rng(0).integers(0, 256, (30, 40, len(mode)), dtype=np.uint8)
    return pymupdf.Pixmap(pymupdf.csRGB, 40, 30, values.tobytes(), mode == "RGBA")


def add_page(pdf: pymupdf.Document, kind: str) -> None:
    page = pdf.new_page(width=211.3, height=297.7)
    page.insert_text((20, 40), f"A page with {kind}", color=(0.2, 0, 0.7))
    page.draw_circle((100, 100), 50, color=(1, 0, 0), fill=(0.3, 0.8, 0.1))
    box = pymupdf.Rect(80, 90, 190, 250)
    if kind == "pale":
        page.draw_rect(box, fill=(0, 0, 1), fill_opacity=0.37, stroke_opacity=0.6)
    elif kind == "blended":
        page.add_highlight_annot(box).set_blendmode("Multiply")
    elif kind.endswith("picture"):
        page.insert_image(box, pixmap=picture("RGBA" if kind == "soft picture" else "RGB"))
    elif kind.endswith(("form", "group", "mask")):
        add_group(pdf, page, kind)
    elif kind == "rotated":
        page.set_rotation(90)
    elif kind == "cropped":
        page.set_cropbox(pymupdf.Rect(13.4, 17.9, 160.2, 210.1))
    elif kind == "note":
        page.add_text_annot((60, 60), "a note")
    elif kind == "field":
        field = pymupdf.Widget()
        given = {"rect": box, "field_name": "a", "field_value": "what was entered", "field_type": 7}
        for name, value in given.items():
            setattr(field, name, value)
        page.add_widget(field)


def add_group(pdf: pymupdf.Document, page: pymupdf.Page, kind: str) -> None:
    """A form with a transparency group, painted at half strength; a form that alone knows of half strength; or a shape
    behind the form's brightness."""
    form, content = pdf.get_new_xref(), pdf.get_new_xref()
    states = STATES.format(form)
    group = "" if kind == "pale form" else GROUP.format("/K true" if kind == "knockout group" else "/I true")
    pdf.update_object(form, FORM.format(f"{group} /Resources << {states} >>"))
    pdf.update_stream(form, SHAPES)
    pdf.update_object(content, "<< >>")
    painted = {"soft mask": b"/Masked gs 0 0.6 0 rg 0 0 180 220 re f", "pale form": b"/Form Do"}
    pdf.update_stream(content, painted.get(kind, b"/Half gs /Form Do"))
    resources = f"<< {'' if kind == 'pale form' else states} /XObject << /Form {form} 0 R >> >>"
    pdf.xref_set_key(page.xref, "Resources", resources)
    pdf.xref_set_key(page.xref, "Contents", f"{content} 0 R")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("pdf") / "pages.pdf"
    with pymupdf.open() as pdf:
        for kind in PAGES:
            add_page(pdf, kind)
        pdf.save(path)
    return path


@pytest.mark.parametrize("kind", PAGES)
@pytest.mark.parametrize("scale", [0.5, 1, 2.37])
def test_every_pixel_is_that_of_a_plain_pixmap_on_white(path, kind, scale):
    ours = open_pdf("pymupdf", path)
    image = ours.render(PAGES.index(kind), scale)
    ours.close()
    del ours
    gc.collect()
    assert image.mode == ("RGBX" if kind in OPAQUE else "RGB"), "of the other way nothing was seen"
    with pymupdf.open(path) as pdf:
        plain = pdf[PAGES.index(kind)].get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
        assert image.size == (plain.width, plain.height)
        assert image.convert("RGB").tobytes() == plain.samples


def test_a_picture_outlives_its_page(path):
    """Its memory is MuPDF's, which must not take it back while the picture, or a part of it, is there."""
    pdf = open_pdf("pymupdf", path)
    first = pdf.render(0, 2)
    before = first.convert("RGB").tobytes()
    part = first.crop((0, 0, 100, 100))
    corner = part.convert("RGB").tobytes()
    for page in range(len(PAGES)):
        pdf.render(page, 2)
    pdf.close()
    assert first.convert("RGB").tobytes() == before
    del first
    gc.collect()
    Image.new("RGB", (422, 595), "red").load()
    assert part.convert("RGB").tobytes() == corner


def test_without_pymupdf_one_is_told_what_to_do(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pymupdf", None)
    for opened in (lambda: open_pdf("pymupdf", path), lambda: open_text(path)):
        with pytest.raises(InputError, match=r"needs PyMuPDF .* --renderer pdfium"):
            opened()
