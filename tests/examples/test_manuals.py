"""The sample manuals: PDFs, contents and queries belong together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pymupdf
import pytest

MANUALS = Path(__file__).resolve().parents[2] / "examples" / "manuals"


@pytest.fixture(scope="module")
def remade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manuals")
    subprocess.run([sys.executable, str(MANUALS / "make_manuals.py"), "--output", str(folder)], check=True)
    return folder


def test_the_program_draws_the_shipped_pages(remade: Path) -> None:
    names = sorted(path.name for path in MANUALS.glob("*.pdf"))
    assert names == sorted(path.name for path in remade.glob("*.pdf"))
    for name in names:
        with pymupdf.open(MANUALS / name) as shipped, pymupdf.open(remade / name) as made:
            assert [page.get_text() for page in shipped] == [page.get_text() for page in made]
            assert [page.get_pixmap(dpi=20).digest for page in shipped] == [
                page.get_pixmap(dpi=20).digest for page in made
            ]


def test_the_queries_are_those_of_the_contents(remade: Path) -> None:
    assert (remade / "pairs.jsonl").read_text(encoding="utf-8") == (MANUALS / "pairs.jsonl").read_text(
        encoding="utf-8"
    )


def test_every_page_has_queries_that_differ() -> None:
    pairs = [json.loads(line) for line in (MANUALS / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    pages = {
        f"{path.name}#{number}" for path in MANUALS.glob("*.pdf") for number in range(1, len(pymupdf.open(path)) + 1)
    }
    assert {pair["positives"][0] for pair in pairs} == pages
    assert len({pair["query"]["text"] for pair in pairs}) == len(pairs) == 7 * len(pages)


def test_no_text_runs_over_the_edge_of_a_page() -> None:
    for path in MANUALS.glob("*.pdf"):
        for page in pymupdf.open(path):
            for x0, y0, x1, y1, *_ in page.get_text("words"):
                assert page.rect.contains(pymupdf.Rect(x0, y0, x1, y1)), (path.name, page.number)


def test_no_two_pages_look_the_same() -> None:
    pictures = [page.get_pixmap(dpi=20).digest for path in MANUALS.glob("*.pdf") for page in pymupdf.open(path)]
    assert len(set(pictures)) == len(pictures)
