"""Programs that draw PDF pages, behind one interface.

PyMuPDF is under the AGPL, PDFium under BSD and Apache licences: choosing ``pdfium`` never imports PyMuPDF. Both are
fast in one thread only, and PyMuPDF starts threads when it is imported: use them in processes of their own (spawned,
not forked).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from polylens.errors import InputError

__all__ = ["RENDERERS", "PageRenderer", "PdfText", "TextLine", "open_pdf", "open_text"]

P = TypeVar("P", bound="PageRenderer")


class PageRenderer(Protocol):
    """An open PDF. Pages count from 0."""

    def __len__(self) -> int: ...

    def size(self, page: int) -> tuple[float, float]:
        """Width and height of a page as it is shown, in points (1/72 inch)."""
        ...

    def render(self, page: int, scale: float) -> Image.Image:
        """The page on white, ``scale`` pixels a point: in mode RGB, or in RGBX, whose fourth byte means nothing."""
        ...

    def close(self) -> None: ...


TextLine = tuple[tuple[float, float, float, float], str]
"""Left, top, right and bottom in points of the page as it is shown, and the text."""


class PdfText(Protocol):
    """An open PDF whose text can be taken out. Pages count from 0."""

    def __len__(self) -> int: ...

    def size(self, page: int) -> tuple[float, float]:
        """Width and height of a page as it is shown, in points."""
        ...

    def text(self, page: int) -> list[TextLine]:
        """The lines of the page's text, in the order of the file; ligatures as their letters."""
        ...

    def pictured(self, page: int) -> float:
        """The part of the page that its largest picture covers."""
        ...

    def close(self) -> None: ...


def open_text(path: Path) -> PdfText:
    """Open a PDF with PyMuPDF for its text.

    Raises:
        InputError: as ``open_pdf``.
    """
    return _checked(_PyMuPdf, path)


def open_pdf(renderer: str, path: Path) -> PageRenderer:
    """Open a PDF with ``pymupdf`` or ``pdfium``.

    Raises:
        InputError: with the reason: it is damaged, encrypted, or has no pages.
    """
    return _checked(RENDERERS[renderer], path)


def _checked(kind: Callable[[Path], P], path: Path) -> P:
    try:
        pdf = kind(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}") from error
    pages, size = len(pdf), path.stat().st_size
    if 0 < pages <= size:
        return pdf
    pdf.close()
    raise InputError(f"is damaged: {size:,} bytes cannot hold its {pages:,} pages" if pages else "has no pages")


def _file_or_bytes(path: Path) -> str | bytes:
    """The path, or the content of a file whose name is not valid UTF-8 and so cannot be given to a C library."""
    if not os.path.getsize(path):
        raise InputError("is empty")
    with path.open("rb") as file:
        try:
            return str(path.absolute()).encode("utf-8").decode("utf-8")
        except UnicodeEncodeError:
            return file.read()


class _PyMuPdf:
    def __init__(self, path: Path) -> None:
        try:
            import pymupdf
        except ImportError:
            otherwise = "render with --renderer pdfium, and recognise text with --text-layer never"
            raise InputError(f"needs PyMuPDF (AGPL): pip install pymupdf; or {otherwise}") from None
        self._mupdf: Any = pymupdf
        self._loaded: tuple[int, Any] | None = None
        # Damage is reported by exceptions; MuPDF would also print every repair.
        pymupdf.TOOLS.mupdf_display_errors(False)
        pymupdf.TOOLS.mupdf_display_warnings(False)
        self._errors = (self._mupdf.mupdf.FzErrorBase, RuntimeError, ValueError)
        source = _file_or_bytes(path)
        given: dict[str, Any] = {"stream": source} if isinstance(source, bytes) else {"filename": source}
        self._pdf = self._guard("is no readable PDF", lambda: pymupdf.open(filetype="pdf", **given))
        if self._pdf.needs_pass:
            self.close()
            raise InputError("is encrypted and needs a password")
        if self._pdf.is_repaired and not len(self):
            self.close()
            raise InputError("is damaged or cut short: no page could be recovered")

    def __len__(self) -> int:
        return self._guard("has no readable page tree", lambda: self._pdf.page_count)

    def _page(self, number: int) -> Any:
        """A page, kept until another one is asked for: its size and its picture need it loaded once."""
        if self._loaded is None or self._loaded[0] != number:
            self._loaded = (number, self._pdf[number])
        return self._loaded[1]

    def size(self, page: int) -> tuple[float, float]:
        rect = self._guard("has no size", lambda: self._page(page).rect)
        return rect.width, rect.height

    def render(self, page: int, scale: float) -> Image.Image:
        from polylens.data.mupdf import draw

        return self._guard("cannot be drawn", lambda: draw(self._page(page), scale))

    def text(self, page: int) -> list[TextLine]:
        flags = self._mupdf.TEXT_PRESERVE_WHITESPACE | self._mupdf.TEXT_MEDIABOX_CLIP
        given = self._guard("has no readable text", lambda: self._page(page).get_text("dict", flags=flags))
        shown = self._guard("has no size", lambda: self._page(page).rotation_matrix)
        lines = (line for block in given["blocks"] for line in block.get("lines", ()))
        texts = ((line["bbox"], "".join(span["text"] for span in line["spans"])) for line in lines)
        return [(tuple(self._mupdf.Rect(box) * shown), text) for box, text in texts]  # type: ignore[misc]

    def pictured(self, page: int) -> float:
        infos = self._guard("has no readable pictures", lambda: self._page(page).get_image_info())
        whole = self._page(page).rect
        turned = self._page(page).rotation_matrix
        covered = (self._mupdf.Rect(info["bbox"]) * turned & whole for info in infos)
        areas = [part.get_area() for part in covered if not part.is_empty]
        return max(areas, default=0.0) / whole.get_area()

    def close(self) -> None:
        self._loaded = None
        self._pdf.close()

    def _guard(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._errors as error:
            raise InputError(f"{what}: {error}") from error


class _Pdfium:
    def __init__(self, path: Path) -> None:
        try:
            import pypdfium2
        except ImportError:
            raise InputError("the renderer 'pdfium' needs pypdfium2: pip install 'polylens[pdfium]'") from None
        self._error = pypdfium2.PdfiumError
        self._pdf = self._guard("is no readable PDF", lambda: pypdfium2.PdfDocument(_file_or_bytes(path)))
        self._pdf.init_forms()

    def __len__(self) -> int:
        return len(self._pdf)

    def size(self, page: int) -> tuple[float, float]:
        return self._guard("has no size", lambda: self._pdf[page].get_size())

    def render(self, page: int, scale: float) -> Image.Image:
        def draw() -> Image.Image:
            return self._pdf[page].render(scale=scale, rev_byteorder=True).to_pil().convert("RGB")

        return self._guard("cannot be drawn", draw)

    def close(self) -> None:
        self._pdf.close()

    def _guard(self, what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._error as error:
            if "password" in str(error).lower():
                raise InputError("is encrypted and needs a password") from error
            raise InputError(f"{what}: {error}") from error


RENDERERS: dict[str, Callable[[Path], PageRenderer]] = {"pymupdf": _PyMuPdf, "pdfium": _Pdfium}
