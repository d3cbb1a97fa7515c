"""Whether an answer holds a reference, as MultimodalOCR (arXiv 2305.07895, version 1) asks it of its data sets.

Every function gives 1 or 0 for an answer and its references. Where normalisation leaves nothing of a reference, it is
looked for as it is, and an empty one asks for an empty answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from polylens.generation.scoring.quirks import Compat
from polylens.generation.scoring.vqa_text import vqa_text

_FIRST_HAN = "\u4e00-\u9fa5"
_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003347f"


def vqa_words(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """Whether the words of a reference stand in the answer, both normalised (VQA and key information sets).

    Args:
        compat: ``empty_reference``, ``word_boundary``, ``period_count``.
    """
    return float(any(_has_vqa_words(answer, reference, compat) for reference in references))


def _has_vqa_words(answer: str, reference: str, compat: Compat) -> bool:
    words = vqa_text(reference, compat)
    if words or "empty_reference" in compat:
        return _has_words(vqa_text(answer, compat), words, compat)
    said, words = (vqa_text(text, compat, articles=True) for text in (answer, reference))
    return _has_words(said, words, compat) if words else _as_it_is(answer, reference)


def ocr_words(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """Whether the words of a reference stand in the answer; letters and digits count, their case does not (OCR sets).

    Args:
        compat: ``empty_reference``, ``narrow_letters``.
    """
    letters = _letters
    if "narrow_letters" in compat:
        letters, compat = _ascii_letters, {*compat, "word_boundary"}
    return float(any(_holds(answer, reference, letters, compat, _has_words) for reference in references))


def han_text(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """Whether the Han characters of a reference stand in the answer, next to each other (ReCTS).

    Args:
        compat: ``empty_reference``, ``narrow_letters``.
    """
    others = re.compile(rf"[^{_FIRST_HAN if 'narrow_letters' in compat else _HAN}\s]+")
    return float(any(_holds(answer, one, lambda text: others.sub("", text), compat) for one in references))


def formula(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """Whether a reference stands in the answer; white space does not count (HME100K).

    Args:
        compat: ``empty_reference``.
    """
    return float(any(_holds(answer, one, lambda text: re.sub(r"\s+", "", text), compat) for one in references))


def _stands_in(answer: str, reference: str, compat: Compat) -> bool:
    return reference in answer


def _has_words(answer: str, words: str, compat: Compat) -> bool:
    """Whether words stand in an answer, and are not parts of longer ones.

    A sign is no part of a word. The original asks for a letter or digit beside it, so that ``$5`` is not found in
    ``price $5``.
    """
    edges = [words[:1], words[-1:]]
    before, after = (r"\b" if "word_boundary" in compat or re.match(r"\w|\Z", edge) else "" for edge in edges)
    return re.search(before + re.escape(words) + after, answer) is not None


def _holds(
    answer: str,
    reference: str,
    normalise: Callable[[str], str],
    compat: Compat,
    found: Callable[[str, str, Compat], bool] = _stands_in,
) -> bool:
    kept = normalise(reference)
    if kept.strip() or "empty_reference" in compat:
        return found(normalise(answer), kept, compat)
    return _as_it_is(answer, reference)


def _as_it_is(answer: str, reference: str) -> bool:
    wanted = reference.strip()
    return wanted in answer if wanted else not answer.strip()


def _letters(text: str) -> str:
    kept = (one for one in unicodedata.normalize("NFC", text) if one.isalnum() or one.isspace())
    return " ".join("".join(kept).lower().split())


def _ascii_letters(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9\s]", "", text).lower()
