"""How near answers are to references: CER, WER, edit distance, exact match, ANLS, word match.

Where a question has several references, the nearest counts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jiwer
from rapidfuzz.distance import Levenshtein

MEASURES = ("cer", "wer", "edit_distance", "exact_match", "anls", "word_match")

ANLS_THRESHOLD = 0.5
"""A distance from here on is no answer at all."""

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7af"
_WORDS = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+")
"""Runs of letters and digits; scripts that are written without spaces give one word a character."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What does not count when texts are compared. Unicode forms (NFKC) and the amount of white space never do.

    Attributes:
        ignore_case: upper and lower case.
        ignore_punctuation: everything but letters, digits and white space.
    """

    ignore_case: bool = False
    ignore_punctuation: bool = False

    def __call__(self, text: str) -> str:
        """
        >>> Normalisation(ignore_case=True)("  Ａ\\n b ")
        'a b'
        """
        text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(letter if letter.isalnum() else " " if letter.isspace() else "" for letter in text)
        return " ".join(text.split())


def edit_distance(answer: str, references: Sequence[str]) -> float:
    """Least Levenshtein distance, divided by the length of the longer text: 0 is the same, 1 nothing in common."""
    return min(Levenshtein.normalized_distance(answer, reference) for reference in references)


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references, else 0."""
    return float(answer in references)


def anls(answer: str, references: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity of one answer (Biten et al. 2019, arXiv 1905.13648).

    1 minus the least ``edit_distance``, and 0 if that is 0.5 or more.
    """
    distance = edit_distance(answer, references)
    return 1 - distance if distance < ANLS_THRESHOLD else 0.0


def word_match(answer: str, references: Sequence[str]) -> float:
    """1 if the words of a reference stand in the answer, next to each other and whole, else 0.

    Case and punctuation do not count. A reference without any letter or digit must stand in the answer as it is, and
    an empty one asks for an empty answer.
    """
    return float(any(_holds(answer, reference) for reference in references))


def _holds(answer: str, reference: str) -> bool:
    if not reference:
        return not answer
    words = _words(reference)
    return f" {words} " in f" {_words(answer)} " if words else reference in answer


def _words(text: str) -> str:
    return " ".join(_WORDS.findall(text.casefold()))


PER_ANSWER: dict[str, Callable[[str, Sequence[str]], float]] = {
    "edit_distance": edit_distance,
    "exact_match": exact_match,
    "anls": anls,
    "word_match": word_match,
}
"""Measures whose mean over answers is reported."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Errors of all answers over the length of all references.

    Attributes:
        errors: substitutions, deletions and insertions.
        length: characters or words of the references.
    """

    errors: int
    length: int

    @property
    def rate(self) -> float | None:
        """Above 1 if answers are far too long; ``None`` if all references are empty."""
        return self.errors / self.length if self.length else None


def character_error_rate(answers: Sequence[str], references: Sequence[Sequence[str]]) -> ErrorRate:
    """CER; of several references to an answer the one with the least ``edit_distance`` counts."""
    found = jiwer.process_characters(_nearest(answers, references, str), list(answers))
    return ErrorRate(
        found.substitutions + found.deletions + found.insertions,
        found.hits + found.substitutions + found.deletions,
    )


def word_error_rate(answers: Sequence[str], references: Sequence[Sequence[str]]) -> ErrorRate:
    """WER, of words between white space; references are chosen by words."""
    found = jiwer.process_words(_nearest(answers, references, str.split), list(answers))
    return ErrorRate(
        found.substitutions + found.deletions + found.insertions,
        found.hits + found.substitutions + found.deletions,
    )


def _nearest(
    answers: Sequence[str], references: Sequence[Sequence[str]], units: Callable[[str], Sequence[str]]
) -> list[str]:
    """The reference of each answer that is nearest to it, the first one of equals."""
    return [
        min(given, key=lambda reference: Levenshtein.normalized_distance(units(answer), units(reference)))
        for answer, given in zip(answers, references, strict=True)
    ]
