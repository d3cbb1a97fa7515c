"""Lines of a picture and the text in it: word recognition sets, ReCTS, HME100K."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from polylens.errors import InputError
from polylens.generation.formats.entries import Entry, Peek, line_entries
from polylens.generation.formats.items import Item, QuestionFormat

READ = "what is written in the image?"
READ_CHINESE = "What are the Chinese characters in the image?"
READ_FORMULA = "Please write out the expression of the formula in the image using LaTeX format."
"""What is asked, in MultimodalOCR's words."""

_PICTURE = r"\S+\.(?:jpe?g|png|bmp|gif|webp|tiff?)"


def _words(question: str) -> Callable[[Entry], Iterator[Item]]:
    """Reads ``PICTURE TEXT``; as in the original the text ends at a blank."""

    def items(entry: Entry) -> Iterator[Item]:
        parts = entry.value.split()
        if len(parts) < 2:
            raise InputError(f"{entry.where}: a line is a picture, a blank and the text in it, not {entry.raw!r:.80}")
        yield Item(parts[0], parts[0], question, parts[1], entry.where)

    return items


def _formulas(entry: Entry) -> Iterator[Item]:
    """Reads ``PICTURE<tab>LATEX``; as in the original the line break is part of the formula."""
    parts = entry.value.split("\t")
    if len(parts) < 2 or not parts[0].strip():
        raise InputError(f"{entry.where}: a line is a picture, a tab and a formula, not {entry.raw!r:.80}")
    yield Item(parts[0], parts[0], READ_FORMULA, parts[1], entry.where)


def _has_words(peek: Peek) -> bool:
    """ReCTS and the other sets look alike, so that both fit, and the user says which it is."""
    return re.match(rf"{_PICTURE} +\S", peek.line, re.IGNORECASE) is not None


OCR = QuestionFormat(
    name="ocr",
    about="test_label.txt of IIIT5K, svt, IC13_857, IC15_1811, svtp, ct80, cocotext, ctw, totaltext, HOST, WOST, "
    "WordArt",
    fits=_has_words,
    entries=line_entries,
    items=_words(READ),
)
RECTS = QuestionFormat(
    name="ReCTS",
    about="test_label.txt of ReCTS",
    fits=_has_words,
    entries=line_entries,
    items=_words(READ_CHINESE),
    pictures="crops",
)
HME = QuestionFormat(
    name="HME",
    about="test_labels.txt of HME100K",
    fits=lambda peek: re.match(rf"{_PICTURE}\t", peek.line, re.IGNORECASE) is not None,
    entries=line_entries,
    items=_formulas,
    pictures="test_images",
)
