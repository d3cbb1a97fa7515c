"""Scores against their definitions, written out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.generation.text_scores import (
    ErrorRate,
    Normalisation,
    anls,
    character_error_rate,
    edit_distance,
    exact_match,
    word_error_rate,
    word_match,
)

texts = st.text("ab c水.", max_size=7).map(Normalisation())
several = st.lists(texts, min_size=1, max_size=3)


def levenshtein(one, other):
    """By the recursion that defines it."""
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return levenshtein(one[1:], other[1:])
    return 1 + min(levenshtein(one[1:], other), levenshtein(one, other[1:]), levenshtein(one[1:], other[1:]))


def normalised(one, other):
    return levenshtein(one, other) / max(len(one), len(other), 1)


@given(texts, several)
def test_edit_distance_anls_and_exact_match(answer, references):
    least = min(normalised(answer, reference) for reference in references)
    assert edit_distance(answer, references) == pytest.approx(least)
    assert anls(answer, references) == pytest.approx(1 - least if least < 0.5 else 0)
    assert exact_match(answer, references) == any(answer == reference for reference in references)


@given(st.lists(st.tuples(texts, several), min_size=1, max_size=3))
def test_error_rates(pairs):
    answers, references = [answer for answer, _ in pairs], [given for _, given in pairs]
    for measure, units in ((character_error_rate, list), (word_error_rate, str.split)):
        errors = length = 0
        for answer, given_ in pairs:
            split = [units(reference) for reference in given_]
            nearest = min(split, key=lambda reference: normalised(units(answer), reference))
            errors, length = errors + levenshtein(units(answer), nearest), length + len(nearest)
        assert measure(answers, references) == ErrorRate(errors, length)


@given(texts, several)
def test_word_match(answer, references):
    """By looking at every place in the answer."""

    def words(text):
        separated = "".join(f" {letter} " if letter == "水" else letter for letter in text)
        return "".join(letter if letter.isalnum() else " " for letter in separated).split()

    def holds(reference):
        said, wanted = words(answer), words(reference)
        if not wanted:
            return reference in answer if reference else not answer
        return any(said[start : start + len(wanted)] == wanted for start in range(len(said)))

    assert word_match(answer, references) == any(map(holds, references))


@pytest.mark.parametrize(
    ("answer", "reference", "matches"),
    [
        ("It is Red.", "red", True),
        ("It is redder.", "red", False),
        ("that costs $5, I think", "$5", True),
        ("that costs $50", "$5", False),
        ("about 10% of it", "10%", True),
        ("泵是红色的", "红色", True),
        ("泵是蓝色的", "红色", False),
        ("the pump", "the", True),
        ("new york city", "York City", True),
        ("york, new city", "York City", False),
        ("???", "?", True),
        ("", "", True),
        ("something", "", False),
    ],
)
def test_words_that_match(answer, reference, matches):
    assert word_match(answer, [reference]) == matches


def test_empty_texts():
    assert ErrorRate(3, 0).rate is None
    assert character_error_rate(["abc"], [[""]]) == ErrorRate(3, 0)
    assert character_error_rate(["abc", "ab"], [[""], ["ab"]]).rate == 1.5
    assert character_error_rate(["", ""], [["ab"], [""]]).rate == 1
    assert (edit_distance("", [""]), anls("", [""]), exact_match("", [""])) == (0, 1, 1)


def test_what_does_not_count():
    keep, case, all_ = Normalisation(), Normalisation(True), Normalisation(True, True)
    assert keep(" ﬁne\n １２\t") == "fine 12"
    assert keep("Straße, 5!") == "Straße, 5!"
    assert case("Straße, 5!") == "strasse, 5!"
    assert all_("Straße, 5!") == "strasse 5"
    for normalise, text in itertools.product((keep, case, all_), ("Ａ b ", "x\u00a0.Y")):
        assert normalise(normalise(text)) == normalise(text)
