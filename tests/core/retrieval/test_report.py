"""The report says what it was given, stands alone, and treats every text as text."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from polylens.errors import InputError
from polylens.retrieval.report import (
    Command,
    Curve,
    Evaluation,
    Ranking,
    Report,
    points,
    rankings,
    read_history,
    write_report,
)

COLOURS = {"a.pdf#1": "red", "a.pdf#2": "blue", "b<c>.pdf#1": "green"}


def picture(id: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (900, 1200), COLOURS[id]).save(buffer, "PNG")
    return buffer.getvalue()


def evaluation(**scores: dict[str, float]) -> Evaluation:
    return Evaluation("Unseen queries", "Held out.", queries=12, documents=34, scores=scores)


FULL = Report(
    title="A run",
    introduction=["First words."],
    facts={"model": "tiny", "torch": "2.11"},
    commands=[Command("polylens train --model tiny", 61.25), Command("polylens search", 2.5)],
    curves=[
        Curve("Loss", {"training": [(1, 3.5), (2, 2.25)]}),
        Curve("Validation nDCG@10", {"validation": [(1, 0.1), (2, 0.4)]}, level=("chance", 0.0757)),
    ],
    evaluations=[
        evaluation(
            trained={"nDCG@10": 0.8125, "R@1": 0.7},
            untrained={"nDCG@10": 0.0811, "R@1": 0.0167},
        )
    ],
    remarks=["A small model."],
    rankings=[
        Ranking("unseen", "what is red?", [("a.pdf#2", 0.9), ("a.pdf#1", 0.5)], frozenset({"a.pdf#1"})),
        Ranking("held out", "nothing", [("b<c>.pdf#1", 0.25)], frozenset({"a.pdf#1"})),
    ],
)


class Page(HTMLParser):
    """Tags with their attributes, table cells, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"

    def pages(self) -> list[str]:
        return [names for _, attributes in self.tags if re.match("page( |$)", names := attributes.get("class") or "")]


@pytest.fixture
def page(tmp_path: Path) -> Page:
    write_report(tmp_path / "report.html", FULL, picture)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_figures_in_the_page_are_those_given(page: Page) -> None:
    for figure in ("0.812", "0.700", "0.081", "0.017", "12 queries, 34 documents", "61.2 s", "2.5 s", "63.8 s"):
        assert figure in page.text
    widths = [attributes["style"] for tag, attributes in page.tags if tag == "i"]
    assert widths == ["width:81.2%", "width:70.0%", "width:8.1%", "width:1.7%"]


def test_the_best_system_of_each_measure_is_marked(page: Page) -> None:
    assert [attributes.get("class") for tag, attributes in page.tags if tag == "td"].count("best") == 2


def test_right_pages_are_framed_and_ranks_told(page: Page) -> None:
    assert page.pages() == ["page", "page right", "page"]
    assert "The right page is at rank 2." in page.text
    assert "The right page is not among the 1 pages found." in page.text


def test_thumbnails_are_the_pictures_of_the_documents(page: Page) -> None:
    sources = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    small = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]
    assert [image.size for image in small] == [(225, 300)] * 3
    strongest = [max(range(3), key=lambda band: image.getpixel((9, 9))[band]) for image in small]  # type: ignore[index]
    assert strongest == [2, 0, 1]


def test_curves_are_drawn_inside_the_page(page: Page) -> None:
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert labels == ["Loss", "Validation nDCG@10"]
    assert "chance (0.076)" in page.text


def test_nothing_is_loaded_from_elsewhere(page: Page, tmp_path: Path) -> None:
    loading = {"src", "href", "xlink:href", "srcset", "data", "action", "poster"}
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in loading]
    assert links
    assert all(link and link.startswith(("data:", "#")) for link in links)
    assert not {"link", "script", "iframe", "base"} & {tag for tag, _ in page.tags}
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", html))


def test_texts_are_escaped(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script>"&'
    report = Report(
        title=evil,
        introduction=[evil],
        facts={evil: evil},
        commands=[Command(evil, 1.0)],
        curves=[Curve(evil, {evil: [(1, 1.0)]}, level=(evil, 0.5))],
        evaluations=[Evaluation(evil, evil, 1, 1, {evil: {evil: 0.5}})],
        remarks=[evil],
        rankings=[Ranking(evil, evil, [(evil, 1.0)], frozenset())],
    )
    write_report(tmp_path / "r.html", report, lambda id: picture("a.pdf#1"))
    page = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(evil) >= 14


def test_empty_sections_are_left_out(tmp_path: Path) -> None:
    write_report(tmp_path / "deep" / "r.html", Report("Only a title"), picture)
    page = Page((tmp_path / "deep" / "r.html").read_text(encoding="utf-8"))
    assert "section" not in {tag for tag, _ in page.tags}
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "r.html"]


def test_the_same_report_gives_the_same_page(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(tmp_path / name, FULL, picture)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.pdf#2"):
        write_report(tmp_path / "r.html", FULL, lambda id: b"not a picture")
    assert not list(tmp_path.iterdir())


def test_systems_must_have_the_same_measures(tmp_path: Path) -> None:
    report = Report("x", evaluations=[evaluation(trained={"nDCG@10": 1.0}, chance={"R@1": 0.1})])
    with pytest.raises(InputError, match="'chance' has R@1; the others have nDCG@10"):
        write_report(tmp_path / "r.html", report, picture)


def test_history_is_read_and_resumed_steps_count_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 5}\n{"step": 1, "loss": 9}\n{"step": 2, "loss": 4}\n{"epoch": 1}\n', "utf-8")
    assert points(read_history(path), "loss") == [(1.0, 9.0), (2.0, 4.0)]
    path.write_text('{"step": 1}\n[1]\n', "utf-8")
    with pytest.raises(InputError, match=r"metrics\.jsonl:2"):
        read_history(path)


def test_rankings_are_chosen_by_position_and_sorted_by_score() -> None:
    queries = {f"q{i}": f"text {i}" for i in range(10)}
    run = {id: {"x": 0.1, "z": 0.7, "y": 0.7} for id in queries}
    chosen = rankings("set", queries, run, {"q1": {"y": 1, "x": 0}}, 3)
    assert [ranking.query for ranking in chosen] == ["text 1", "text 5", "text 8"]
    assert chosen[0].found == [("y", 0.7), ("z", 0.7), ("x", 0.1)]
    assert [ranking.rank for ranking in chosen] == [1, None, None]
    assert len(rankings("set", queries, run, {}, 99)) == 10
