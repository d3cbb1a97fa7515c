"""Section titles as queries: the pages that the outline names, by their ids in the store."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pymupdf
import pytest

from polylens.data.render import RenderSettings, render_pdfs

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "section_titles.py"
OUTLINES = {
    "pump #1.pdf": [
        (1, "1 Introduction", 1),  # one word
        (2, "1.1  The drain\nvalve ", 2),
        (2, "Level 2 alarms", 2),
        (1, "Spare parts", 3),  # also in the other file
        (1, "Nowhere to go", -1),
    ],
    "泵.pdf": [(1, "排水阀的清洁", 1), (1, "概述", 1), (1, "spare  parts", 2)],
}
EXPECTED = [
    ("The drain valve", "pump%20%231.pdf#2", 2),
    ("Level 2 alarms", "pump%20%231.pdf#2", 2),
    ("排水阀的清洁", "泵.pdf#1", 1),
]


def make_pdf(path: Path, outline: list[tuple[int, str, int]]) -> None:
    with pymupdf.open() as pdf:
        for _ in range(3):
            pdf.new_page(width=72, height=72)
        pdf.set_toc([list(entry) for entry in outline])
        pdf.save(path)


@pytest.fixture
def pdfs(tmp_path: Path) -> Path:
    folder = tmp_path / "pdfs"
    folder.mkdir()
    for name, outline in OUTLINES.items():
        make_pdf(folder / name, outline)
    return folder


def render(pdfs: Path, renderer: str = "pymupdf") -> Path:
    store = pdfs.parent / "pages"
    render_pdfs([pdfs], store, RenderSettings(renderer, long_side=32), workers=1)
    return store


def run(store: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), str(store), "--output", str(store.parent / "pairs.jsonl")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("renderer", ["pymupdf", "pdfium"])
def test_titles_that_name_one_page_ask_for_it(pdfs: Path, renderer: str) -> None:
    done = run(render(pdfs, renderer))
    assert done.returncode == 0, done.stderr
    assert "3 pairs" in done.stdout
    assert "of 7 titles 2 say too little, 2 are repeated" in done.stdout
    pairs = [json.loads(line) for line in (pdfs.parent / "pairs.jsonl").read_text("utf-8").splitlines()]
    found = [(pair["query"]["text"], *pair["positives"], pair["metadata"]["level"]) for pair in pairs]
    assert sorted(found) == sorted(EXPECTED)


def test_a_file_that_has_changed_is_named(pdfs: Path) -> None:
    store = render(pdfs)
    make_pdf(pdfs / "泵.pdf", [])
    done = run(store)
    assert done.returncode == 2
    assert "泵.pdf is gone or has changed" in done.stderr
    assert not (pdfs.parent / "pairs.jsonl").exists()


def test_outlines_without_a_telling_title_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "pdfs").mkdir()
    make_pdf(tmp_path / "pdfs" / "plain.pdf", [(1, "Overview", 1)])
    done = run(render(tmp_path / "pdfs"))
    assert done.returncode == 2
    assert "none names one page" in done.stderr
