"""Writes the sample manuals (PDF), their queries (pairs.jsonl) and passages (passages.jsonl) from contents/.

    python examples/manuals/make_manuals.py [--output FOLDER]

The products, texts and figures are our own. The same contents always give the same pages.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pymupdf
import yaml
from figures import (
    WHITE,
    Canvas,
    Typeface,
    colour,
    draw_bars,
    draw_drawing,
    draw_flow,
    draw_lines,
    draw_pie,
    mixed,
    shifted,
)

HERE = Path(__file__).resolve().parent
BODY, LEADING, CELL = 9.5, 13.5, 8.5  # at scale 1
SCALES = (1.4, 1.3, 1.2, 1.1, 1.0)
GAP = 9.0
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？；])")
FIGURES: dict[str, tuple[Callable[..., None], float]] = {
    "bars": (draw_bars, 120.0),
    "lines": (draw_lines, 130.0),
    "pie": (draw_pie, 105.0),
    "drawing": (draw_drawing, 0.0),
}


class Block:
    """One block of a page: its least height at a width, and how it is drawn into a box."""

    def __init__(self, canvas: Canvas, kind: str, content: Any, scale: float) -> None:
        self.canvas, self.kind, self.content = canvas, kind, content
        self.body, self.leading, self.cell = BODY * scale, LEADING * scale, CELL * scale
        self.is_figure = kind in FIGURES

    def height(self, width: float) -> float:
        if self.kind == "drawing":
            return min(float(self.content["height"]), 0.75 * width)
        if self.is_figure:
            return FIGURES[self.kind][1]
        if self.kind == "flow":
            return 36.0
        if self.kind == "table":
            return sum(height for _, height in self._rows(width))
        if self.kind == "code":
            return 12.0 * len(self.content.splitlines()) + 10
        return self.leading * len(self._lines(width)) + (14 if self.kind in ("note", "warning") else 0)

    def draw(self, box: pymupdf.Rect) -> None:
        if self.is_figure:
            FIGURES[self.kind][0](self.canvas, box, self.content)
        elif self.kind == "flow":
            draw_flow(self.canvas, box, self.content)
        elif self.kind == "table":
            self._draw_table(box)
        elif self.kind == "code":
            self._draw_code(box)
        else:
            self._draw_text(box)

    def _lines(self, width: float) -> list[tuple[str, float, str]]:
        """Marker, indent and text of every line."""
        wrap = self.canvas.type.wrap
        if self.kind in ("steps", "list"):
            lines = []
            for number, item in enumerate(self.content, 1):
                marker = f"{number}." if self.kind == "steps" else "dot"
                for i, line in enumerate(wrap(item, self.body, width - 18)):
                    lines.append((marker if i == 0 else "", 18.0, line))
            return lines
        indent = 12.0 if self.kind in ("note", "warning") else 0.0
        return [("", indent, line) for line in wrap(self.content, self.body, width - 2 * indent)]

    def _draw_text(self, box: pymupdf.Rect) -> None:
        top = box.y0
        if self.kind in ("note", "warning"):
            ink = self.canvas.accent if self.kind == "note" else (0.8, 0.1, 0.1)
            self.canvas.box(box, mixed(ink, 0.16))
            self.canvas.box(pymupdf.Rect(box.x0, box.y0, box.x0 + 4, box.y1), ink)
            top += 7
        for i, (marker, indent, line) in enumerate(self._lines(box.width)):
            y = top + self.leading * i + self.body
            if marker == "dot":
                self.canvas.dot(box.x0 + 6, y - 0.33 * self.body, 2.2, self.canvas.accent)
            elif marker:
                self.canvas.text(box.x0 + 2, y, marker, self.body, self.canvas.accent, bold=True)
            self.canvas.text(box.x0 + indent, y, line, self.body)

    def _draw_code(self, box: pymupdf.Rect) -> None:
        self.canvas.box(box, (0.93, 0.93, 0.93), (0.7, 0.7, 0.7))
        for i, line in enumerate(self.content.splitlines()):
            self.canvas.monospaced(box.x0 + 8, box.y0 + 14 + 12 * i, line, 9)

    def _widths(self, width: float) -> list[float]:
        rows = [self.content["columns"], *self.content["rows"]]
        columns = zip(*rows, strict=True)
        wanted = [
            max(self.canvas.type.width(cell, self.cell, bold=True) for cell in column) + 12 for column in columns
        ]
        if sum(wanted) <= width:
            return [part * width / sum(wanted) for part in wanted]
        fair = width / len(wanted)
        spare = width - sum(part for part in wanted if part <= fair)
        wide = sum(part for part in wanted if part > fair)
        return [part if part <= fair else part * spare / wide for part in wanted]

    def _rows(self, width: float) -> list[tuple[list[list[str]], float]]:
        rows = []
        for number, row in enumerate([self.content["columns"], *self.content["rows"]]):
            cells = [
                self.canvas.type.wrap(cell, self.cell, part - 10, bold=number == 0)
                for cell, part in zip(row, self._widths(width), strict=True)
            ]
            rows.append((cells, 1.3 * self.cell * max(map(len, cells)) + 6))
        return rows

    def _draw_table(self, box: pymupdf.Rect) -> None:
        y, canvas = box.y0, self.canvas
        for number, (cells, height) in enumerate(self._rows(box.width)):
            fill = canvas.accent if number == 0 else (WHITE if number % 2 else mixed(canvas.accent, 0.14))
            canvas.box(pymupdf.Rect(box.x0, y, box.x1, y + height), fill)
            x = box.x0
            for cell, width in zip(cells, self._widths(box.width), strict=True):
                for i, line in enumerate(cell):
                    ink = WHITE if number == 0 else (0.1, 0.1, 0.1)
                    canvas.text(x + 6, y + 1.3 * self.cell * (i + 1) + 0.5, line, self.cell, ink, bold=number == 0)
                x += width
            y += height


def room_left(blocks: list[Block], box: pymupdf.Rect) -> float:
    return box.height - sum(block.height(box.width) for block in blocks) - GAP * (len(blocks) - 1)


def stack(blocks: list[Block], box: pymupdf.Rect) -> None:
    """Draw blocks one below the other; figures share the room that is left."""
    heights = [block.height(box.width) for block in blocks]
    room = room_left(blocks, box)
    figures = [i for i, block in enumerate(blocks) if block.is_figure]
    for i in figures:
        heights[i] += min(room / len(figures), 1.1 * heights[i])
    y = box.y0
    for block, height in zip(blocks, heights, strict=True):
        block.draw(pymupdf.Rect(box.x0, y, box.x1, y + height))
        y += height + GAP


def draw_frame(canvas: Canvas, manual: dict[str, Any], number: int) -> pymupdf.Rect:
    """Colours, running title, page number and thumb index; the box that is left for the page's content."""
    page, accent, count = canvas.page.rect, canvas.accent, len(manual["pages"])
    canvas.box(page, colour(manual["theme"]["tint"]))
    title = f"{manual['title']} · {manual['subtitle']}"
    layout = manual["theme"]["layout"]
    inner = pymupdf.Rect(28, 28, page.x1 - 28, page.y1 - 26)
    if layout == "band":
        canvas.box(pymupdf.Rect(0, 0, page.x1, 34), accent)
        canvas.text(28, 22, title, 9.5, WHITE, bold=True)
        inner.y0 = 44
    elif layout == "side":
        canvas.box(pymupdf.Rect(0, 0, 26, page.y1), accent)
        canvas.text(44, page.y1 - 12, title, 8, accent)
        inner.x0 = 44
    else:
        canvas.box(pymupdf.Rect(0, page.y1 - 26, page.x1, page.y1), accent)
        canvas.text(28, page.y1 - 10, title, 8.5, WHITE, bold=True)
        inner.y1 = page.y1 - 36
    tab = (page.y1 - 80) / count
    thumb = pymupdf.Rect(page.x1 - 16, 40 + tab * (number - 1), page.x1, 40 + tab * number)
    canvas.box(thumb, shifted(accent, (number - 1) / count, 0.05))
    canvas.text(page.x1 - 8, thumb.y0 + tab / 2 + 3, str(number), 9, WHITE, bold=True, align=0.5)
    return inner


