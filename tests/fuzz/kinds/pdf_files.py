"""Folders of PDF files, rendered by both renderers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path

import pymupdf
from fuzz.mutators import mutate_bytes, several
from fuzz.outcome import require
from fuzz.samples import picture

from polylens.data.images import decode_image
from polylens.data.render import RenderSettings, render_pdfs
from polylens.data.store import open_documents

FILES = 12
"""PDF files of one input: a renderer starts in a process of its own, which costs more than they do."""


def _good() -> list[bytes]:
    document = pymupdf.open()
    for number in range(3):
        page = document.new_page(width=200, height=300)
        page.insert_text((20, 40), f"page {number}")
        page.insert_image(pymupdf.Rect(20, 60, 80, 120), stream=picture(number))
    encrypted = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": "x", "owner_pw": "x"}
    return [
        document.tobytes(),
        document.tobytes(expand=255, pretty=True),
        document.tobytes(deflate=True, use_objstms=True, garbage=3),
        document.tobytes(**encrypted),
    ]


REPLACED: tuple[tuple[bytes, bytes], ...] = (
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox[0 0 99999999 99999999]"),
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox[0 0 1e38 1e38]"),
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox[0 0 nan inf]"),
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox[0 0 0.001 9000]"),
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox[5 5 -5 -5]/UserUnit 1e9"),
    (rb"/MediaBox ?\[[^]]*\]", b"/MediaBox null"),
    (rb"/Count 3", b"/Count 1000000"),
    (rb"/Count 3", b"/Count 2147483647"),
    (rb"/Count 3", b"/Count -1"),
    (rb"/Count 3", b"/Count 2"),
    (rb"/Width 24", b"/Width 2000000000"),
    (rb"/Height 18", b"/Height 2000000000"),
    (rb"/Rotate 0", b"/Rotate 45"),
    (rb"/Kids ?\[[^]]*\]", b"/Kids[2 0 R]"),
    (rb"/Kids ?\[[^]]*\]", b"/Kids[2 0 R 2 0 R 99 0 R]"),
    (rb"/Type/Page\b", b"/Type/Font"),
    (rb"startxref\s+\d+", b"startxref\n0"),
    (rb"/Length \d+", b"/Length 999999999"),
)


def _mutated(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.5:
        pattern, new = rng.choice(REPLACED)
        return re.sub(pattern, new, data, count=rng.choice([0, 1]))
    return several(rng, mutate_bytes, data, 6)


class PdfFolder:
    """Every page of a file is stored or skipped with a reason, and every file is heard of."""

    def __init__(self, base: Path) -> None:
        self.good = _good()

    def write(self, rng: random.Random, folder: Path) -> None:
        (folder / "pdf").mkdir()
        for number in range(FILES):
            data = rng.choice(self.good)
            (folder / "pdf" / f"{number}.pdf").write_bytes(_mutated(rng, data) if number else data)
        (folder / "renderer").write_text(rng.choice(["pymupdf", "pymupdf", "pdfium"]))

    def read(self, folder: Path) -> int:
        settings = RenderSettings((folder / "renderer").read_text(), dpi=72)
        report = render_pdfs([folder / "pdf"], folder / "store", settings, workers=1)
        source = open_documents([folder / "store"])
        pages: dict[str, list[int]] = {f"{number}.pdf": [] for number in range(FILES)}
        for id in source.ids():
            name, _, page = id.rpartition("#")
            pages[name].append(int(page))
            decode_image(source.read(id).image or b"", id)
        skipped = folder / "store" / "skipped.jsonl"  # is there if anything was skipped
        told = [json.loads(line) for line in skipped.read_text().splitlines()] if skipped.exists() else []
        require(len(told) == len(report.skipped), "the report and skipped.jsonl differ")
        self._check(pages, told)
        return len(told)

    def _check(self, pages: dict[str, list[int]], told: list[dict]) -> None:
        whole = {Path(entry["file"]).name for entry in told if entry["page"] is None}
        for entry in told:
            require(entry["reason"], f"{entry} has no reason")
            if entry["page"] is not None:
                pages[Path(entry["file"]).name].append(entry["page"])
        for name, numbers in pages.items():
            require(bool(numbers) != (name in whole), f"{name} was neither rendered nor skipped")
            require(sorted(numbers) == list(range(1, len(numbers) + 1)), f"{name}: pages {sorted(numbers)[:20]}")

    def commands(self, folder: Path) -> Sequence[Sequence[str]]:
        return [["data", "render", str(folder / "pdf"), "--output", str(folder / "command"), "--workers", "1"]]
