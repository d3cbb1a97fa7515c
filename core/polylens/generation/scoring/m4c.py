"""TextVQA's accuracy and ST-VQA's measures as M4C (Hu et al. 2020, arXiv 1911.06258) and LLaVA compute them."""

from __future__ import annotations

from collections.abc import Sequence

from polylens.errors import InputError
from polylens.generation.scoring.quirks import Compat
from polylens.generation.scoring.vqa_text import evalai_text
from polylens.generation.text_scores import ANLS_THRESHOLD, anls, edit_distance

ANNOTATORS = 10
"""Answers to every question of TextVQA and VQAv2."""


def textvqa_accuracy(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """Soft accuracy over ten annotators: the mean, over all choices of nine, of min(1, those who agree / 3).

    Args:
        references: the ten answers, with repetitions.
        compat: ``empty_reference``, ``period_count``.

    Raises:
        InputError: there are not ten references.
    """
    if len(references) != ANNOTATORS:
        raise InputError(f"soft accuracy is defined over {ANNOTATORS} answers to a question, not {len(references)}")
    said = _normalised(answer, compat)
    agree = sum(_normalised(one, compat) == said for one in references)
    without_one_who_agrees = min(1.0, (agree - 1) / 3)
    without_another = min(1.0, agree / 3)
    return (agree * without_one_who_agrees + (ANNOTATORS - agree) * without_another) / ANNOTATORS if agree else 0.0


def stvqa_accuracy(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """1 if the answer is a reference, both normalised, else 0.

    Args:
        compat: ``empty_reference``, ``period_count``.
    """
    said = _normalised(answer, compat)
    return float(any(_normalised(one, compat) == said for one in references))


def stvqa_anls(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """``anls`` (tau 0.5) without regard to case and to white space around the texts.

    Args:
        compat: ``inclusive_threshold``.
    """
    said, wanted = answer.lower().strip(), [one.lower().strip() for one in references]
    if "inclusive_threshold" in compat and edit_distance(said, wanted) == ANLS_THRESHOLD:
        return 1 - ANLS_THRESHOLD
    return anls(said, wanted)


def _normalised(text: str, compat: Compat) -> str:
    """A text of nothing but articles or signs keeps them, so that an empty answer does not equal it."""
    made = evalai_text(text, compat)
    if made or "empty_reference" in compat:
        return made
    return evalai_text(text, compat, articles=True) or text.strip()
