"""One self-contained HTML page about a comparison: the table, losses, the worst answers, the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from polylens.benchmark.comparison import Comparison
from polylens.benchmark.results import COLUMNS, Result, Worst, best_values
from polylens.benchmark.steps import seconds_of
from polylens.contracts import Record
from polylens.data.images import ImageOpener
from polylens.files import write_text
from polylens.retrieval.report import Command, Curve, draw_curve, thumbnail

__all__ = ["write_page"]

_SHOWN = (560, 560)
"""Pixels of a picture on the page at most; it is shown at half this size."""


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """An entry on the page: what it said worst, each with its picture, and its commands."""

    result: Result
    worst: Sequence[tuple[Worst, str | None]]
    commands: Sequence[Command]


def write_page(
    path: Path,
    comparison: Comparison,
    results: Sequence[Result],
    pictures: int,
    records: Mapping[str, Record],
    images: ImageOpener,
) -> None:
    """Write the page; it needs no other file and makes no request. It appears whole or not at all.

    Args:
        pictures: number of test records.
        records: by id, for the pictures of the worst answers.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("polylens.benchmark").joinpath("page.html.j2").read_text(encoding="utf-8")
    best = best_values(results)
    page = environment.from_string(source).render(
        title=f"Comparison: {comparison.folder.name}",
        pictures=pictures,
        normalised=[name for name in ("case", "punctuation") if getattr(comparison.score, name) == "ignore"],
        columns=COLUMNS,
        rows=[(result, _cells(result, best)) for result in results],
        figure=_figure(results),
        sections=[_section(result, records, images) for result in results],
        versions={name: version(name) for name in ("polylens", "torch", "transformers")},
    )
    write_text(path, [page])


def _cells(result: Result, best: Mapping[str, object]) -> list[_Cell]:
    cells = []
    for column in COLUMNS:
        value = column.value(result)
        is_best = value is not None and best.get(column.key) == value
        cells.append(_Cell("–" if value is None else column.text(value), is_best))
    return cells


def _figure(results: Sequence[Result]) -> str | None:
    series = {result.entry.name: result.losses for result in results if result.losses}
    return draw_curve(Curve("Training loss", series)) if series else None


def _section(result: Result, records: Mapping[str, Record], images: ImageOpener) -> _Section:
    worst = [(one, _picture(records.get(one.id), images)) for one in result.worst]
    commands = [Command(step.line, seconds_of(step)) for step in result.entry.steps.values()]
    return _Section(result, worst, commands)


def _picture(record: Record | None, images: ImageOpener) -> str | None:
    if record is None:
        return None
    return thumbnail(images.open(record.images[0], record.where, at_least=_SHOWN), _SHOWN)
