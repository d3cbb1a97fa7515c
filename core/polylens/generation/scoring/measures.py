"""The measures of benchmarks by name, and the quirks that each of them can reproduce."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from polylens.errors import InputError
from polylens.generation.scoring import containing, m4c, ocrbench
from polylens.generation.scoring.quirks import Compat


@dataclass(frozen=True, slots=True)
class Measure:
    """How an answer is scored.

    Attributes:
        score: value of an answer from 0 to 1, of its text, its references and the quirks to reproduce. Texts are
            given as they are: the measure has its own normalisation.
        quirks: that it has.
    """

    score: Callable[[str, Any, Compat], float]
    quirks: tuple[str, ...] = ()


_EMPTY, _LONG = ("empty_reference",), ("empty_reference", "long_strings")

BENCHMARK_MEASURES = {
    "vqa_words": Measure(containing.vqa_words, ("empty_reference", "word_boundary", "period_count")),
    "ocr_words": Measure(containing.ocr_words, ("empty_reference", "narrow_letters")),
    "han_text": Measure(containing.han_text, ("empty_reference", "narrow_letters")),
    "formula": Measure(containing.formula, _EMPTY),
    "textvqa_accuracy": Measure(m4c.textvqa_accuracy, ("empty_reference", "period_count")),
    "stvqa_accuracy": Measure(m4c.stvqa_accuracy, ("empty_reference", "period_count")),
    "stvqa_anls": Measure(m4c.stvqa_anls, ("inclusive_threshold",)),
    "ocrbench": Measure(ocrbench.ocrbench, _EMPTY),
    "ocrbench_formula": Measure(ocrbench.ocrbench_formula, _EMPTY),
    "ocrbench_chinese_formula": Measure(ocrbench.ocrbench_chinese_formula, _EMPTY),
    "ocrbench_v2": Measure(ocrbench.ocrbench_v2, _EMPTY),
    "ocrbench_v2_case": Measure(ocrbench.ocrbench_v2_case, _LONG),
    "ocrbench_v2_chinese": Measure(ocrbench.ocrbench_v2_chinese, _LONG),
    "ocrbench_v2_choice": Measure(ocrbench.ocrbench_v2_choice),
    "ocrbench_v2_count": Measure(ocrbench.ocrbench_v2_count, ("counting",)),
    "ocrbench_v2_number": Measure(ocrbench.ocrbench_v2_number, ("counting",)),
}


def quirks_of(measures: Iterable[str]) -> set[str]:
    """The quirks that any of the measures has."""
    return {quirk for name in measures for quirk in BENCHMARK_MEASURES[name].quirks}


def score_at(where: str, name: str, answer: str, references: str | Sequence[str], quirks: Compat) -> float:
    """The value of an answer.

    Args:
        where: its place, which an error names.

    Raises:
        InputError: the measure refuses the references.
    """
    try:
        return BENCHMARK_MEASURES[name].score(answer, references, quirks)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def benchmark_scores(
    name: str, answers: Sequence[str], references: Sequence[Sequence[str]], compat: Compat = ()
) -> list[float]:
    """The value of each answer.

    Args:
        name: of ``BENCHMARK_MEASURES``.
        compat: names of ``polylens.generation.scoring.quirks.QUIRKS``.

    >>> benchmark_scores("vqa_words", ["It costs $5.", "two pumps"], [["$5"], ["2", "3"]])
    [1.0, 1.0]
    """
    measure = BENCHMARK_MEASURES[name]
    return [measure.score(answer, given, compat) for answer, given in zip(answers, references, strict=True)]
