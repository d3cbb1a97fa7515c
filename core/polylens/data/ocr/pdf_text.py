"""The text layer of the PDF files that pages of a document store were rendered from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from polylens.config.json_text import read_json_object
from polylens.data.documents import group_of
from polylens.data.ocr.engines import line_of
from polylens.data.pdf_files import RenderedFile, find_pdfs, fingerprint
from polylens.data.records import read_jsonl
from polylens.data.render import RenderSettings
from polylens.data.renderers import PdfText, open_text
from polylens.errors import InputError

__all__ = ["PdfPage", "PdfPages", "page_text", "text_layer_name"]

_FEW = 100
"""Letters: a page with fewer, more than half of which is one picture, is a scan with a stamp."""

_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff\x00-\x08\x0e-\x1f]")
"""What comes out of fonts that do not say which letters their glyphs are."""

_MOST_UNREADABLE = 0.1
_LEAST_INSIDE = 0.5
"""Part of a line's area that must lie on the page."""


@dataclass(frozen=True, slots=True)
class PdfPage:
    """A page (from 0) of a file, and how it became a picture."""

    path: Path
    page: int
    settings: RenderSettings


class PdfPages:
    """Finds the PDF pages behind documents of stores that ``polylens data render`` made.

    A file counts as the one that was rendered if its fingerprint is the one that the store has noted.

    Args:
        stores: folders of document stores, or files in them.
        pdfs: files and folders of PDF files, for those that have moved.

    Attributes:
        missing: names of files that were rendered and are not found.
    """

    def __init__(self, stores: Iterable[Path], pdfs: Sequence[Path] = ()) -> None:
        self._files: dict[str, tuple[Path, RenderSettings]] = {}
        self.missing: list[str] = []
        moved = {_print(file.path): file.path for file in find_pdfs(pdfs)} if pdfs else {}
        for store in stores:
            folder = store if store.is_dir() else store.parent
            if (folder / "render.json").is_file() and (folder / "files.jsonl").is_file():
                self._note(folder, moved)

    def _note(self, folder: Path, moved: dict[str, Path]) -> None:
        settings = _settings(folder / "render.json")
        for number, value in read_jsonl(folder / "files.jsonl"):
            try:
                file = RenderedFile(**value)
            except TypeError as error:
                raise InputError(f"{folder / 'files.jsonl'}:{number}: is damaged: {error}") from error
            place = _place(file.path)
            found = place if _print(place) == file.fingerprint else moved.get(file.fingerprint)
            if found is None:
                self.missing.append(file.name)
            else:
                self._files[file.name] = found, settings

    def __len__(self) -> int:
        """Files that are found."""
        return len(self._files)

    def names(self) -> list[str]:
        """Of the files that are found."""
        return list(self._files)

    def renderers(self) -> set[str]:
        """What drew the pages of the files that are found."""
        return {settings.renderer for _, settings in self._files.values()}

    def of(self, id: str) -> PdfPage | None:
        """The page that a document shows; ``None`` if it is unknown."""
        known, number = self._files.get(group_of(id)), id.rpartition("#")[2]
        if known is None or not number.isdecimal() or int(number) < 1:
            return None
        return PdfPage(known[0], int(number) - 1, known[1])


def _settings(path: Path) -> RenderSettings:
    try:
        return RenderSettings(**read_json_object(path))
    except TypeError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _place(text: str) -> Path:
    """The path that ``path_text`` wrote."""
    return Path(os.fsdecode(unquote_to_bytes(text)))


def _print(path: Path) -> str:
    try:
        return fingerprint(path)
    except (OSError, ValueError):
        return ""


def text_layer_name() -> str:
    """What takes text layers out, and its version; pictures without one are recognised without it, too."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"text layer, pymupdf {version('pymupdf')}"
    except PackageNotFoundError:
        return "text layer, without pymupdf"


def page_text(page: PdfPage, size: tuple[int, int]) -> list[dict[str, Any]] | None:
    """The lines of a page's text layer as an OCR file holds them, in pixels of its picture; ``None`` if it has none.

    None has also a page whose letters nobody can read, or that is a scan with no more than a stamp on it, or whose
    picture is not of the size that the settings of the store give.

    Args:
        size: of the picture.

    Raises:
        InputError: the page cannot be read.
    """
    pdf = _opened(page.path)
    points = pdf.size(page.page)
    scale = page.settings.scale(points)
    if any(abs(pixels - side * scale) > 1 for pixels, side in zip(size, points, strict=True)):
        return None
    across, down = _scales(page.settings.renderer, scale, points, size)
    found = ((_scaled(box, across, down), text) for box, text in pdf.text(page.page))
    lines = [_line(box, text, size) for box, text in found]
    kept = [line for line in lines if line is not None]
    text = "".join(line["text"] for line in kept)
    few = len(text) < _FEW and pdf.pictured(page.page) > 0.5
    return None if few or not text or len(_UNREADABLE.findall(text)) > _MOST_UNREADABLE * len(text) else kept


def _scales(renderer: str, scale: float, points: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """Pixels a point: MuPDF's last pixel is cut off where the page ends, PDFium stretches the page to whole pixels."""
    if renderer == "pdfium":
        return size[0] / points[0], size[1] / points[1]
    return scale, scale


Box = tuple[float, float, float, float]


def _scaled(box: Box, across: float, down: float) -> Box:
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def _line(box: Box, text: str, size: tuple[int, int]) -> dict[str, Any] | None:
    left, top, right, bottom = box
    line = line_of([(left, top), (right, top), (right, bottom), (left, bottom)], text, 1.0, size)
    if line is None:
        return None
    shown = (line["box"][2] - line["box"][0]) * (line["box"][3] - line["box"][1])
    return line if shown >= _LEAST_INSIDE * (right - left) * (bottom - top) else None


# In a worker: the file of its last page.
_open: dict[Path, PdfText] = {}


def _opened(path: Path) -> PdfText:
    """The file, kept open from one page to the next."""
    if path not in _open:
        while _open:
            _open.popitem()[1].close()
        _open[path] = open_text(path)
    return _open[path]
