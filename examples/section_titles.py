"""Makes queries for rendered PDFs without writing any: every section title asks for the page where its section starts.

    polylens data render PDFS --output pages
    python examples/section_titles.py pages --output pairs.jsonl

The titles come from the outlines (bookmarks) of the PDFs that the store was rendered from, which must still be there,
and are read with the store's own renderer. Left out are titles that do not name one page: those of one word (or fewer
than four Chinese characters), and those that occur more than once, in one file or in several.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from polylens.data.pdf_files import RenderedFile, fingerprint, page_id
from polylens.data.records import read_jsonl
from polylens.data.store import open_documents
from polylens.errors import InputError
from polylens.files import write_text

NUMBERING = re.compile(r"^\d+(\.\d+)*\.?\s+")  # "2.1 Named pipes": numbers say nothing about what stands on a page
MIN_WORDS, MIN_WIDE_CHARACTERS = 2, 4


@dataclass(frozen=True, slots=True)
class Title:
    """A title, the id of the page where its section starts, and its depth in the outline, from 1."""

    text: str
    page: str
    level: int

    @property
    def key(self) -> str:
        return self.text.casefold()

    @property
    def is_telling(self) -> bool:
        wide = sum(unicodedata.east_asian_width(character) in "WF" for character in self.text)
        return len(self.text.split()) >= MIN_WORDS or wide >= MIN_WIDE_CHARACTERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder that polylens data render wrote")
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL", help="pairs file to write")
    args = parser.parse_args()
    try:
        print(make_pairs(args.store, args.output))
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def make_pairs(store: Path, output: Path) -> str:
    """Write the pairs; returns a line that says how many, and what was left out.

    Raises:
        InputError: the store was not rendered, a PDF is gone or has changed, or no title is left.
    """
    pages = open_documents([store])
    titles = [title for file in rendered_files(store) for title in read_titles(file, renderer(store))]
    stored = [title for title in titles if title.page in pages]
    telling = [title for title in stored if title.is_telling]
    counts = Counter(title.key for title in telling)
    kept = [title for title in telling if counts[title.key] == 1]
    if not kept:
        raise InputError(f"the outlines of the PDFs in {store} have {len(titles)} titles, and none names one page")
    write_text(output, (json.dumps(pair(title), ensure_ascii=False) + "\n" for title in kept))
    short, repeated = len(stored) - len(telling), len(telling) - len(kept)
    return (
        f"{len(kept)} pairs are in {output}; of {len(titles)} titles {short} say too little, {repeated} are repeated"
    )


def pair(title: Title) -> dict[str, Any]:
    return {"query": {"text": title.text}, "positives": [title.page], "metadata": {"level": title.level}}


def rendered_files(store: Path) -> list[RenderedFile]:
    if not (store / "files.jsonl").exists():
        raise InputError(f"{store} was not written by 'polylens data render': it has no files.jsonl")
    return [RenderedFile(**value) for _, value in read_jsonl(store / "files.jsonl")]


def renderer(store: Path) -> str:
    return json.loads((store / "render.json").read_text("utf-8"))["renderer"]


def read_titles(file: RenderedFile, renderer: str) -> Iterator[Title]:
    """The outline of a file, in order.

    Raises:
        InputError: the PDF is gone, or is another one than was rendered.
    """
    path = Path(os.fsdecode(unquote_to_bytes(file.path)))
    if not path.exists() or fingerprint(path) != file.fingerprint:
        raise InputError(f"{path} is gone or has changed since it was rendered; render it again")
    for level, text, page in (pdfium_outline if renderer == "pdfium" else mupdf_outline)(path):
        yield Title(NUMBERING.sub("", " ".join(text.split()), count=1), page_id(file.name, page), level)


def mupdf_outline(path: Path) -> Iterator[tuple[int, str, int]]:
    """Level, title and page (from 0) of every entry that leads to a page."""
    import pymupdf

    with pymupdf.open(path) as pdf:
        yield from ((level, text, page - 1) for level, text, page in pdf.get_toc() if page > 0)


def pdfium_outline(path: Path) -> Iterator[tuple[int, str, int]]:
    """The same with PDFium."""
    import pypdfium2

    with pypdfium2.PdfDocument(path) as pdf:
        for entry in pdf.get_toc():
            target = entry.get_dest()
            page = None if target is None else target.get_index()
            if page is not None:
                yield entry.level + 1, entry.get_title(), page


if __name__ == "__main__":
    sys.exit(main())