def draw_page(page: pymupdf.Page, manual: dict[str, Any], number: int) -> None:
    spec = manual["pages"][number - 1]
    canvas = Canvas(page, Typeface(manual["language"]), colour(manual["theme"]["accent"]))
    inner = draw_frame(canvas, manual, number)
    heading = f"{number}  {spec['heading']}"
    canvas.text(inner.x0, inner.y0 + 17, heading, 17, canvas.accent, bold=True)
    canvas.line([(inner.x0, inner.y0 + 24), (inner.x1, inner.y0 + 24)], canvas.accent, 1.5)
    inner.y0 += 34
    specs = [item for block in spec["blocks"] for item in block.items()]
    for scale in SCALES:
        blocks = [Block(canvas, kind, content, scale) for kind, content in specs]
        columns = _columns(blocks, inner, mirrored=number % 2 == 0)
        if all(room_left(*column) >= 0 for column in columns):
            break
    else:
        raise ValueError(f"{manual['title']}, page {number}: too much text")
    for column in columns:
        stack(*column)
    canvas.commit()


def _columns(blocks: list[Block], inner: pymupdf.Rect, *, mirrored: bool) -> list[tuple[list[Block], pymupdf.Rect]]:
    """Upright pages have one column; wide ones have figures and tables in one column, text in the other."""
    if inner.width < inner.height * 1.2:
        return [(blocks, inner)]
    wide = [block for block in blocks if block.is_figure or block.kind == "table"]
    narrow = [block for block in blocks if block not in wide]
    split = inner.x0 + inner.width * (0.52 if mirrored else 0.46)
    left = pymupdf.Rect(inner.x0, inner.y0, split - 7, inner.y1)
    right = pymupdf.Rect(split + 7, inner.y0, inner.x1, inner.y1)
    return [(wide, left), (narrow, right)] if mirrored else [(narrow, left), (wide, right)]


