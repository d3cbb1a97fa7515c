"""The closed forms of the chance level agree with simulated random rankings."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from polylens.errors import InputError
from polylens.retrieval.chance import chance_level


def score(order: tuple[int, ...], measure: str, depth: int) -> float:
    """The measure of one ranking, written from its definition; ``order`` holds the gain at each rank."""
    top = order[:depth]
    if measure == "R":
        return sum(gain > 0 for gain in top) / sum(gain > 0 for gain in order)
    if measure == "RR":
        return next((1 / rank for rank, gain in enumerate(top, 1) if gain > 0), 0.0)
    ideal = sorted(order, reverse=True)[:depth]
    dcg, best = (sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1)) for gains in (top, ideal))
    return dcg / best


@pytest.mark.parametrize("measure", ["nDCG", "R", "RR"])
@pytest.mark.parametrize("gains", [(1,), (1, 1), (3, 1), (2, 2, 1)])
@pytest.mark.parametrize("documents", [3, 6])
@pytest.mark.parametrize("depth", [1, 4, 10])
def test_equals_the_mean_over_all_orders(measure: str, gains: tuple[int, ...], documents: int, depth: int) -> None:
    corpus = gains + (0,) * (documents - len(gains))
    orders = itertools.permutations(corpus)
    expected = np.mean([score(order, measure, depth) for order in orders])
    qrels = {"q": {f"d{i}": gain for i, gain in enumerate(corpus)}}
    assert chance_level(qrels, documents, f"{measure}@{depth}") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", ["nDCG@10", "R@1", "R@10", "RR@10"])
def test_agrees_with_simulation_and_the_evaluator(measure: str) -> None:
    from polylens.retrieval.metrics import evaluate

    random = np.random.default_rng(7)
    documents = [f"d{i}" for i in range(60)]
    qrels = {
        f"q{i}": dict.fromkeys(random.choice(documents, 1 + i % 3, replace=False).tolist(), 1) for i in range(3000)
    }
    run = {query: dict(zip(documents, random.permutation(60).tolist(), strict=True)) for query in qrels}
    simulated = evaluate(qrels, run, (measure,))["mean"][measure]
    assert chance_level(qrels, 60, measure) == pytest.approx(simulated, abs=0.02)


def test_is_averaged_over_queries_and_counts_those_without_relevant_documents() -> None:
    qrels = {"one": {"a": 1}, "two": {"a": 1, "b": 1}, "none": {"a": 0}}
    assert chance_level(qrels, 10, "R@5") == pytest.approx((0.5 + 0.5 + 0) / 3)


@pytest.mark.parametrize(
    ("measure", "documents", "message"),
    [("ndcg@10", 5, "nDCG"), ("nDCG", 5, "nDCG@k"), ("R@0", 5, "R@k"), ("R@1", 1, "2 relevant documents")],
)
def test_refuses_what_it_cannot_compute(measure: str, documents: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chance_level({"q": {"a": 1, "b": 1}}, documents, measure)


def test_refuses_no_queries() -> None:
    with pytest.raises(InputError, match="at least one query"):
        chance_level({}, 5, "R@1")
