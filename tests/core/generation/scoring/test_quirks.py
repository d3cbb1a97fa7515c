"""Every quirk of an original: what it does there, and what is right."""

from __future__ import annotations

import pytest

from polylens.errors import InputError
from polylens.generation.scoring.measures import BENCHMARK_MEASURES
from polylens.generation.scoring.quirks import QUIRKS, chosen_quirks

CASES = [
    # quirk, measure, answer, references, as the original scores it, right
    ("empty_reference", "vqa_words", "surely", ["the"], 1, 0),
    ("empty_reference", "vqa_words", "the letter is A", ["a"], 1, 1),
    ("empty_reference", "vqa_words", "", ["a"], 0, 0),
    ("empty_reference", "vqa_words", "", [""], 0, 1),
    ("empty_reference", "vqa_words", "?!", ["?"], 0, 1),
    ("empty_reference", "ocr_words", "hello", ["!!"], 1, 0),
    ("empty_reference", "ocr_words", "it says !!", ["!!"], 1, 1),
    ("empty_reference", "ocr_words", "", [""], 0, 1),
    ("empty_reference", "han_text", "nothing", ["abc"], 1, 0),
    ("empty_reference", "han_text", "", ["abc"], 1, 0),
    ("empty_reference", "han_text", "it is abc", ["abc"], 1, 1),
    ("empty_reference", "formula", "x + 1", [" "], 1, 0),
    ("empty_reference", "textvqa_accuracy", "", ["a"] * 10, 1, 0),
    ("empty_reference", "textvqa_accuracy", "A", ["a"] * 10, 1, 1),
    ("empty_reference", "stvqa_accuracy", "the", ["an"], 1, 0),
    ("empty_reference", "ocrbench", "anything", [""], 1, 0),
    ("empty_reference", "ocrbench", "", [""], 1, 1),
    ("empty_reference", "ocrbench_formula", "x", ["\n"], 1, 0),
    ("empty_reference", "ocrbench_chinese_formula", "x", ["\\text{ }"], 1, 0),
    ("empty_reference", "ocrbench_v2", "anything", [""], 1, 0),
    ("empty_reference", "ocrbench_v2_case", "anything", [""], 1, 0),
    ("empty_reference", "ocrbench_v2_chinese", "anything", [" "], 1, 0),
    ("word_boundary", "vqa_words", "I paid $7 for it", ["$7"], 0, 1),
    ("word_boundary", "vqa_words", "about 25% of them", ["25%"], 0, 1),
    ("word_boundary", "vqa_words", "$70", ["$7"], 0, 0),
    ("word_boundary", "vqa_words", "US$7", ["$7"], 1, 1),
    ("period_count", "vqa_words", "." * 32 + "a.m.", ["am"], 0, 1),
    ("period_count", "textvqa_accuracy", "x." * 33, ["x" * 33] * 10, 0, 1),
    ("period_count", "stvqa_accuracy", "x." * 33, ["x" * 33], 0, 1),
    ("narrow_letters", "ocr_words", "Größe", ["größe"], 1, 1),
    ("narrow_letters", "ocr_words", "Größe", ["Gre"], 1, 0),
    ("narrow_letters", "ocr_words", "stop", [" stop"], 0, 1),
    ("narrow_letters", "ocr_words", "cafe\u0301", ["café"], 0, 1),
    ("narrow_letters", "han_text", "\u9fa6\u4e2d", ["\u4e2d"], 1, 1),
    ("narrow_letters", "han_text", "\u4e2d", ["\u9fa6\u4e2d"], 1, 0),
    ("inclusive_threshold", "stvqa_anls", "ab", ["ac"], 0.5, 0),
    ("inclusive_threshold", "stvqa_anls", "abc", ["abd"], 2 / 3, 2 / 3),
    ("long_strings", "ocrbench_v2_case", "one two three four five", "one two three four five", 0, 1),
    ("long_strings", "ocrbench_v2_case", "abcd", "abce", 0.75, 0),
    ("long_strings", "ocrbench_v2_case", "abcd", ["abce"], 0, 0),
    ("long_strings", "ocrbench_v2_chinese", "1,2,3,4", "1,2,3,4", 0, 1),
    ("long_strings", "ocrbench_v2_chinese", "1,2,3", "1,2,4", 0.8, 0),
    ("counting", "ocrbench_v2_count", "there are 12", ["2"], 1, 0),
    ("counting", "ocrbench_v2_count", "there are 2.", ["2"], 1, 1),
    ("counting", "ocrbench_v2_number", "0 words", ["0"], 0, 1),
    ("counting", "ocrbench_v2_number", "9 words", ["10"], 0.9, 0.9),
]


@pytest.mark.parametrize(("quirk", "measure", "answer", "references", "original", "right"), CASES)
def test_both_ways(quirk, measure, answer, references, original, right):
    found = BENCHMARK_MEASURES[measure]
    assert found.score(answer, references, frozenset(QUIRKS)) == pytest.approx(original)
    assert found.score(answer, references, ()) == pytest.approx(right)
    if original != right:
        assert found.score(answer, references, {quirk}) == pytest.approx(original)


def test_every_quirk_of_every_measure_is_tried():
    tried = {(quirk, measure) for quirk, measure, *_ in CASES}
    assert tried == {(quirk, name) for name, measure in BENCHMARK_MEASURES.items() for quirk in measure.quirks}
    assert {quirk for quirk, _ in tried} == set(QUIRKS)


def test_quirks_are_chosen_by_name():
    of_vqa = BENCHMARK_MEASURES["vqa_words"].quirks
    assert chosen_quirks(None, of_vqa) == frozenset()
    assert chosen_quirks([], of_vqa) == set(of_vqa)
    assert chosen_quirks(["period_count"], of_vqa) == {"period_count"}
    with pytest.raises(InputError, match=r"no quirk 'empty_refrence' \(did you mean 'empty_reference'\?\)"):
        chosen_quirks(["empty_refrence"], of_vqa)
    with pytest.raises(InputError, match="--compat counting changes nothing: the measures have empty_reference, word"):
        chosen_quirks(["counting"], of_vqa)
    with pytest.raises(InputError, match="the measures have no quirk of an original"):
        chosen_quirks(["counting"], ())
    with pytest.raises(InputError, match="--compat changes nothing: the measures have no quirk of an original"):
        chosen_quirks([], ())
