"""Normalisation of answers as VQA's evaluation does it (Antol et al. 2015, arXiv 1505.00468), in its two variants."""

from __future__ import annotations

import re

from polylens.generation.scoring.quirks import PERIODS, Compat

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}

_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, letter in enumerate(word) if letter == "'"]


_CONTRACTIONS = {written: word for word in _CONTRACTED.split() for written in _without_one_apostrophe(word)} | {
    "somebody'd": "somebodyd",
}
"""Contractions that lack one apostrophe, and how they are written; the last stands the wrong way round there too."""


def vqa_text(text: str, compat: Compat = (), *, articles: bool = False) -> str:
    """As MultimodalOCR normalises answers and references: punctuation, digits, articles, contractions.

    A sign of punctuation becomes a blank; if it stands beside a blank somewhere, or the text has a number such as
    1,000, it is removed. Periods are removed unless a digit follows.

    Args:
        compat: ``period_count``.
        articles: keep them.

    >>> vqa_text("The camera's price: two-fifty!")
    "camera's price: 2 fifty"
    """
    text = re.sub(r"[\n\t]", " ", text).strip()
    return _words(_signs(text, compat), articles)


def evalai_text(text: str, compat: Compat = (), *, articles: bool = False) -> str:
    """As M4C, and LLaVA's TextVQA evaluation with it, normalise; arguments as for ``vqa_text``.

    Commas and question marks are removed first, and ``'s`` is a word of its own.

    >>> evalai_text("The camera's 1,000 dollars?")
    "camera 's 1000 dollars"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return vqa_text(text, compat, articles=articles)


def _signs(text: str, compat: Compat) -> str:
    thousands, made = _THOUSANDS.search(text) is not None, text
    for sign in _PUNCTUATION:
        alone = thousands or f"{sign} " in text or f" {sign}" in text
        made = made.replace(sign, "" if alone else " ")
    return _PERIOD.sub("", made, count=PERIODS if "period_count" in compat else 0)


def _words(text: str, articles: bool) -> str:
    words = [_DIGITS.get(word, word) for word in text.lower().split()]
    kept = [word for word in words if articles or word not in _ARTICLES]
    return " ".join(_CONTRACTIONS.get(word, word) for word in kept)
