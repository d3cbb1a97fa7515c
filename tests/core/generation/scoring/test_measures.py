"""Measures of benchmarks against their definitions, written out, and what holds of every text."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polylens.errors import InputError
from polylens.generation.scoring.measures import BENCHMARK_MEASURES, benchmark_scores
from polylens.generation.scoring.quirks import QUIRKS
from polylens.generation.scoring.vqa_text import evalai_text, vqa_text

ALL = frozenset(QUIRKS)
SIGNS = ';/[]"{}()=+\\_-><@`,?!'
PIECES = [
    "the",
    "a",
    "two",
    "10",
    "1,000",
    "3.5",
    "$5",
    "10%",
    "dont",
    "it's",
    "U.S.",
    "café",
    "中",
    "\n",
    "\t",
    " ",
    "'",
]
texts = st.lists(st.sampled_from([*PIECES, *SIGNS, "."]), max_size=8).map("".join) | st.text(max_size=12)
several = st.lists(texts, min_size=1, max_size=3)
compats = st.sets(st.sampled_from(sorted(QUIRKS)))


@given(texts, st.booleans())
def test_nothing_that_does_not_count_is_left(text, original):
    for normalise in (vqa_text, evalai_text):
        made = normalise(text, ALL if original else ())
        assert made == " ".join(made.split())
        assert made == made.lower()
        assert not set(made) & set(SIGNS)
        assert not {"a", "an", "the", "two", "ten"} & set(made.split())
        if not original:
            assert not re.search(r"\.(?!\d)", made)


@given(texts, texts)
def test_the_original_normalises_alike_up_to_32_periods(one, other):
    text = one + other
    for normalise in (vqa_text, evalai_text):
        assert normalise(text) == normalise(text, ALL)
        assert normalise(text).split() == [
            word for word in normalise(text, articles=True).split() if word not in ("a", "an", "the")
        ]


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Two-fifty, PLEASE", "2 fifty please"),
        ("two fifty", "2 fifty"),
        ("red/blue at 1,000", "redblue at 1000"),
        ("arent they? shouldntve", "aren't they shouldntve"),
        ("shouldnt've", "shouldn't've"),
        ("version 1.2. Done.", "version 1.2 done"),
        ("None of the 3", "0 of 3"),
    ],
)
def test_vqa_text(text, normal):
    assert vqa_text(text) == normal


@given(texts, several, compats)
def test_scores_are_of_zero_to_one_and_more_references_never_hurt(answer, references, compat):
    for name, measure in BENCHMARK_MEASURES.items():
        if name in ("textvqa_accuracy", "ocrbench_v2_number", "ocrbench_v2_choice"):
            continue
        found = measure.score(answer, references, compat)
        assert 0 <= found <= 1
        assert found == max(measure.score(answer, [one], compat) for one in references), name


@given(texts, compats)
def test_an_answer_matches_itself(text, compat):
    for name in ("stvqa_accuracy", "stvqa_anls", "formula", "han_text", "ocrbench", "ocrbench_formula", "ocrbench_v2"):
        assert BENCHMARK_MEASURES[name].score(text, [text], compat) == 1, name
    for name in ("vqa_words", "ocr_words"):
        assert BENCHMARK_MEASURES[name].score(text, [text], ()) == 1, name


@given(texts, several)
def test_words_that_the_original_finds_are_found(answer, references):
    wanted = [one for one in references if vqa_text(one)]
    if wanted and BENCHMARK_MEASURES["vqa_words"].score(answer, wanted, ALL):
        assert BENCHMARK_MEASURES["vqa_words"].score(answer, wanted, ())


@given(texts, st.lists(st.sampled_from(["red", "blue", "the", ""]), min_size=10, max_size=10), st.booleans())
def test_soft_accuracy(answer, references, original):
    """By leaving out one annotator after the other."""
    compat = ALL if original else ()
    said, given_ = answer_of(answer, compat), [answer_of(one, compat) for one in references]
    left = [sum(other == said for n, other in enumerate(given_) if n != out) for out in range(10)]
    expected = sum(min(1, agree / 3) for agree in left) / 10
    assert BENCHMARK_MEASURES["textvqa_accuracy"].score(answer, references, compat) == pytest.approx(expected)


def answer_of(text, compat):
    return evalai_text(text, compat) or ("" if compat else evalai_text(text, articles=True) or text.strip())


@pytest.mark.parametrize(("agree", "value"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_soft_accuracy_by_agreement(agree, value):
    references = ["red"] * agree + [f"colour {n}" for n in range(10 - agree)]
    assert BENCHMARK_MEASURES["textvqa_accuracy"].score("The Red.", references, ()) == pytest.approx(value)


def test_soft_accuracy_needs_ten_answers():
    with pytest.raises(InputError, match="soft accuracy is defined over 10 answers to a question, not 9"):
        benchmark_scores("textvqa_accuracy", ["red"], [["red"] * 9])


@given(texts, texts)
def test_long_references_of_ocrbench_v2_are_compared_by_distance(one, other):
    long = f"w x y z {other}"
    found = BENCHMARK_MEASURES["ocrbench_v2"].score(f"w x y z {one}", [long, "v"], ())
    assert found in (0, 1) or found >= 0.5
    if one.strip().lower() == other.strip().lower() and len(long.split()) > 4:
        assert found == 1


@pytest.mark.parametrize(
    ("name", "answer", "references", "value"),
    [
        ("ocrbench", "The sign: STOP\nnow", ["stop now"], 1),
        ("ocrbench", "st op", ["stop"], 0),
        ("ocrbench_formula", "$ a ^ {2} $", ["a^{2}"], 1),
        ("ocrbench_chinese_formula", "x=\\text{是}", ["x = 是"], 1),
        ("ocrbench_v2_chinese", "答案 是 红 色", ["红色"], 1),
        ("ocrbench_v2_chinese", "a,b,c,d", ["a,b,c,e"], 6 / 7),
        ("ocrbench_v2_choice", "(B).", ["B"], 1),
        ("ocrbench_v2_choice", "the answer is B", ["B"], 0),
        ("ocrbench_v2_count", "3 letters", ["3"], 1),
        ("ocrbench_v2_number", "about 7 or 8", ["10", "40"], 0.7),
        ("ocrbench_v2_number", "5", ["10"], 0),
        ("ocrbench_v2_number", "20", ["10"], 0),
        ("ocrbench_v2_number", "many", ["10"], 0),
        ("han_text", "图中是红色的", ["红色!"], 1),
        ("formula", "y = x ^ 2", ["x^2\n"], 1),
        ("stvqa_accuracy", "the two", ["2"], 1),
    ],
)
def test_scores_by_hand(name, answer, references, value):
    assert benchmark_scores(name, [answer], [references]) == [pytest.approx(value)]


def test_a_count_must_be_a_number():
    with pytest.raises(InputError, match="'many' is not a whole number"):
        benchmark_scores("ocrbench_v2_number", ["7"], [["many"]])
