"""The pictures whose text is to be recognised: those of a folder, or the pages of document stores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

from polylens.data.documents import check_id
from polylens.data.images import find_pictures
from polylens.data.ocr.pdf_text import PdfPage, PdfPages
from polylens.data.store import open_documents
from polylens.errors import InputError

__all__ = ["FolderPictures", "Pictures", "StorePictures", "TextLayer", "rendered_pages"]

_LOG = logging.getLogger(__name__)

TextLayer = Literal["auto", "only", "never"]
"""``auto`` takes the text of PDF pages from their files where it can be had and has all other pictures recognised;
``only`` has none recognised; ``never`` has all."""


class Pictures(Protocol):
    """Pictures by the names that an OCR file gives them.

    Attributes:
        kind: key of the name in a line of an OCR file.
        place: the folder or the stores.
        names: in the order of the output.
        pdf_files: how many of the files whose pages they are were found.
    """

    kind: str
    place: str
    names: Sequence[str]
    pdf_files: int

    def source(self, name: str) -> Path | bytes | None:
        """The file of a picture, or its content; ``None`` for a document without one.

        Raises:
            InputError: it cannot be read, or an OCR file cannot hold its name.
        """
        ...

    def page(self, name: str) -> PdfPage | None:
        """The PDF page that a picture shows, if it is known."""
        ...


class FolderPictures:
    """All pictures below a folder.

    Args:
        folder: of the pictures.
        image_root: what their names start from; by default the folder itself.

    Raises:
        InputError: the folder has no pictures, or does not lie below the image root.
    """

    kind = "image"
    pdf_files = 0

    def __init__(self, folder: Path, image_root: Path | None = None) -> None:
        root = folder if image_root is None else image_root
        if not folder.resolve().is_relative_to(root.resolve()):
            raise InputError(f"the folder {folder} does not lie below the image root {root}")
        below = folder.resolve().relative_to(root.resolve())
        self._root, self.place = root, str(folder)
        self.names: Sequence[str] = [(below / name).as_posix() for name in find_pictures(folder)]

    def source(self, name: str) -> Path:
        """See ``Pictures``."""
        return self._root / check_id(name, f"picture {name!r}")

    def page(self, name: str) -> None:
        """A file does not say which page it shows."""
        return


class StorePictures:
    """The pictures of document stores.

    Args:
        stores: folders or files.
        pdfs: what their pages were rendered from.

    Raises:
        InputError: they cannot be read.
    """

    kind = "document"

    def __init__(self, stores: Sequence[Path], pdfs: PdfPages | None = None) -> None:
        self._documents, self._pdfs = open_documents(stores), pdfs
        self.names, self.place = self._documents.ids(), ", ".join(map(str, stores))
        self.pdf_files = 0 if pdfs is None else len(pdfs)

    def source(self, name: str) -> bytes | None:
        """See ``Pictures``."""
        return self._documents.read(name).image

    def page(self, name: str) -> PdfPage | None:
        """See ``Pictures``."""
        return None if self._pdfs is None else self._pdfs.of(name)


def rendered_pages(stores: Sequence[Path], pdfs: Sequence[Path], text_layer: TextLayer) -> PdfPages | None:
    """The PDF files behind document stores; ``None`` if their text layer is not to be used.

    PyMuPDF takes the text out. Stores that PDFium rendered are for those who do not want it: their text layer is used
    only if files are named, or nothing else is wanted.

    Raises:
        InputError: files were named, or nothing else is wanted, and not all files are found.
    """
    if text_layer == "never":
        if pdfs:
            raise InputError("--pdfs is for the text layer, and --text-layer never does not look at it")
        return None
    found = PdfPages(stores, pdfs)
    if found.missing and (pdfs or text_layer == "only"):
        names = ", ".join(found.missing[:5]) + (", ..." if len(found.missing) > 5 else "")
        raise InputError(
            f"{len(found.missing)} of {len(found.missing) + len(found)} PDF files that were rendered are not found, "
            f"or have changed: {names}. Name the folder they lie in with --pdfs"
        )
    if not len(found) and (pdfs or text_layer == "only"):
        raise InputError(
            f"{', '.join(map(str, stores))}: no page comes from a PDF file, as 'polylens data render' notes it, so "
            "there is no text layer"
        )
    if found.missing:
        _LOG.warning("%d PDF files are not found: their pages are recognised (see --pdfs)", len(found.missing))
    return None if "pdfium" in found.renderers() and text_layer == "auto" and not pdfs else found
