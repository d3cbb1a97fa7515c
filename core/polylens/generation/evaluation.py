"""Measures files of answers: what ``polylens evaluate ocr`` and ``vqa`` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polylens.errors import InputError, closest
from polylens.files import write_text
from polylens.generation.answers import AnsweredQuestion
from polylens.generation.scoring.measures import BENCHMARK_MEASURES, quirks_of, score_at
from polylens.generation.scoring.quirks import QUIRKS, Compat, chosen_quirks
from polylens.generation.text_scores import (
    MEASURES,
    PER_ANSWER,
    ErrorRate,
    Normalisation,
    character_error_rate,
    word_error_rate,
)

ALL_MEASURES = (*MEASURES, *BENCHMARK_MEASURES)

DEFAULTS = {
    "ocr": ("cer", "wer", "edit_distance", "exact_match", "word_match"),
    "vqa": ("anls", "exact_match", "word_match"),
}
"""Measures of each task."""


@dataclass(frozen=True, slots=True)
class TextEvaluation:
    """What was measured.

    Attributes:
        scores: by measure; ``None`` for an error rate over references that are all empty.
        answers: in the file.
        measured: answers with at least one reference; the others are left out of every score.
        empty_references: measured answers all of whose references are empty: they ask for an empty answer.
        unfinished: answers that the limit of their length cut off.
        errors: ``cer`` and ``wer`` in numbers.
        normalisation: what did not count.
        compat: quirks that were reproduced.
        per_answer: the measures that have a value for each answer, by id, in the order of the file.
    """

    scores: dict[str, float | None]
    answers: int
    measured: int
    empty_references: int
    unfinished: int
    errors: dict[str, ErrorRate]
    normalisation: Normalisation
    compat: tuple[str, ...]
    per_answer: list[tuple[str, dict[str, float]]]

    def save(self, path: Path, **named: str) -> None:
        """Write all but ``per_answer`` as JSON (``schemas/text_scores.schema.json``), with ``named`` sources."""
        value: dict[str, Any] = {**named, **asdict(self)}
        value["without_references"] = self.answers - self.measured
        del value["per_answer"]
        write_text(path, [json.dumps(value, indent=2), "\n"])

    def save_per_answer(self, path: Path) -> None:
        """Write a line for each measured answer, tab-separated, under a line of names."""
        names = list(self.per_answer[0][1])
        rows = ["\t".join([id, *(f"{scores[name]:.6g}" for name in names)]) for id, scores in self.per_answer]
        write_text(path, (f"{row}\n" for row in ["\t".join(["id", *names]), *rows]))


def evaluate_answers(
    answers: Sequence[AnsweredQuestion],
    measures: Sequence[str],
    normalisation: Normalisation,
    compat: Sequence[str] | None = None,
) -> TextEvaluation:
    """Measure answers against their references.

    Args:
        normalisation: of texts, but for measures of benchmarks, which have their own.
        compat: quirks of these to be reproduced; see ``chosen_quirks``.

    Raises:
        InputError: an unknown measure, no answer has a reference, or a measure refuses one.
    """
    for name in measures:
        if name not in ALL_MEASURES:
            raise InputError(f"no measure {name!r}{closest(name, ALL_MEASURES)}; there are: {', '.join(ALL_MEASURES)}")
    measured = [answer for answer in answers if answer.references]
    if not measured:
        raise InputError("no answer has a reference, so there is nothing to measure against: give --references FILE")
    quirks = chosen_quirks(compat, quirks_of(name for name in measures if name in BENCHMARK_MEASURES))
    said = [normalisation(answer.answer) for answer in measured]
    wanted = [[normalisation(reference) for reference in answer.references] for answer in measured]
    rates = {"cer": character_error_rate, "wer": word_error_rate}
    errors = {name: rates[name](said, wanted) for name in measures if name in rates}
    each = {name: [*map(PER_ANSWER[name], said, wanted)] for name in measures if name in PER_ANSWER}
    each |= {name: _benchmark(name, measured, quirks) for name in measures if name in BENCHMARK_MEASURES}
    means = {name: sum(values) / len(values) for name, values in each.items()}
    return TextEvaluation(
        {name: errors[name].rate if name in errors else means[name] for name in measures},
        len(answers),
        len(measured),
        sum(not any(given) for given in wanted),
        sum(answer.finished is False for answer in answers),
        errors,
        normalisation,
        tuple(name for name in QUIRKS if name in quirks),
        [(answer.id, {name: each[name][n] for name in each}) for n, answer in enumerate(measured)],
    )


def _benchmark(name: str, answers: Sequence[AnsweredQuestion], quirks: Compat) -> list[float]:
    return [score_at(answer.where, name, answer.answer, answer.references, quirks) for answer in answers]
