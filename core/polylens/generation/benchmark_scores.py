"""The scores of a benchmark: values of answers, means of data sets, and what is added up of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from polylens.errors import InputError
from polylens.files import write_text
from polylens.generation.scoring.measures import quirks_of, score_at
from polylens.generation.scoring.quirks import QUIRKS, Compat, chosen_quirks


@dataclass(frozen=True, slots=True)
class BenchmarkAnswer:
    """An answer, what it is measured by, and against what.

    Attributes:
        group: data set, or task.
        measure: name of ``BENCHMARK_MEASURES``.
        references: several, or one string where the file has one.
        where: its place, for errors.
    """

    id: str
    group: str
    measure: str
    text: str
    references: str | Sequence[str]
    where: str


@dataclass(frozen=True, slots=True)
class Scored:
    """The value of an answer."""

    id: str
    group: str
    measure: str
    value: float


@dataclass(frozen=True, slots=True)
class Group:
    """The mean of a data set or task, over so many answers."""

    score: float
    answers: int
    measures: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkScores:
    """What was measured.

    Attributes:
        scores: by data set or task.
        compat: quirks that were reproduced.
        per_answer: the value of every answer, in the order of the files.
        totals: what OCRBench adds up.
        not_measured: answers to tasks that have no measure here.
    """

    scores: dict[str, Group]
    compat: tuple[str, ...]
    per_answer: list[Scored] = field(repr=False)
    totals: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, int] = field(default_factory=dict)

    def save(self, path: Path, **named: Any) -> None:
        """Write all but ``per_answer`` as JSON (``schemas/benchmark_scores.schema.json``), with ``named`` sources."""
        value = {**named, **asdict(self), "answers": len(self.per_answer)}
        del value["per_answer"]
        write_text(path, [json.dumps(value, indent=2, ensure_ascii=False), "\n"])

    def save_result(self, path: Path) -> None:
        """Write the mean of every data set by its name, as MultimodalOCR's ``result.json`` has it."""
        write_text(path, [json.dumps({name: group.score for name, group in self.scores.items()}, indent=4), "\n"])

    def save_per_answer(self, path: Path) -> None:
        """Write a line for each answer, tab-separated, under a line of names."""
        rows = (f"{one.id}\t{one.group}\t{one.measure}\t{one.value:.6g}" for one in self.per_answer)
        write_text(path, (f"{row}\n" for row in ("id\tgroup\tmeasure\tvalue", *rows)))


def score_answers(answers: Sequence[BenchmarkAnswer], compat: Sequence[str] | None) -> BenchmarkScores:
    """Score answers, and take the means.

    Args:
        compat: as for ``chosen_quirks``.

    Raises:
        InputError: there is no answer, one without references, or one that its measure refuses.
    """
    if not answers:
        raise InputError("no answer is to a task that can be measured")
    quirks = chosen_quirks(compat, quirks_of(answer.measure for answer in answers))
    scored = [_scored(answer, quirks) for answer in answers]
    groups = {name: _group([one for one in scored if one.group == name]) for name in _names(scored)}
    return BenchmarkScores(groups, tuple(name for name in QUIRKS if name in quirks), scored)


def _scored(answer: BenchmarkAnswer, quirks: Compat) -> Scored:
    if not answer.references and answer.references != "":
        raise InputError(f"{answer.where}: there is nothing to measure the answer against")
    value = score_at(answer.where, answer.measure, answer.text, answer.references, quirks)
    return Scored(answer.id, answer.group, answer.measure, value)


def _names(scored: Iterable[Scored]) -> list[str]:
    return list(dict.fromkeys(one.group for one in scored))


def _group(scored: Sequence[Scored]) -> Group:
    mean = sum(one.value for one in scored) / len(scored)
    return Group(mean, len(scored), tuple(dict.fromkeys(one.measure for one in scored)))


def means(scored: Iterable[Scored], parts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The mean of each part that has answers, over the answers of its groups."""
    values = {name: [one.value for one in scored if one.group in groups] for name, groups in parts.items()}
    return {name: sum(found) / len(found) for name, found in values.items() if found}
