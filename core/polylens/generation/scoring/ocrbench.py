"""OCRBench (Liu et al. 2024, arXiv 2305.07895) and the VQA metric of OCRBench v2 (Fu et al. 2025, arXiv 2501.00321).

Functions of an answer and its references. References of v2 may be one string, as in its files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from polylens.errors import InputError
from polylens.generation.scoring.quirks import Compat

_LONG = 5
"""Words from which on a reference is compared by distance."""

_LONG_LIST = 4
"""Parts between commas from which on a Chinese reference is."""


def ocrbench(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """1 if a reference stands in the answer, letter by letter, without regard to case, else 0.

    Args:
        compat: ``empty_reference``.
    """
    return _contained(answer, references, lambda text: _line(text).lower(), compat)


def ocrbench_formula(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """The same with regard to case and without blanks: HME100k, and formulas of v2.

    Args:
        compat: ``empty_reference``.
    """
    return _contained(answer, references, _without_blanks, compat)


def ocrbench_chinese_formula(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    r"""``ocrbench_formula``; of ``\text{...}`` the content counts.

    Args:
        compat: ``empty_reference``.
    """
    return _contained(answer, references, lambda text: _without_blanks(_untagged(text)), compat)


def ocrbench_v2(answer: str, references: str | Sequence[str], compat: Compat = ()) -> float:
    """1 if a reference of up to four words stands in the answer; for a longer one the similarity of both, from 0.5 on.

    Case does not count. Similarity is 1 - Levenshtein distance / length of the longer text.

    Args:
        compat: ``empty_reference``.
    """
    return _vqa(answer, references, lambda text: _line(text).lower(), _few_words, frozenset(compat) - {"long_strings"})


def ocrbench_v2_case(answer: str, references: str | Sequence[str], compat: Compat = ()) -> float:
    """The same with regard to case.

    Args:
        compat: ``empty_reference``, ``long_strings``.
    """
    return _vqa(answer, references, _line, _few_words, compat)


def ocrbench_v2_chinese(answer: str, references: str | Sequence[str], compat: Compat = ()) -> float:
    """The same without blanks and case; a reference is long from four parts between commas on.

    Args:
        compat: ``empty_reference``, ``long_strings``.
    """
    return _vqa(answer, references, lambda text: _without_blanks(text).lower(), _few_parts, compat)


def ocrbench_v2_choice(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """1 if the letters of the answer are those of the first reference, else 0 (multiple choice)."""
    return float("".join(filter(str.isalpha, answer)) == references[0])


def ocrbench_v2_count(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """1 if a reference stands in the answer, not within a longer number, else 0 (counting of characters).

    Args:
        compat: ``counting``.
    """
    edges = ("", "") if "counting" in compat else (r"(?<!\d)", r"(?!\d)")
    wanted = [re.escape(_line(one).lower()).join(edges) for one in references]
    return float(any(re.search(one, answer) for one in wanted))


def ocrbench_v2_number(answer: str, references: Sequence[str], compat: Compat = ()) -> float:
    """1 - relative error of the first number of the answer, if above 0.5, else 0 (counting of words).

    Args:
        compat: ``counting``.

    Raises:
        InputError: a reference is not a whole number.
    """
    found = re.search(r"\d+", answer)
    said = int(found[0]) if found else None
    return max(_near(said, _whole(one), compat) for one in references)


def _near(said: int | None, wanted: int, compat: Compat) -> float:
    if said == wanted == 0:
        return float("counting" not in compat)
    if said is None or wanted <= 0 or not 0 < said < 2 * wanted:
        return 0.0
    near = 1 - abs(said - wanted) / wanted
    return near if near > 0.5 else 0.0


def _whole(text: str) -> int:
    if not re.fullmatch(r"\s*[+-]?\d{1,18}\s*", text):
        raise InputError(f"{text!r:.80} is not a whole number, as the answer to a counting question must be")
    return int(text)


def _vqa(
    answer: str,
    references: str | Sequence[str],
    normalise: Callable[[str], str],
    is_short: Callable[[str], bool],
    compat: Compat,
) -> float:
    several = [references] if isinstance(references, str) else references
    swapped = isinstance(references, str) and "long_strings" in compat
    said = normalise(answer)
    return max(_held(said, normalise(one), is_short, swapped, compat) for one in several)


def _held(said: str, wanted: str, is_short: Callable[[str], bool], swapped: bool, compat: Compat) -> float:
    if not is_short(wanted):
        return 0.0 if swapped else _similarity(said, wanted)
    if _stands_in(said, wanted, compat):
        return 1.0
    return _similarity(said, wanted) if swapped else 0.0


def _similarity(said: str, wanted: str) -> float:
    distance = Levenshtein.distance(said, wanted)
    similarity = 1 - distance / max(len(said), len(wanted), 1)
    return similarity if similarity >= 0.5 else 0.0


def _contained(answer: str, references: Sequence[str], normalise: Callable[[str], str], compat: Compat) -> float:
    said = normalise(answer)
    return float(any(_stands_in(said, normalise(one), compat) for one in references))


def _stands_in(said: str, wanted: str, compat: Compat) -> bool:
    return wanted in said if wanted or "empty_reference" in compat else not said


def _few_words(text: str) -> bool:
    return len(text.split()) < _LONG


def _few_parts(text: str) -> bool:
    return len(text.split(",")) < _LONG_LIST


def _line(text: str) -> str:
    return text.strip().replace("\n", " ")


def _without_blanks(text: str) -> str:
    return _line(text).replace(" ", "")


def _untagged(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
