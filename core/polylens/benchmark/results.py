"""The figures of entries, as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein

from polylens.benchmark.counting import Counts
from polylens.benchmark.entries import Entry
from polylens.benchmark.steps import seconds_of
from polylens.config import schemas
from polylens.config.json_text import read_json_object
from polylens.files import write_text
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.formats.answer_files import read_answers
from polylens.generation.text_scores import Normalisation
from polylens.retrieval.report import points, read_history

__all__ = ["COLUMNS", "Column", "Failure", "Result", "Worst", "best_values", "read_result", "write_csv"]


@dataclass(frozen=True, slots=True)
class Worst:
    """An answer that is far from its reference: so many edits."""

    id: str
    answer: str
    reference: str
    edits: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The step of an entry that ended with an error."""

    step: str
    reason: str
    log: Path


@dataclass(frozen=True)
class Result:
    """What was measured of an entry; a figure that there is not is ``None``.

    Attributes:
        cer: character errors of all answers over the characters of all references.
        edits: character errors of an answer, on average.
        exact: part of the answers that are the reference.
        unfinished: answers that the limit of their length cut off.
        train_seconds: of all attempts, from the start of the command to its end.
        memory_gib: peak of training: of the first GPU, or of the first process where there is none.
        losses: of training, by step; of language modelling alone, where the objective has other terms as well.
        worst: answers, the farthest first.
    """

    entry: Entry
    counts: Counts
    cer: float | None = None
    edits: float | None = None
    exact: float | None = None
    unfinished: int = 0
    train_seconds: float | None = None
    predict_seconds: float | None = None
    memory_gib: float | None = None
    losses: Sequence[tuple[float, float]] = ()
    worst: Sequence[Worst] = field(default_factory=tuple)
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    Attributes:
        key: its name in the CSV file, with the unit.
        title: on the page and the terminal.
        least: whether the least value is the best; ``None`` if neither end is.
    """

    key: str
    title: str
    value: Callable[[Result], Any]
    text: Callable[[Any], str]
    least: bool | None = None


def _duration(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {left:02} s" if minutes else f"{left} s"


def _count(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g} {suffix}"
    return f"{value:g}"


COLUMNS = (
    Column("cer", "CER", lambda r: r.cer, "{:.4f}".format, True),
    Column("edits_per_picture", "edits a picture", lambda r: r.edits, "{:.2f}".format, True),
    Column("exact_match", "exact", lambda r: r.exact, "{:.1%}".format, False),
    Column("train_seconds", "training", lambda r: r.train_seconds, _duration, True),
    Column("predict_seconds", "answering", lambda r: r.predict_seconds, _duration, True),
    Column("peak_memory_gib", "peak memory", lambda r: r.memory_gib, "{:.2f} GiB".format, True),
    Column("trained_parameters", "trained", lambda r: r.counts.trained, _count),
    Column("parameters", "parameters", lambda r: r.counts.weights, _count),
    Column("tokens_per_picture", "tokens a picture", lambda r: r.counts.tokens, "{:g}".format),
)


def read_result(entry: Entry, counts: Counts, normalisation: Normalisation, worst: int) -> Result:
    """The figures of an entry all of whose steps are done.

    Args:
        worst: so many of the farthest answers are kept.
    """
    scores = read_json_object(entry.scores)
    schemas.check("text_scores", scores, str(entry.scores))
    history = read_history(entry.history) if entry.history is not None and entry.history.is_file() else []
    memory = [line["memory_gib"] for line in history if "memory_gib" in line]
    answers = read_answers(entry.answers)
    return Result(
        entry,
        counts,
        cer=scores["scores"]["cer"],
        edits=scores["errors"]["cer"]["errors"] / scores["measured"],
        exact=scores["scores"]["exact_match"],
        unfinished=scores["unfinished"],
        train_seconds=seconds_of(entry.steps["train"]) if entry.run is not None else None,
        predict_seconds=seconds_of(entry.steps["predict"]),
        memory_gib=max(memory, default=None),
        losses=points(history, "loss_lm") or points(history, "loss"),
        worst=_worst(answers, normalisation, worst),
    )


def _worst(answers: Sequence[AnsweredQuestion], normalisation: Normalisation, count: int) -> list[Worst]:
    """The answers with the most edits; of several references the nearest counts, and ids settle ties."""
    found = []
    for answer in answers:
        said = normalisation(answer.answer)
        edits = {text: Levenshtein.distance(said, normalisation(text)) for text in answer.references}
        if edits and min(edits.values()):
            nearest = min(edits, key=lambda text: edits[text])
            found.append(Worst(answer.id, answer.answer, nearest, edits[nearest]))
    return sorted(found, key=lambda one: (-one.edits, one.id))[:count]


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """The table with full precision; text stands in quotation marks, and what there is not is empty."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow(["model", "mode", *(column.key for column in COLUMNS), "failure"])
    for result in results:
        failed = "" if result.failure is None else f"{result.failure.step}: {result.failure.reason}"
        values = [column.value(result) for column in COLUMNS]
        names = [result.entry.model_name, result.entry.mode]
        writer.writerow([*names, *("" if value is None else value for value in values), failed])
    write_text(path, [buffer.getvalue()])


def best_values(results: Sequence[Result]) -> Mapping[str, Any]:
    """Column -> its best value, where one end is the better one and entries differ."""
    best = {}
    for column in COLUMNS:
        values = [value for result in results if (value := column.value(result)) is not None]
        if column.least is not None and len(set(values)) > 1:
            best[column.key] = min(values) if column.least else max(values)
    return best
