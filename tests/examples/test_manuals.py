"""The sample manuals: PDFs, contents and queries belong together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
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


@pytest.mark.parametrize("name", ["pairs.jsonl", "passages.jsonl"])
def test_the_queries_are_those_of_the_contents(remade: Path, name: str) -> None:
    assert (remade / name).read_text(encoding="utf-8") == (MANUALS / name).read_text(encoding="utf-8")


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (MANUALS / name).read_text(encoding="utf-8").splitlines()]


def test_every_page_has_queries_that_differ() -> None:
    pages = {
        f"{path.name}#{number}" for path in MANUALS.glob("*.pdf") for number in range(1, len(pymupdf.open(path)) + 1)
    }
    for name, each in (("pairs.jsonl", 7), ("passages.jsonl", 4)):
        counts = Counter(pair["positives"][0] for pair in read(name))
        assert set(counts) == pages
        assert min(counts.values()) >= each
    texts = [pair["query"]["text"] for pair in read("pairs.jsonl")]
    assert len(set(texts)) == len(texts)


def test_no_query_stands_among_the_passages() -> None:
    texts = {name: {pair["query"]["text"] for pair in read(name)} for name in ("pairs.jsonl", "passages.jsonl")}
    assert not texts["pairs.jsonl"] & texts["passages.jsonl"]


def test_passages_stand_on_their_page() -> None:
    """Without blanks, because lines break anywhere in Chinese, and at hyphens in no language here."""
    words: dict[str, str] = {}
    for path in MANUALS.glob("*.pdf"):
        for number, page in enumerate(pymupdf.open(path), 1):
            words[f"{path.name}#{number}"] = "".join(page.get_text().split())
    for pair in read("passages.jsonl"):
        text = words[pair["positives"][0]]
        assert all(word in text for word in pair["query"]["text"].split()), pair


def test_no_text_runs_over_the_edge_of_a_page() -> None:
    for path in MANUALS.glob("*.pdf"):
        for page in pymupdf.open(path):
            for x0, y0, x1, y1, *_ in page.get_text("words"):
                assert page.rect.contains(pymupdf.Rect(x0, y0, x1, y1)), (path.name, page.number)


def test_no_two_pages_look_the_same() -> None:
    pictures = [page.get_pixmap(dpi=20).digest for path in MANUALS.glob("*.pdf") for page in pymupdf.open(path)]
    assert len(set(pictures)) == len(pictures)
