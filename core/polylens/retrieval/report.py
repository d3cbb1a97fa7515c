"""One self-contained HTML page about a retrieval run: what was run, curves, figures and ranked pages."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from polylens.errors import InputError
from polylens.files import write_text

__all__ = [
    "Command",
    "Curve",
    "Evaluation",
    "Ranking",
    "Report",
    "draw_curve",
    "points",
    "rankings",
    "read_history",
    "thumbnail",
    "write_report",
]

THUMBNAIL = (300, 300)  # pixels; shown at half this size, so that it stays sharp on dense screens
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the run and how long it took."""

    line: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over training steps.

    Attributes:
        series: name -> points (step, value).
        level: a value to compare with, drawn as a dashed line, and its name.
    """

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]
    level: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of several systems on the same queries and documents.

    Attributes:
        scores: system (a model, or chance) -> measure -> value. All systems have the same measures.
    """

    title: str
    explanation: str
    queries: int
    documents: int
    scores: Mapping[str, Mapping[str, float]]

    @property
    def measures(self) -> list[str]:
        return list(next(iter(self.scores.values()), {}))


@dataclass(frozen=True, slots=True)
class Ranking:
    """What a model found for one query.

    Attributes:
        set: which evaluation the query belongs to.
        found: (document id, score), best first.
        relevant: ids of the right documents.
    """

    set: str
    query: str
    found: Sequence[tuple[str, float]]
    relevant: frozenset[str]

    @property
    def rank(self) -> int | None:
        """Rank of the first right document, from 1; ``None`` if it was not found."""
        return next((rank for rank, (id, _) in enumerate(self.found, 1) if id in self.relevant), None)


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the page; sections without content are left out.

    Attributes:
        introduction: paragraphs under the title.
        facts: name -> value (model, versions, date, ...).
        remarks: paragraphs under the table of scores: what they mean and what they do not.
    """

    title: str
    introduction: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[Command] = ()
    curves: Sequence[Curve] = ()
    evaluations: Sequence[Evaluation] = ()
    remarks: Sequence[str] = ()
    rankings: Sequence[Ranking] = ()


def write_report(path: Path, report: Report, read_image: Callable[[str], bytes]) -> None:
    """Write the page; it needs no other file and makes no request. It appears whole or not at all.

    Args:
        read_image: the picture file of a document id, for the ranked pages.

    Raises:
        InputError: a picture cannot be read, or the systems of an evaluation have different measures.
    """
    for evaluation in report.evaluations:
        _check_measures(evaluation)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("polylens.retrieval").joinpath("report.html.j2").read_text(encoding="utf-8")
    thumbnails = {id: _of_document(id, read_image(id)) for id in _shown_ids(report.rankings)}
    page = environment.from_string(source).render(
        report=report,
        figures=[draw_curve(curve) for curve in report.curves],
        thumbnails=thumbnails,
        shown=SHOWN,
        best=_best,
        seconds=sum(command.seconds for command in report.commands),
    )
    write_text(path, [page])


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``.

    Raises:
        InputError: a line is not a JSON object.
    """
    history = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}:{number}: expected an object, found {line[:80]}")
        history.append(value)
    return history


def points(history: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """The curve of one metric: (step, value) of every line that has it. A step logged twice counts once, the last.

    >>> points([{"step": 1, "loss": 2.5}, {"step": 1, "eval_loss": 3.0}, {"step": 2, "loss": 2.0}], "loss")
    [(1.0, 2.5), (2.0, 2.0)]
    """
    found = {float(line["step"]): float(line[key]) for line in history if "step" in line and key in line}
    return sorted(found.items())


def rankings(
    set: str,
    queries: Mapping[str, str],
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    count: int,
) -> list[Ranking]:
    """``count`` queries at even distances in the order of ``queries``, so that results have no part in the choice.

    Args:
        queries: query id -> text.
        run: query id -> document id -> score.
        qrels: query id -> document id -> relevance.
    """
    ids = list(queries)
    count = min(count, len(ids))
    chosen = [ids[(2 * i + 1) * len(ids) // (2 * count)] for i in range(count)]
    return [
        Ranking(
            set=set,
            query=queries[id],
            found=sorted(run.get(id, {}).items(), key=lambda item: (-item[1], item[0])),
            relevant=frozenset(document for document, value in qrels.get(id, {}).items() if value > 0),
        )
        for id in chosen
    ]


def _check_measures(evaluation: Evaluation) -> None:
    for system, values in evaluation.scores.items():
        if set(values) != set(evaluation.measures):
            expected, found = ", ".join(evaluation.measures), ", ".join(values)
            raise InputError(f"evaluation {evaluation.title!r}: {system!r} has {found}; the others have {expected}")


def _best(evaluation: Evaluation, measure: str) -> float:
    return max(values[measure] for values in evaluation.scores.values())


def _shown_ids(rankings: Sequence[Ranking]) -> list[str]:
    return list(dict.fromkeys(id for ranking in rankings for id, _ in ranking.found[:SHOWN]))


def _of_document(id: str, content: bytes) -> str:
    try:
        with Image.open(io.BytesIO(content)) as image:
            return thumbnail(image.convert("RGB"), THUMBNAIL)
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"the picture of document {id!r} cannot be read: {error}") from error


def thumbnail(image: Image.Image, size: tuple[int, int]) -> str:
    """An RGB picture, made as small as ``size`` allows, as a ``data:`` address."""
    small = image.copy()
    small.thumbnail(size)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_curve(curve: Curve) -> str:
    """The curve as an SVG element; its text stays text, in the fonts of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": curve.title, "font.family": "sans-serif"}):
        many = len(curve.series) > len(_COLOURS)
        figure = Figure(figsize=(8.2, 3.6) if many else (5.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for (name, values), (dashes, colour) in zip(curve.series.items(), _looks(), strict=False):
            marker = "o" if len(values) <= 40 else ""
            axes.plot(*zip(*values, strict=True), label=name, color=colour, ls=dashes, lw=1.8, marker=marker, ms=3.5)
        if curve.level:
            name, value = curve.level
            axes.axhline(value, color="#8a8f98", lw=1.2, ls="--", label=f"{name} ({value:.3f})")
        _style(axes, legend_beside=many)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _inline(buffer.getvalue(), curve.title)


_COLOURS = ("#2f5fd0", "#d1495b", "#2a9d6f", "#c77700")


def _looks() -> Iterator[tuple[str, str]]:
    """Dashes and colour of each line, all different up to 16 lines."""
    return itertools.cycle(itertools.product(("-", "--", ":", "-."), _COLOURS))


def _style(axes: Any, *, legend_beside: bool) -> None:
    axes.set_xlabel("step")
    axes.grid(axis="y", color="#e3e6eb", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c3c8d0")
    axes.tick_params(color="#c3c8d0", labelcolor="#444b57", labelsize=8.5)
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if legend_beside else {}
    axes.legend(frameon=False, fontsize=8.5, handlelength=3, **beside)


def _inline(svg: str, title: str) -> str:
    """The SVG element alone: no XML prologue, no metadata (which name other sites), a title for screen readers."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return svg.replace("<svg ", '<svg role="img" aria-label="' + title.translate(_ATTRIBUTE) + '" ', 1)


_ATTRIBUTE = str.maketrans({'"': "&quot;", "&": "&amp;", "<": "&lt;", ">": "&gt;"})
