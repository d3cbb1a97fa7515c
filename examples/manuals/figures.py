"""Text and vector figures of the sample manuals, drawn on a PDF page with PyMuPDF."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import pymupdf

Colour = tuple[float, float, float]
WHITE: Colour = (1.0, 1.0, 1.0)
INK: Colour = (0.13, 0.13, 0.15)
CLOSING = "，。；：？！、）》%,.;:?!)"  # no line starts with one of these


def colour(code: str) -> Colour:
    """``#rrggbb`` as three numbers from 0 to 1."""
    red, green, blue = (int(code[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def shifted(base: Colour, turn: float, lightness: float = 0.0) -> Colour:
    """``base`` with its hue turned (1 is once round) and its lightness raised."""
    hue, light, saturation = colorsys.rgb_to_hls(*base)
    return colorsys.hls_to_rgb((hue + turn) % 1, min(0.92, light + lightness), max(saturation, 0.35))


def mixed(base: Colour, share: float) -> Colour:
    """``base`` thinned with white; ``share`` of it is left."""
    red, green, blue = (share * part + 1 - share for part in base)
    return red, green, blue


class Typeface:
    """The fonts of one language: Helvetica for English, Droid Sans Fallback (embedded) for Chinese."""

    def __init__(self, language: str) -> None:
        self.chinese = language == "zh"
        names = ("china-s", "china-s") if self.chinese else ("helv", "hebo")
        self.regular, self.bold = (pymupdf.Font(name) for name in names)
        self.code = self.regular if self.chinese else pymupdf.Font("cour")

    def width(self, text: str, size: float, bold: bool = False) -> float:
        return (self.bold if bold else self.regular).text_length(text, fontsize=size)  # pyright: ignore

    def wrap(self, text: str, size: float, width: float, bold: bool = False) -> list[str]:
        """Lines no wider than ``width``: English breaks at spaces, Chinese between any two characters."""
        lines, line = [], ""
        for piece in self._pieces(text):
            fits = self.width((line + piece).rstrip(), size, bold) <= width
            if fits or not line or piece[0] in CLOSING:
                line += piece
            else:
                lines.append(line.rstrip())
                line = piece
        return [*lines, line.rstrip()]

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        for word in text.split(" "):
            parts = _break_chinese(word) if self.chinese else [word]
            pieces += [*parts[:-1], parts[-1] + " "]
        return pieces


def _break_chinese(word: str) -> list[str]:
    """Every Chinese character alone; runs of letters and digits stay together."""
    parts = [""]
    for letter in word:
        if parts[-1] and (ord(letter) > 0x2E80 or ord(parts[-1][-1]) > 0x2E80):
            parts.append(letter)
        else:
            parts[-1] += letter
    return parts


class Canvas:
    """One page: everything is drawn on a single shape, so text always lies above fills."""

    def __init__(self, page: pymupdf.Page, typeface: Typeface, accent: Colour) -> None:
        self.page, self.type, self.accent = page, typeface, accent
        self.shape = page.new_shape()
        if typeface.chinese:
            page.insert_font(fontname="zh", fontbuffer=typeface.regular.buffer)

    def palette(self, index: int) -> Colour:
        turns = (0.0, 0.45, 0.14, 0.7, 0.28, 0.86)
        return shifted(self.accent, turns[index % len(turns)], 0.08 * (index > 0) + 0.1 * (index // len(turns)))

    def text(
        self, x: float, y: float, text: str, size: float, ink: Colour = INK, *, bold: bool = False, align: float = 0.0
    ) -> None:
        """One line with its base line at ``y``; ``align`` 0 starts at ``x``, 0.5 is centred, 1 ends there."""
        x -= align * self.type.width(text, size, bold)
        name = "zh" if self.type.chinese else ("hebo" if bold else "helv")
        mode = {"render_mode": 2, "border_width": 0.035} if bold and self.type.chinese else {}
        self.shape.insert_text((x, y), text, fontsize=size, fontname=name, color=ink, fill=ink, **mode)

    def monospaced(self, x: float, y: float, text: str, size: float) -> None:
        self.shape.insert_text((x, y), text, fontsize=size, fontname="cour", color=INK)

    def box(
        self, box: pymupdf.Rect, fill: Colour | None, edge: Colour | None = None, radius: float | None = None
    ) -> None:
        self.shape.draw_rect(box, radius=radius)
        self.shape.finish(fill=fill, color=edge, width=1.0)

    def line(self, points: Sequence[tuple[float, float]], ink: Colour, width: float = 1.0) -> None:
        self.shape.draw_polyline([pymupdf.Point(*point) for point in points])
        self.shape.finish(color=ink, width=width, lineJoin=1, closePath=False)

    def dot(self, x: float, y: float, radius: float, fill: Colour | None, edge: Colour | None = None) -> None:
        self.shape.draw_circle((x, y), radius)
        self.shape.finish(fill=fill, color=edge, width=1.2)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], ink: Colour) -> None:
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        self.line([start, end], ink, 1.5)
        wings = [(end[0] - 7 * math.cos(angle + side), end[1] - 7 * math.sin(angle + side)) for side in (0.45, -0.45)]
        self.shape.draw_polyline([pymupdf.Point(*point) for point in (end, *wings, end)])
        self.shape.finish(fill=ink, color=ink, width=0.5)

    def sector(self, centre: tuple[float, float], radius: float, start: float, end: float, fill: Colour) -> None:
        """A slice of a pie; angles are shares of the circle, clockwise from the top."""
        steps = max(2, round((end - start) * 90))
        angles = [2 * math.pi * (start + (end - start) * i / steps) - math.pi / 2 for i in range(steps + 1)]
        rim = [(centre[0] + radius * math.cos(a), centre[1] + radius * math.sin(a)) for a in angles]
        self.shape.draw_polyline([pymupdf.Point(*point) for point in (centre, *rim, centre)])
        self.shape.finish(fill=fill, color=WHITE, width=1.0)

    def commit(self) -> None:
        self.shape.commit()


def _tick(value: float) -> str:
    return f"{value:g}"


def _scale(values: Sequence[float]) -> tuple[float, float, float]:
    """Lowest and highest value of an axis and the distance of its grid lines."""
    low, high = min(0.0, min(values)), max(values)
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return step * math.floor(low / step), step * math.ceil(high / step), step


def _axes(
    canvas: Canvas, box: pymupdf.Rect, title: str, unit: str, values: Sequence[float], legend: bool = False
) -> tuple[Any, Any]:
    """Title, grid and axis labels; the plot area and the map from a value to its height on the page."""
    canvas.box(box, WHITE, mixed(canvas.accent, 0.35))
    canvas.text(box.x0 + 8, box.y0 + 14, f"{title} [{unit}]", 9, bold=True)
    plot = pymupdf.Rect(box.x0 + 34, box.y0 + (36 if legend else 24), box.x1 - 12, box.y1 - 20)
    low, high, step = _scale(values)

    def place(value: float) -> float:
        return plot.y1 - (value - low) / (high - low) * plot.height

    for i in range(round((high - low) / step) + 1):
        value = low + i * step
        canvas.line([(plot.x0, place(value)), (plot.x1, place(value))], mixed(INK, 0.2), 0.5)
        canvas.text(plot.x0 - 4, place(value) + 3, _tick(value), 7, align=1)
    return plot, place


def draw_bars(canvas: Canvas, box: pymupdf.Rect, spec: dict[str, Any]) -> None:
    plot, place = _axes(canvas, box, spec["title"], spec["unit"], spec["values"])
    pitch = plot.width / len(spec["values"])
    for i, (label, value) in enumerate(zip(spec["labels"], spec["values"], strict=True)):
        left = plot.x0 + pitch * (i + 0.18)
        bar = pymupdf.Rect(left, place(value), left + 0.64 * pitch, place(0))
        canvas.box(bar, canvas.accent if i % 2 == 0 else canvas.palette(2))
        canvas.text(bar.x0 + bar.width / 2, bar.y0 - 2, _tick(value), 7, align=0.5)
        canvas.text(bar.x0 + bar.width / 2, plot.y1 + 11, str(label), 7.5, align=0.5)


def draw_lines(canvas: Canvas, box: pymupdf.Rect, spec: dict[str, Any]) -> None:
    series = spec["series"]
    every = [value for values in series.values() for value in values]
    plot, place = _axes(canvas, box, spec["title"], spec["unit"], every, legend=len(series) > 1)
    pitch = plot.width / (len(spec["x"]) - 1)
    for i, label in enumerate(spec["x"]):
        align = 1.0 if i == len(spec["x"]) - 1 else 0.5
        canvas.text(min(plot.x0 + i * pitch, plot.x1 + 6), plot.y1 + 11, label, 7, align=align)
    left = plot.x0
    for i, (name, values) in enumerate(series.items()):
        ink = canvas.palette(i)
        points = [(plot.x0 + j * pitch, place(value)) for j, value in enumerate(values)]
        canvas.line(points, ink, 2.2)
        for point in points:
            canvas.dot(*point, 2.2, ink)
        if len(series) > 1:
            canvas.text(left, box.y0 + 27, name, 8, ink, bold=True)
            left += canvas.type.width(name, 8, bold=True) + 12


def draw_pie(canvas: Canvas, box: pymupdf.Rect, spec: dict[str, Any]) -> None:
    canvas.box(box, WHITE, mixed(canvas.accent, 0.35))
    canvas.text(box.x0 + 8, box.y0 + 14, spec["title"], 9, bold=True)
    total, start = sum(spec["slices"].values()), 0.0
    radius = min((box.height - 30) / 2, box.width * 0.24)
    centre = (box.x0 + 14 + radius, box.y0 + 20 + (box.height - 24) / 2)
    pitch = min(17.0, (box.height - 30) / len(spec["slices"]))
    top = centre[1] - pitch * (len(spec["slices"]) - 1) / 2
    for i, (name, value) in enumerate(spec["slices"].items()):
        canvas.sector(centre, radius, start, start + value / total, canvas.palette(i))
        start += value / total
        left, y = centre[0] + radius + 18, top + i * pitch
        canvas.box(pymupdf.Rect(left, y - 5, left + 9, y + 4), canvas.palette(i))
        canvas.text(left + 15, y + 3, f"{name}: {_tick(value)}", 8.5)


def draw_flow(canvas: Canvas, box: pymupdf.Rect, labels: list[str]) -> None:
    gap = 16.0
    width = (box.width - gap * (len(labels) - 1)) / len(labels)
    for i, label in enumerate(labels):
        left = box.x0 + i * (width + gap)
        cell = pymupdf.Rect(left, box.y0 + 2, left + width, box.y1 - 2)
        canvas.box(cell, canvas.palette(i), radius=0.2)
        longest = max(canvas.type.width(word, 1, bold=True) for word in label.split())
        size = min(9.0, (width - 6) / longest)
        lines = canvas.type.wrap(label, size, width - 4, bold=True)
        for j, line in enumerate(lines):
            y = cell.y0 + cell.height / 2 + 3 + (j - (len(lines) - 1) / 2) * 10
            canvas.text(left + width / 2, y, line, size, WHITE, bold=True, align=0.5)
        if i:
            middle = cell.y0 + cell.height / 2
            canvas.arrow((left - gap + 1, middle), (left - 2, middle), INK)


def draw_drawing(canvas: Canvas, box: pymupdf.Rect, spec: dict[str, Any]) -> None:
    """Shapes in unit coordinates of the box: rect, circle, line, arrow, label."""
    canvas.box(box, WHITE, mixed(canvas.accent, 0.35))
    for i, (kind, *given) in enumerate(spec["shapes"]):
        numbers = [value for value in given if not isinstance(value, str)]
        label = str(given[-1]) if isinstance(given[-1], str) else ""
        _draw_shape(canvas, box, kind, numbers, label, canvas.palette(i))


def _draw_shape(canvas: Canvas, box: pymupdf.Rect, kind: str, at: list[float], label: str, ink: Colour) -> None:
    x, y = box.x0 + at[0] * box.width, box.y0 + at[1] * box.height
    if kind in ("line", "arrow"):
        end = (box.x0 + at[2] * box.width, box.y0 + at[3] * box.height)
        if kind == "line":
            canvas.line([(x, y), end], INK, 2.0)
        else:
            canvas.arrow((x, y), end, canvas.accent)
    elif kind == "circle":
        canvas.dot(x, y, max(8.0 if label else 3.0, at[2] * min(box.width, box.height * 1.6)), mixed(ink, 0.4), ink)
    elif kind == "rect":
        width, height = at[2] * box.width, at[3] * box.height
        canvas.box(pymupdf.Rect(x, y, x + width, y + height), mixed(ink, 0.3), ink)
        x, y = x + width / 2, y + height / 2
    if label:
        canvas.text(x, y + 3, label, 8, bold=True, align=0.5)