def make_manual(manual: dict[str, Any]) -> pymupdf.Document:
    document = pymupdf.open()
    width, height = manual["theme"]["size"]
    for number in range(1, len(manual["pages"]) + 1):
        draw_page(document.new_page(width=width, height=height), manual, number)
    document.set_metadata({"title": f"{manual['title']}: {manual['subtitle']}", "creator": "polylens sample manuals"})
    if manual["language"] == "zh":
        document.subset_fonts()
    return document


def queries_of(name: str, manual: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of pairs.jsonl: the written queries of every page."""
    for number, page in enumerate(manual["pages"], 1):
        for i, query in enumerate(page["queries"], 1):
            yield pair(f"{name}-{number}-{i}", query, f"{name}.pdf#{number}", "queries")


def passages_of(name: str, manual: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of passages.jsonl: heading, sentences, table rows and chart titles of every page, to train on.

    A passage of a page as a query for it is the inverse cloze task (Lee et al. 2019, arXiv 1906.00300).
    """
    for number, page in enumerate(manual["pages"], 1):
        texts = [page["heading"], f"{manual['title']} {page['heading']}"]
        texts += [text for block in page["blocks"] for item in block.items() for text in passages(*item)]
        for i, text in enumerate(text for text in dict.fromkeys(texts) if text not in page["queries"]):
            yield pair(f"{name}-{number}-passage-{i + 1}", text, f"{name}.pdf#{number}", "passages")


def passages(kind: str, content: Any) -> list[str]:
    if kind in ("text", "note", "warning"):
        return [sentence.strip() for sentence in SENTENCE_END.split(content) if sentence.strip()]
    if kind in ("steps", "list"):
        return list(content)
    if kind == "table":
        return [" ".join(row) for row in content["rows"]]
    return [content["title"]] if kind in ("bars", "lines", "pie") else []


def pair(id: str, query: str, page: str, source: str) -> dict[str, Any]:
    """A line of a pairs file; the page's id is the one that ``polylens data render`` gives it."""
    return {"id": id, "query": {"text": query}, "positives": [page], "source": source}


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the PDFs and the pairs")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    manuals = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in sorted(HERE.glob("contents/*.yaml"))}
    for name, manual in manuals.items():
        make_manual(manual).save(output / f"{name}.pdf", garbage=4, deflate=True, no_new_id=True)
    write_lines(output / "pairs.jsonl", [line for item in manuals.items() for line in queries_of(*item)])
    write_lines(output / "passages.jsonl", [line for item in manuals.items() for line in passages_of(*item)])
    print(f"{sum(len(manual['pages']) for manual in manuals.values())} pages in {output}")


if __name__ == "__main__":
    main()
