"""Where the programs that published scores are mistaken: corrected here, unless a score must equal theirs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from polylens.errors import InputError, closest

QUIRKS = {
    "empty_reference": "a reference that normalises to nothing (an article, punctuation) is found everywhere",
    "word_boundary": "a reference that begins or ends with a sign ($5, 10%) is not found at a blank",
    "period_count": "of an answer or reference only the first 32 periods are removed",
    "narrow_letters": "letters beyond ASCII (OCR sets), or Han characters beyond U+9FA5 (ReCTS), are removed",
    "inclusive_threshold": "ANLS gives 0.5 to an answer at a distance of exactly 0.5, which is none by its definition",
    "long_strings": "references that are one string, not a list, are compared by distance where they are short, and "
    "never where they are long (OCRBench v2: Chinese, and case-sensitive)",
    "counting": "a count is found inside longer numbers, and a right 0 counts nothing (OCRBench v2)",
}
"""What the originals do, by name."""

Compat = Collection[str]
"""Names of quirks to reproduce."""

PERIODS = 32
"""``re.UNICODE``, which the original of ``period_count`` passes as the number of periods."""


def chosen_quirks(names: Sequence[str] | None, relevant: Iterable[str]) -> frozenset[str]:
    """The quirks that are meant: none for ``None``, all relevant ones for an empty list.

    Args:
        relevant: quirks of the measures that are asked for.

    Raises:
        InputError: an unknown quirk, or one that none of the measures has.
    """
    if names is None:
        return frozenset()
    had = set(relevant)
    known = [name for name in QUIRKS if name in had]
    for name in names:
        if name not in QUIRKS:
            raise InputError(f"no quirk {name!r}{closest(name, QUIRKS)}; there are: {', '.join(QUIRKS)}")
    idle = next((name for name in names if name not in known), "")
    if idle or not known:
        has = ", ".join(known) or "no quirk of an original"
        raise InputError(f"{f'--compat {idle}'.strip()} changes nothing: the measures have {has}")
    return frozenset(names or known)
