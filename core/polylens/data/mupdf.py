"""Draws a page with MuPDF into the memory of a Pillow picture.

Pillow holds four bytes a pixel. To spread MuPDF's three takes a seventh of the time in which a page becomes a JPEG
file. So MuPDF writes four, the last one being alpha, into memory that Pillow then takes over. On an opaque page that
gives the same colours. Where something shines through MuPDF rounds otherwise, by one level of 255: such a page is
drawn without alpha, and copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pymupdf
from PIL import Image
from pymupdf import mupdf

__all__ = ["draw"]


def draw(page: pymupdf.Page, scale: float) -> Image.Image:
    """The page on white, ``scale`` pixels a point, with the colours of ``page.get_pixmap(alpha=False)``.

    Returns:
        A picture of mode RGB, or of mode RGBX, whose fourth byte means nothing.

    Raises:
        mupdf.FzErrorBase, RuntimeError, ValueError: the page is damaged.
    """
    if _is_opaque(page):
        return _draw_in_place(page, scale)
    pixels = page.get_pixmap(matrix=pymupdf.Matrix(scale, scale), alpha=False)
    return Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples_mv)


def _draw_in_place(page: Any, scale: float) -> Image.Image:
    content, matrix = page.get_displaylist().this, mupdf.fz_scale(scale, scale)
    box = mupdf.fz_round_rect(mupdf.fz_transform_rect(mupdf.fz_bound_display_list(content), matrix))
    colours = mupdf.FzColorspace(mupdf.FzColorspace.Fixed_RGB)
    pixels = mupdf.fz_new_pixmap_with_bbox(colours, box, mupdf.FzSeparations(), 1)
    mupdf.fz_clear_pixmap_with_value(pixels, 255)
    device, everywhere = mupdf.fz_new_draw_device(matrix, pixels), mupdf.FzRect(mupdf.FzRect.Fixed_INFINITE)
    mupdf.fz_run_display_list(content, device, mupdf.FzMatrix(), everywhere, mupdf.FzCookie())
    mupdf.fz_close_device(device)
    samples = mupdf.fz_pixmap_samples_memoryview(pixels)
    image = Image.frombuffer("RGBX", (pixels.w(), pixels.h()), samples, "raw", "RGBX", 0, 1)
    image.__dict__["pixels"] = pixels  # whose memory it shows: it must live as long
    return image


def _is_opaque(page: Any) -> bool:
    """Whether all that the page paints hides what is below it."""
    pdf_page = mupdf.pdf_page_from_fz_page(page.this)
    if mupdf.pdf_page_has_transparency(pdf_page):  # groups, soft masks, blend modes
        return False
    annotations = mupdf.pdf_dict_gets(pdf_page.obj(), "Annots")
    looks = (mupdf.pdf_array_get(annotations, number) for number in range(mupdf.pdf_array_len(annotations)))
    if any(mupdf.pdf_dict_len(mupdf.pdf_dict_gets(look, "AP")) for look in looks):
        return False
    states = (state for each in _resources(pdf_page) for state in _values(each, "ExtGState"))
    return all(_number(state, "ca", 1) == _number(state, "CA", 1) == 1 for state in states)


def _resources(pdf_page: Any) -> Iterator[Any]:
    """The resources of the page, and of all forms, patterns and Type 3 fonts that it paints with."""
    waiting, seen = [mupdf.pdf_page_resources(pdf_page)], set()
    while waiting:
        resources = waiting.pop()
        yield resources
        for painted in (painted for kind in ("XObject", "Pattern", "Font") for painted in _values(resources, kind)):
            inner = mupdf.pdf_dict_gets(painted, "Resources")
            number = mupdf.pdf_to_num(painted)
            if mupdf.pdf_dict_len(inner) and number not in seen:
                seen.update({number} - {0})  # only what has a number can occur within itself
                waiting.append(inner)


def _values(dictionary: Any, name: str) -> Iterator[Any]:
    inner = mupdf.pdf_dict_gets(dictionary, name)
    return (mupdf.pdf_dict_get_val(inner, number) for number in range(mupdf.pdf_dict_len(inner)))


def _number(dictionary: Any, name: str, default: float) -> float:
    return mupdf.pdf_to_real_default(mupdf.pdf_dict_gets(dictionary, name), default)
